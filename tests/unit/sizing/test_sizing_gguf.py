"""Shapes out of a GGUF header."""

from pathlib import Path

import pytest
from fakes.gguf import write_tiny_gguf

from packager.errors import SpecError
from packager.sizing.demand import measure, weights_bytes
from packager.sizing.gguf import config_of_gguf, width_of_gguf
from packager.sizing.parameters import count_parameters
from packager.sizing.shape import read_shape

HELLO = Path(__file__).resolve().parents[3] / "examples" / "hello"


def test_the_model_of_the_example():
    config = config_of_gguf((HELLO / "hello.gguf").read_bytes()[: 1 << 20])
    shape = read_shape(config, where="")
    assert (shape.name, shape.layers, shape.hidden, shape.kv_heads, shape.head_dim) == ("llama", 3, 256, 2, 64)
    assert (shape.vocabulary, config["max_position_embeddings"]) == (2048, 1024)


def test_a_vocabulary_that_only_its_tokens_tell(tmp_path):
    data = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    told = config_of_gguf(data)
    assert config_of_gguf(data.replace(b"llama.vocab_size", b"llama.vocab_sOze")) == told
    assert count_parameters(read_shape(told, where="")).embedding == 259 * 32


def test_what_is_no_gguf_file_says_nothing():
    assert config_of_gguf(b"") == {}
    assert config_of_gguf(b"PK" + (HELLO / "hello.gguf").read_bytes()[2:4096]) == {}


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mistral-7b-instruct-v0.2.Q4_K_M.gguf", 4.8944),
        ("*-q4_k_m.gguf", 4.8944),
        ("Llama-3.1-8B-Q4_K_S-00001-of-00003.gguf", 4.6672),
        ("model-IQ3_XXS.gguf", 3.2548),
        ("model-bf16.gguf", 16.0005),
    ],
)
def test_bits_by_the_name_of_a_file(name, bits):
    assert width_of_gguf(name).bits == bits


@pytest.mark.parametrize("name", ["model.gguf", "", "seq8_0.gguf", "Q4_K_MX.gguf"])
def test_names_that_say_nothing(name):
    assert width_of_gguf(name) is None


def test_a_file_that_is_published(demand):
    """TheBloke/Mistral-7B-Instruct-v0.2-GGUF: 4.37 GB, 5.13 GB and 7.70 GB."""
    for word, gigabytes in {"Q4_K_M": 4.37, "Q5_K_M": 5.13, "Q8_0": 7.70}.items():
        weights = f"weights: {{source: 'hf://a/b', file: mistral.{word}.gguf}}"
        asked = demand("mistral-7b-v0.2", "engine: {kind: llama_cpp}", weights=weights)
        assert weights_bytes(asked) == pytest.approx(gigabytes * 1e9, rel=0.02)
        assert asked.weights.loaded.estimate


def test_where_no_file_is_named_a_pattern_or_the_source_says_it(demand):
    by = ["{source: 'hf://a/b', include: ['*-q8_0.gguf']}", "{source: 'file://m-Q8_0.gguf'}"]
    sizes = [weights_bytes(demand("phi-2", "engine: {kind: llama_cpp}", weights=f"weights: {one}")) for one in by]
    assert sizes[0] == sizes[1] == pytest.approx(2779683840 * 8.5008 / 8, rel=0.01)


def test_files_that_are_there_say_it_better(demand):
    weights = "weights: {source: 'hf://a/b', file: m.Q8_0.gguf}"
    asked = demand("phi-2", "engine: {kind: llama_cpp}", weights=weights, files=123456789)
    assert (measure(asked).weights, asked.weights.loaded) == (123456789, None)


def test_a_name_that_says_nothing_is_refused(demand):
    with pytest.raises(SpecError, match="a GGUF file takes what its blocks take"):
        demand("phi-2", "engine: {kind: llama_cpp}", weights="weights: {source: 'hf://a/b', file: m.gguf}")


def test_a_name_that_is_longer_than_any():
    head = b"GGUF\x14" + bytes(7) + b"general.architecture\x08" + bytes(3) + b"\xff" + bytes(7) + b"a" * 255
    assert config_of_gguf(head) == {"model_type": "a" * 255}
