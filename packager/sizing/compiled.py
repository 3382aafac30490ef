"""A compiled engine's own config.json, in the words of a transformers model's, with what was compiled into it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SAME = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "dtype",
)
"""Keys of TensorRT-LLM 1.2's PretrainedConfig (models/modeling_utils.py) that transformers has, too."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What was compiled in: tokens of a request, tokens of prompts that are computed at once, and requests that are."""

    context: int
    piece: int
    requests: int


def config_of_engine(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The model's shapes in TensorRT-LLM's config.json; None for a config.json that is not TensorRT-LLM's."""
    said = config.get("pretrained_config")
    if not isinstance(said, Mapping):
        return None
    found = {key: said[key] for key in _SAME if key in said}
    name = str(said.get("architecture", ""))
    # One class of TensorRT-LLM's has all Qwens, and a key says which.
    found |= {"architectures": [name], "model_type": said.get("qwen_type") or name.removesuffix("ForCausalLM").lower()}
    if "head_size" in said:
        found["head_dim"] = said["head_size"]
    quantization = said.get("quantization")
    if isinstance(quantization, Mapping) and quantization.get("quant_algo"):
        found["quantization_config"] = {"quant_method": "modelopt", "quant_algo": quantization["quant_algo"]}
    return found


def limits_of_engine(config: Mapping[str, Any]) -> Limits | None:
    """The limits in TensorRT-LLM's config.json; None where it has none."""
    built = config.get("build_config")
    keys = ("max_seq_len", "max_num_tokens", "max_batch_size")
    said = [built.get(key) for key in keys] if isinstance(built, Mapping) else []
    found = [one for one in said if type(one) is int and one > 0]
    return Limits(*found) if len(found) == len(keys) else None
