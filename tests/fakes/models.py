"""Small real models of today's architectures: Hugging Face folders with random weights and hello's tokenizer.

Widths are multiples of 64 (bitsandbytes' block) and heads 32 wide (the least that vLLM's CPU attention has).
Written with numpy and safetensors alone, so that every engine's environment can make them.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TOKENIZER = Path(__file__).resolve().parents[2] / "examples/hello/safetensors"
VOCABULARY, WIDTH, HIDDEN, LAYERS, HEADS, HEAD = 2048, 128, 256, 2, 4, 32
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "phi": "PhiForCausalLM",
}
_GATED = ("llama", "mistral", "qwen2")


def write_model(
    folder: Path, shape: str = "llama", *, context_length: int = 256, seed: int = 7, chat_template: bool = True
) -> Path:
    """Write a model of the architecture `shape`, two layers of width 128, weights drawn from `seed`."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    tensors = {}
    for name, size in _tensors(shape):
        if name.endswith("norm.weight"):
            tensors[name] = np.ones(size, np.float32)
        elif name.endswith(".bias"):
            tensors[name] = np.zeros(size, np.float32)
        else:
            # Far enough from zero that greedy choices do not hang on the last bit of a sum.
            tensors[name] = draw.normal(0, 0.2, size).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(shape, context_length), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}))
    shutil.copyfile(TOKENIZER / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((TOKENIZER / "tokenizer_config.json").read_text()) | {"model_max_length": context_length}
    if not chat_template:
        del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _config(shape: str, context_length: int) -> dict[str, object]:
    config: dict[str, object] = {
        "architectures": [ARCHITECTURES[shape]],
        "model_type": shape,
        "dtype": "float32",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
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
        config["head_dim"] = HEAD
    return config | {"hidden_act": "silu", "rms_norm_eps": 1e-5}


def _tensors(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        yield from ((f"model.layers.{layer}.{name}", size) for name, size in _layer(shape))
    if shape in _GATED:
        yield "model.norm.weight", (WIDTH,)
        yield "lm_head.weight", (VOCABULARY, WIDTH)
    else:
        yield "model.final_layernorm.weight", (WIDTH,)
        yield "model.final_layernorm.bias", (WIDTH,)
        yield "lm_head.weight", (VOCABULARY, WIDTH)
        yield "lm_head.bias", (VOCABULARY,)


def _layer(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    output = "o_proj" if shape in _GATED else "dense"
    for name in ("q_proj", "k_proj", "v_proj", output):
        yield f"self_attn.{name}.weight", (WIDTH, WIDTH)
        if shape == "phi" or (shape == "qwen2" and name != output):
            yield f"self_attn.{name}.bias", (WIDTH,)
    yield "input_layernorm.weight", (WIDTH,)
    if shape in _GATED:
        for name in ("gate_proj", "up_proj"):
            yield f"mlp.{name}.weight", (HIDDEN, WIDTH)
        yield "mlp.down_proj.weight", (WIDTH, HIDDEN)
        yield "post_attention_layernorm.weight", (WIDTH,)
        return
    yield "input_layernorm.bias", (WIDTH,)
    for name, size in (("fc1", (HIDDEN, WIDTH)), ("fc2", (WIDTH, HIDDEN))):
        yield f"mlp.{name}.weight", size
        yield f"mlp.{name}.bias", size[:1]
