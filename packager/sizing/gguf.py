"""GGUF files: the shapes of a model in the words of a config.json, and about how many bits a parameter has, by the file's name."""

import re
from collections.abc import Mapping
from typing import Any

from .formats import Width

_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.sliding_window": "sliding_window",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
}
_FAMILIES = {"gemma3": "gemma3_text", "phi2": "phi", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}
_NUMBER = rb"\x04\0{3}(.{4})"
_TOKENS = b"tokenizer.ggml.tokens"


def config_of_gguf(head: bytes) -> Mapping[str, Any]:
    """What a header says of shapes, of which `head` are the first bytes; empty for what is no GGUF file."""
    found = re.search(rb"\x14\0{7}general\.architecture\x08\0{3}(.)\0{7}", head, re.DOTALL)
    if found is None or not head.startswith(b"GGUF"):
        return {}
    name = head[found.end() : found.end() + found[1][0]]
    config: dict[str, Any] = {"model_type": _FAMILIES.get(name.decode(errors="replace"), name.decode(errors="replace"))}
    for key, word in _KEYS.items():
        if (value := _number(head, name + b"." + key.encode())) is not None:
            config[word] = value
    tokens = re.search(re.escape(_TOKENS) + rb"\x09\0{3}\x08\0{3}(.{8})", head, re.DOTALL)
    if tokens is not None:
        config.setdefault("vocab_size", int.from_bytes(tokens[1], "little"))
    return config


def _number(head: bytes, key: bytes) -> int | None:
    found = re.search(re.escape(len(key).to_bytes(8, "little") + key) + _NUMBER, head, re.DOTALL)
    return None if found is None else int.from_bytes(found[1], "little")


_BITS = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "IQ4_XS": 4.4597,
    "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "Q3_K_S": 3.6429,
    "Q3_K_L": 4.2979,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
    "F16": 16.0005,
    "BF16": 16.0005,
}
"""llama.cpp, tools/quantize/README.md: bits of a parameter of Llama 3.1 8B. Which matrices have how many bits differs by model."""
_NAMED = re.compile(rf"(?<![A-Z0-9_])({'|'.join(_BITS)})(?![A-Z0-9_])")


def width_of_gguf(name: str) -> Width | None:
    """What a parameter takes in a file (or a pattern of files) of this name; None where it does not say."""
    found = _NAMED.search(name.upper())
    if found is None:
        return None
    why = f"{found[1]} has so many in Llama 3.1 8B"
    return Width(_BITS[found[1]], "llama.cpp, tools/quantize/README.md", ends=True, estimate=why)
