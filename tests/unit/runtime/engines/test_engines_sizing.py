"""What `packager plan` counts, against real models, caches and quantized tensors of the libraries themselves.

A model on torch's meta device has every parameter and takes no memory.
"""

import bitsandbytes.functional
import pytest
import torch
from fakes.configs import COUNTS, config_of
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from packager.sizing.cache import cache_format, token_bytes
from packager.sizing.families import FAMILIES
from packager.sizing.formats import width_at_load
from packager.sizing.shape import read_shape

_TINY = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 128, "pad_token_id": 0, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_EXPERTS = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2}


def built(config, device="meta"):
    """The model of a configuration. Those that transformers lacks are Llamas of the same shapes: their publishers' own
    classes name the same matrices otherwise (W_pack, wqkv, w1)."""
    kind = "llama" if read_shape(config, where="").family.of_its_own else config["model_type"]
    rest = {
        key: one for key, one in config.items() if key not in ("model_type", "architectures", "quantization_config")
    }
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **rest))


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters_and_linear_layers(name):
    model = built(config_of(name))
    linear = [
        one.weight.numel()
        for path, one in model.named_modules()
        if type(one) is torch.nn.Linear and path != "lm_head"  # a router of Llama 4 is a subclass
    ]
    assert COUNTS[name] == {"parameters": sum(one.numel() for one in model.parameters()), "linear": sum(linear)}


@pytest.mark.parametrize("name", sorted(name for name, family in FAMILIES.items() if family.silent))
def test_what_a_configuration_leaves_out(name):
    own = AutoConfig.for_model(name)
    assert {key: getattr(own, key) for key in FAMILIES[name].silent} == FAMILIES[name].silent


@pytest.mark.parametrize("name", ["gemma-2-9b", "gemma-3-1b", "gpt-oss-20b", "qwen3-8b", "qwen1.5-1.8b"])
def test_layers_that_see_a_window(name):
    config = config_of(name)
    kinds = built(config).config.layer_types
    assert [one is not None for one in read_shape(config, where="").windows] == [
        kind == "sliding_attention" for kind in kinds
    ]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mistral-7b-v0.2", _TINY | _HEADS),
        ("phi-2", _TINY | {"num_attention_heads": 4, "num_key_value_heads": 4}),
        ("gemma-2b", _TINY | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32}),
        (
            "deepseek-v2-lite",
            _TINY | _EXPERTS | {"num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 48},
        ),
    ],
)
def test_bytes_of_a_token_in_a_real_cache(name, changed):
    config = config_of(name) | changed
    model, cache = built(config, "cpu").to(torch.bfloat16).eval(), DynamicCache()
    tokens = 7
    with torch.no_grad():
        model(torch.arange(tokens).unsqueeze(0), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    shape = read_shape(config, where="")
    assert held == tokens * shape.layers * token_bytes(
        shape, cache_format("auto", engine="transformers", dtype="bfloat16"), 1
    )


@pytest.mark.parametrize("double", [False, True])
def test_bits_of_a_parameter_in_nf4(double):
    rows = columns = 1024
    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(rows, columns), quant_type="nf4", compress_statistics=double
    )
    held = packed.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
    width = width_at_load("transformers", "nf4", double=double)
    assert held * 8 / (rows * columns) == pytest.approx(width.bits, abs=1e-6)
