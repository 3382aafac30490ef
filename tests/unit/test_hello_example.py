"""The committed hello model: small, standard, and the same model in both of its formats. Reads headers only; no engine runs."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import pytest

HELLO = Path(__file__).parents[2] / "examples" / "hello"
FOLDER = HELLO / "safetensors"
LIMIT = 16_000_000
"""Bytes of weights and tokenizer that the repository may carry."""

# GGUF's scalar kinds by number, as struct formats; 8 is a string and 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
F32, F16 = 0, 1


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return _string(file)
    if kind == 9:
        item = _scalar(file, "I")
        return [_value(file, item) for _ in range(_scalar(file, "Q"))]
    return _scalar(file, SCALARS[kind])


def _load_json(name: str) -> dict[str, Any]:
    value = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def gguf() -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The metadata of hello.gguf, and each tensor's number of elements and type; asserts that the file holds all of them."""
    path = HELLO / "hello.gguf"
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
        assert _scalar(file, "I") == 3
        tensors, pairs = _scalar(file, "Q"), _scalar(file, "Q")
        metadata = {}
        for _ in range(pairs):
            key = _string(file)
            metadata[key] = _value(file, _scalar(file, "I"))
        shapes: dict[str, tuple[int, int]] = {}
        end = 0
        for _ in range(tensors):
            name = _string(file)
            elements = math.prod(_scalar(file, "Q") for _ in range(_scalar(file, "I")))
            kind, offset = _scalar(file, "I"), _scalar(file, "Q")
            assert kind in (F32, F16), name
            shapes[name] = (elements, kind)
            end = max(end, offset + elements * (4 if kind == F32 else 2))
        data = -file.tell() % 32 + file.tell()
    assert path.stat().st_size >= data + end
    return metadata, shapes


@pytest.fixture(scope="module")
def safetensors() -> dict[str, dict[str, Any]]:
    """The tensors of model.safetensors by name, as its header tells them; asserts that the file holds exactly their bytes."""
    path = FOLDER / "model.safetensors"
    with path.open("rb") as file:
        size = _scalar(file, "Q")
        header: dict[str, Any] = json.loads(file.read(size))
    assert header.pop("__metadata__") == {"format": "pt"}
    assert path.stat().st_size == 8 + size + max(tensor["data_offsets"][1] for tensor in header.values())
    return header


def test_weights_stay_small() -> None:
    files = [HELLO / "hello.gguf", *FOLDER.iterdir()]
    assert {f.name for f in FOLDER.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    assert sum(f.stat().st_size for f in files) < LIMIT


def test_gguf_describes_a_llama(gguf: tuple[dict[str, Any], dict[str, tuple[int, int]]]) -> None:
    metadata, _ = gguf
    config = _load_json("config.json")
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.context_length"] == config["max_position_embeddings"]
    assert metadata["llama.embedding_length"] == config["hidden_size"]
    assert metadata["llama.feed_forward_length"] == config["intermediate_size"]
    assert metadata["llama.block_count"] == config["num_hidden_layers"]
    assert metadata["llama.attention.head_count"] == config["num_attention_heads"]
    assert metadata["llama.attention.head_count_kv"] == config["num_key_value_heads"]
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config["rms_norm_eps"])
    assert metadata["llama.rope.freq_base"] == pytest.approx(config["rope_theta"])


def test_config_is_a_standard_llama() -> None:
    config = _load_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["torch_dtype"] == "float16"
    # The widths that quantizers and attention kernels ask for.
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0
    assert config["head_dim"] == 64


def test_both_formats_hold_the_same_number_of_parameters(
    gguf: tuple[dict[str, Any], dict[str, tuple[int, int]]], safetensors: dict[str, dict[str, Any]]
) -> None:
    parameters = sum(math.prod(tensor["shape"]) for tensor in safetensors.values())
    assert 1_000_000 <= parameters <= 5_000_000
    assert {tensor["dtype"] for tensor in safetensors.values()} == {"F16"}
    _, shapes = gguf
    assert sum(elements for elements, _ in shapes.values()) == parameters
    assert len(shapes) == len(safetensors)
    assert all(kind == F32 for name, (_, kind) in shapes.items() if "norm" in name)


def test_both_formats_have_the_same_tokenizer(gguf: tuple[dict[str, Any], dict[str, tuple[int, int]]]) -> None:
    metadata, _ = gguf
    config, tokenizer, settings = (
        _load_json("config.json"),
        _load_json("tokenizer.json"),
        _load_json("tokenizer_config.json"),
    )
    tokens = metadata["tokenizer.ggml.tokens"]
    assert {token: number for number, token in enumerate(tokens)} == tokenizer["model"]["vocab"]
    assert len(tokens) == config["vocab_size"]
    assert metadata["tokenizer.ggml.merges"] == [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    for kind in ("bos", "eos"):
        number = config[f"{kind}_token_id"]
        assert (
            metadata[f"tokenizer.ggml.{kind}_token_id"]
            == number
            == _load_json("generation_config.json")[f"{kind}_token_id"]
        )
        assert tokens[number] == settings[f"{kind}_token"] == _load_json("special_tokens_map.json")[f"{kind}_token"]
    # Neither side adds a token to a prompt: the Hugging Face tokenizer has no step that would.
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert tokenizer["post_processor"] is None


def test_both_formats_have_the_same_chat_template(gguf: tuple[dict[str, Any], dict[str, tuple[int, int]]]) -> None:
    metadata, _ = gguf
    template = _load_json("tokenizer_config.json")["chat_template"]
    assert metadata["tokenizer.chat_template"] == template
    assert "add_generation_prompt" in template
