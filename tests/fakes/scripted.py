"""A real GGUF model that says one thing, whatever it is asked: the tokens of a script, one after the other.

Its layers add nothing, so that what comes next hangs on the last token alone: embeddings are unit vectors, and the
row of a token in the output matrix points to the token before it. The script begins after a prompt that ends in `:`.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

_CONTROLS = ("<unk>", "<s>", "</s>")
_END = 2

TOOL_TEMPLATE = """\
{%- if tools %}system: <tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>
Call with <tool_call>{"name": ..., "arguments": ...}</tool_call>
{% endif %}
{%- for message in messages %}
{%- if message.role == "assistant" and message.tool_calls %}assistant:
{%- for tool_call in message.tool_calls %}
<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
{% elif message.role == "tool" %}user: <tool_response>
{{ message.content }}
</tool_response>
{% else %}{{ message.role }}: {{ message.content }}
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""


def write_scripted_gguf(path: Path, script: Sequence[str], *, chat_template: str | None = TOOL_TEMPLATE) -> Path:
    """Write the model; the pieces of `script` differ from each other and are its tokens, beside the 256 bytes."""
    pieces = [piece.replace(" ", "\u2581") for piece in script]
    tokens = [*_CONTROLS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    width = -(-len(tokens) // 32) * 32
    writer = GGUFWriter(path, "llama")
    writer.add_name("scripted")
    writer.add_context_length(1024)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END)
    writer.add_unk_token_id(0)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    colon, first = len(_CONTROLS) + ord(":"), len(_CONTROLS) + 256
    _add_tensors(writer, width, len(tokens), [colon, *range(first, first + len(pieces)), _END])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: GGUFWriter, width: int, vocabulary: int, chain: list[int]) -> None:
    embeddings = np.eye(vocabulary, width, dtype=np.float32)
    output = np.zeros((vocabulary, width), np.float32)
    for token, following in pairwise(chain):
        output[following, token] = 2
    writer.add_tensor("token_embd.weight", embeddings)
    for name, shape in {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width)}.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float32))
    for name, shape in {"attn_output": (width, width), "ffn_gate": (32, width), "ffn_up": (32, width)}.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float32))
    writer.add_tensor("blk.0.ffn_down.weight", np.zeros((width, 32), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
