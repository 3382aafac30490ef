"""A real GGUF file of a tiny random Llama: bytes as tokens, a few hundred kilobytes, loads in milliseconds."""

import json
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
BAICHUAN_LAYERS = 40
"""llama.cpp tells Baichuan2-13B, whose attention knows places by ALiBi and not by rotation, by this number alone."""


def write_tiny_gguf(
    path: Path, *, architecture: str = "llama", layers: int = 2, context_length: int = 512, seed: int = 7
) -> Path:
    """Write the model: 256 byte tokens and three controls, layers of width 32, weights drawn from `seed`.

    With `architecture` baichuan and BAICHUAN_LAYERS it is a small Baichuan2-13B.
    """
    width, heads, hidden = 32, 4, 64
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, shape in _shapes(len(tokens), width, hidden, layers):
        writer.add_tensor(name, _draw(name, shape, seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(vocabulary: int, width: int, hidden: int, layers: int):
    yield "token_embd.weight", (vocabulary, width)
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", (width, width)
        yield f"blk.{layer}.ffn_gate.weight", (hidden, width)
        yield f"blk.{layer}.ffn_up.weight", (hidden, width)
        yield f"blk.{layer}.ffn_down.weight", (width, hidden)
        yield f"blk.{layer}.attn_norm.weight", (width,)
        yield f"blk.{layer}.ffn_norm.weight", (width,)
    yield "output_norm.weight", (width,)
    yield "output.weight", (vocabulary, width)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    values = np.random.default_rng([seed, *name.encode()]).normal(0, 0.5, shape).astype(np.float32)
    if name == "output.weight":
        values[:3] = 0  # controls never win by much: streams run to their limit
        values[3 : 3 + 0x21] = 0  # and control bytes neither: the text prints
        values[3 + 0x7F :] = 0
    return values


def write_gguf_of_qwen2(folder: Path, path: Path) -> Path:
    """The weights of the Qwen2 in `folder` (see fakes/models.py) in 32 bits, without a tokenizer."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        *place, module, kind = name.split(".")
        block = f"blk.{place[2]}." if len(place) > 2 else ""
        writer.add_tensor(f"{block}{_GGUF_NAMES[module]}.{kind}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_GGUF_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
