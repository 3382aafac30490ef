"""Shapes and parameters, against what transformers builds of the same configuration.

`COUNTS` is what tests/unit/runtime/engines/test_engines_sizing.py counts in real torch models; it compares, too.
"""

import pytest
from fakes.configs import CONFIGS, COUNTS, config_of

from packager.errors import SpecError
from packager.sizing.families import FAMILIES
from packager.sizing.parameters import count_parameters
from packager.sizing.shape import read_shape


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_parameter_is_counted(name):
    counted = count_parameters(read_shape(config_of(name), where=name))
    assert counted.total == COUNTS[name]["parameters"]


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_the_matrices_that_quantizers_take(name):
    shape = read_shape(config_of(name), where=name)
    counted = count_parameters(shape)
    # The gate of qwen2_moe's shared expert is a matrix of one row, which is counted among what is kept.
    gates = shape.layers * shape.hidden if shape.family.shared_gate else 0
    assert counted.split + counted.whole + gates == COUNTS[name]["linear"]


def test_every_configuration_has_its_count_and_is_of_a_known_family():
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(COUNTS)
    assert {config_of(name)["model_type"] for name in COUNTS} <= set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("mixtral-8x7b", 12.88),
        ("qwen3-30b-a3b", 3.35),
        ("deepseek-v3", 37.55),
        ("llama-3-8b", 8.03),
        ("llama-4-scout", 17.17),
        ("llama-4-maverick", 17.19),
    ],
)
def test_parameters_that_one_token_meets(name, billions):
    """Mixtral's 12.9, Qwen3's 3.3, DeepSeek's 37 and Llama 4's 17 billion are what their publishers say."""
    assert count_parameters(read_shape(config_of(name), where=name)).active / 1e9 == pytest.approx(billions, abs=0.01)


def test_layers_that_see_a_window():
    windows = {name: read_shape(config_of(name), where=name).windows for name in COUNTS}
    assert windows["mistral-7b-v0.1"] == (4096,) * 32
    assert windows["mistral-7b-v0.2"] == (None,) * 32
    assert windows["qwen1.5-1.8b"] == (None,) * 24  # it names a window, and says that it is not used
    assert windows["gemma-2-9b"][:4] == (4096, None, 4096, None)
    assert windows["gemma-3-1b"][:7] == (512, 512, 512, 512, 512, None, 512)
    assert windows["gpt-oss-20b"][:2] == (128, None)


def test_the_upper_layers_of_a_qwen_that_uses_its_window():
    config = config_of("qwen1.5-1.8b") | {"use_sliding_window": True}
    assert read_shape(config, where="").windows == (None,) * 21 + (32768,) * 3


def test_a_family_without_a_row_is_an_estimate():
    shape = read_shape(config_of("llama-3-8b") | {"model_type": "novel"}, where="")
    assert shape.estimated == "the family novel is counted as a Llama"
    assert read_shape(config_of("llama-3-8b"), where="").estimated == ""


def test_a_model_with_eyes_is_sized_by_its_language_model():
    outer = {"model_type": "gemma3", "text_config": config_of("gemma-3-1b")}
    shape = read_shape(outer, where="")
    assert (shape.name, shape.layers, shape.estimated) == ("gemma3_text", 26, "only the language model is counted")


def test_what_the_configuration_of_a_language_model_within_leaves_out_is_its_classs_own():
    """As google/gemma-3-12b-it and the like are published: heads of 256 numbers, of which nothing is said."""
    text = {"model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48}
    text |= {"num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 1024}
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}}
    shape = read_shape(outer, where="")
    assert (shape.head_dim, shape.vocabulary, shape.tied, shape.context) == (256, 262208, True, 131072)
    assert count_parameters(shape).total == pytest.approx(11.77e9, rel=0.001)
    with pytest.raises(SpecError, match="does not say vocab_size"):
        read_shape(text, where="")  # by itself it would be written in full


def test_what_is_said_within_counts():
    text = config_of("mistral-7b-v0.2") | {"num_key_value_heads": 32}
    shape = read_shape({"model_type": "mistral3", "llm_config": text}, where="")
    assert (shape.kv_heads, shape.windows[0], shape.context) == (32, None, None)


@pytest.mark.parametrize(
    ("key", "odd"),
    [("num_hidden_layers", one) for one in (1 << 62, 10**7, True, -1, "32")] + [("hidden_size", 1 << 62)],
)
def test_numbers_that_are_none_of_a_models_are_not_said(key, odd):
    with pytest.raises(SpecError, match=f"does not say {key}"):
        read_shape(config_of("llama-3-8b") | {key: odd}, where="")


@pytest.mark.parametrize("odd", [3, "all", {}])
def test_layers_without_experts_that_are_no_list(odd):
    config = config_of("qwen3-30b-a3b")
    assert read_shape(config | {"mlp_only_layers": odd}, where="").experts == read_shape(config, where="").experts


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_what_a_configuration_lacks_is_named(key):
    config = config_of("llama-3-8b")
    del config[key]
    with pytest.raises(SpecError, match=f"does not say {key}") as caught:
        read_shape(config, where="here/config.json")
    assert caught.value.problems[0].where == "here/config.json"
