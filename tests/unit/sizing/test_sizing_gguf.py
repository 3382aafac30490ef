"""Shapes out of a GGUF header."""

from pathlib import Path

from fakes.gguf import write_tiny_gguf

from packager.sizing.gguf import config_of_gguf
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
