"""Small real models of today's architectures: Hugging Face folders with random weights and hello's tokenizer.

Widths are multiples of 64 (bitsandbytes' block) and heads 32 wide (the least that vLLM's CPU attention has) unless said otherwise.
Written with numpy and safetensors alone, so that every engine's environment can make them.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOKENIZER = Path(__file__).resolve().parents[2] / "examples/hello/safetensors"
VOCABULARY, WIDTH, HIDDEN, LAYERS, HEAD = 2048, 128, 256, 2, 32
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "phi": "PhiForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
}
_GATED = ("llama", "mistral", "qwen2")


@dataclass(frozen=True)
class Size:
    """How large a model is: two layers of width 128, and heads 32 wide, unless said otherwise."""

    width: int = WIDTH
    hidden: int = HIDDEN
    layers: int = LAYERS
    head: int = HEAD

    @property
    def heads(self) -> int:
        return self.width // self.head


def write_model(
    folder: Path,
    shape: str = "llama",
    *,
    size: Size = Size(),
    context_length: int = 256,
    seed: int = 7,
    chat_template: bool = True,
) -> Path:
    """Write a model of the architecture `shape`, weights drawn from `seed`."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    # Far enough from zero that greedy choices do not hang on the last bit of a sum; wider sums have smaller terms.
    spread = 0.2 * (WIDTH / size.width) ** 0.5
    tensors = {}
    for name, dimensions in _tensors(shape, size):
        if name.endswith("norm.weight"):
            tensors[name] = np.ones(dimensions, np.float32)
        elif name.endswith(".bias"):
            tensors[name] = np.zeros(dimensions, np.float32)
        else:
            tensors[name] = draw.normal(0, spread, dimensions).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(shape, size, context_length), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}))
    shutil.copyfile(TOKENIZER / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((TOKENIZER / "tokenizer_config.json").read_text()) | {"model_max_length": context_length}
    if not chat_template:
        del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _config(shape: str, size: Size, context_length: int) -> dict[str, object]:
    config: dict[str, object] = {
        "architectures": [ARCHITECTURES[shape]],
        "model_type": shape,
        "dtype": "float32",
        "vocab_size": VOCABULARY,
        "hidden_size": size.width,
        "intermediate_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": context_length,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
    }
    if shape == "phi":
        return config | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5}
    if shape == "mistral":
        config["sliding_window"] = None
        config["head_dim"] = size.head
    if shape == "internlm2":
        config["bias"] = False
    return config | {"hidden_act": "silu", "rms_norm_eps": 1e-5}


def _tensors(shape: str, size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    if shape == "internlm2":
        yield from _internlm2(size)
        return
    yield "model.embed_tokens.weight", (VOCABULARY, size.width)
    for layer in range(size.layers):
        yield from ((f"model.layers.{layer}.{name}", dimensions) for name, dimensions in _layer(shape, size))
    if shape in _GATED:
        yield "model.norm.weight", (size.width,)
        yield "lm_head.weight", (VOCABULARY, size.width)
    else:
        yield "model.final_layernorm.weight", (size.width,)
        yield "model.final_layernorm.bias", (size.width,)
        yield "lm_head.weight", (VOCABULARY, size.width)
        yield "lm_head.bias", (VOCABULARY,)


def _layer(shape: str, size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, hidden = size.width, size.hidden
    output = "o_proj" if shape in _GATED else "dense"
    for name in ("q_proj", "k_proj", "v_proj", output):
        yield f"self_attn.{name}.weight", (width, width)
        if shape == "phi" or (shape == "qwen2" and name != output):
            yield f"self_attn.{name}.bias", (width,)
    yield "input_layernorm.weight", (width,)
    if shape in _GATED:
        for name in ("gate_proj", "up_proj"):
            yield f"mlp.{name}.weight", (hidden, width)
        yield "mlp.down_proj.weight", (width, hidden)
        yield "post_attention_layernorm.weight", (width,)
        return
    yield "input_layernorm.bias", (width,)
    for name, dimensions in (("fc1", (hidden, width)), ("fc2", (width, hidden))):
        yield f"mlp.{name}.weight", dimensions
        yield f"mlp.{name}.bias", dimensions[:1]


def _internlm2(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Queries, keys and values are one matrix, and most names are its own."""
    width, hidden = size.width, size.hidden
    yield "model.tok_embeddings.weight", (VOCABULARY, width)
    for layer in range(size.layers):
        place = f"model.layers.{layer}"
        yield f"{place}.attention.wqkv.weight", (3 * width, width)
        yield f"{place}.attention.wo.weight", (width, width)
        yield f"{place}.feed_forward.w1.weight", (hidden, width)
        yield f"{place}.feed_forward.w3.weight", (hidden, width)
        yield f"{place}.feed_forward.w2.weight", (width, hidden)
        yield f"{place}.attention_norm.weight", (width,)
        yield f"{place}.ffn_norm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "output.weight", (VOCABULARY, width)
