"""A Llama of random weights, big enough that the engine works and not Python, with hello's tokenizer."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import ROOT
from safetensors.numpy import save_file

_TOKENIZER = ROOT / "examples/hello/safetensors"
_VOCABULARY, _HEAD = 2048, 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model: 1024, 2816 and 12 make 158 million parameters."""

    width: int = 1024
    hidden: int = 2816
    layers: int = 12
    context: int = 512


def write_model(folder: Path, shape: Shape) -> int:
    """Write it as 32-bit floats; gives the number of parameters."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(7)
    tensors = {name: draw.normal(0, 0.02, size).astype(np.float32) for name, size in _matrices(shape)}
    tensors |= {name: np.ones(shape.width, np.float32) for name in _norms(shape)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(shape)))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(_TOKENIZER / name, folder / name)
    return sum(tensor.size for tensor in tensors.values())


def _config(shape: Shape) -> dict[str, object]:
    heads = shape.width // _HEAD
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": _VOCABULARY,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": shape.context,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    }


def _matrices(shape: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "model.embed_tokens.weight", (_VOCABULARY, shape.width)
    yield "lm_head.weight", (_VOCABULARY, shape.width)
    for layer in range(shape.layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{layer}.self_attn.{name}.weight", (shape.width, shape.width)
        for name in ("gate_proj", "up_proj"):
            yield f"model.layers.{layer}.mlp.{name}.weight", (shape.hidden, shape.width)
        yield f"model.layers.{layer}.mlp.down_proj.weight", (shape.width, shape.hidden)


def _norms(shape: Shape) -> Iterator[str]:
    yield "model.norm.weight"
    for layer in range(shape.layers):
        yield f"model.layers.{layer}.input_layernorm.weight"
        yield f"model.layers.{layer}.post_attention_layernorm.weight"
