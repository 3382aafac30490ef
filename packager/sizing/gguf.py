"""The shapes of a model in a GGUF file, in the words of a config.json."""

import re
from collections.abc import Mapping
from typing import Any

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
    found = re.search(re.escape(bytes([len(key)]) + bytes(7) + key) + _NUMBER, head, re.DOTALL)
    return None if found is None else int.from_bytes(found[1], "little")
