"""How the decoders of each family are built, as far as config.json does not say it: biases, norms, tied embeddings.

The names are transformers' `model_type`. The rows are compared with the models that transformers 5.23 builds from the
same configuration, parameter by parameter; those marked `of_its_own` are not in transformers, and are compared with a
model of the same shapes and with what their publishers count.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Family:
    """What is the same in all models of a family.

    `qkv_bias` and `out_bias` are the attention's biases where config.json does not say; `bias_key` is what says it.
    `gated` is an MLP of three matrices instead of two. `norms` are vectors as wide as the model in each layer, and one
    more after the last; with `norm_bias` each has a second one. `head_norms` normalizes each head's query and key.
    `tied` is the default of `tie_word_embeddings`. `sinks` are one number for each attention head. `expert_bias` gives
    routers and experts biases. `period` makes all layers but every `period`-th see a window of tokens only.
    `windowed` says whether `sliding_window` holds without a further word. `silent` is what the class in transformers has
    for what a configuration leaves out: those of models with eyes or ears are written without what is the class's own.
    """

    qkv_bias: bool = False
    out_bias: bool = False
    bias_key: str = ""
    mlp_bias: bool = False
    gated: bool = True
    norms: int = 2
    norm_bias: bool = False
    head_norms: bool = False
    head_bias: bool = False
    tied: bool = False
    sinks: bool = False
    expert_bias: bool = False
    shared_gate: bool = False
    period: int = 1
    windowed: bool = False
    of_its_own: bool = False
    silent: Mapping[str, int] = field(default_factory=dict)


_LLAMA = Family(bias_key="attention_bias")
_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "sliding_window",
)  # fmt: skip


def _silent(*numbers: int) -> Mapping[str, int]:
    """By `_KEYS`; 0 is none."""
    return {key: number for key, number in zip(_KEYS, numbers, strict=True) if number}


FAMILIES: Mapping[str, Family] = {
    "llama": Family(bias_key="attention_bias", silent=_silent(32000, 4096, 11008, 32, 32, 0, 0, 2048, 0)),
    "llama4_text": _LLAMA,
    "granite": _LLAMA,
    "mistral": Family(windowed=True, silent=_silent(32000, 4096, 14336, 32, 32, 8, 0, 131072, 4096)),
    "mixtral": Family(windowed=True),
    "ministral": Family(windowed=True),
    "qwen2": Family(qkv_bias=True, silent=_silent(151936, 4096, 22016, 32, 32, 32, 0, 32768, 0)),
    "qwen2_moe": Family(qkv_bias=True, shared_gate=True),
    "qwen3": Family(bias_key="attention_bias", head_norms=True),
    "qwen3_moe": Family(bias_key="attention_bias", head_norms=True),
    "phi": Family(qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norms=1, norm_bias=True, head_bias=True),
    "phi3": Family(windowed=True),
    "gemma": Family(
        bias_key="attention_bias", tied=True, silent=_silent(256000, 3072, 24576, 28, 16, 16, 256, 8192, 0)
    ),
    "gemma2": Family(
        bias_key="attention_bias",
        tied=True,
        norms=4,
        period=2,
        windowed=True,
        silent=_silent(256000, 2304, 9216, 26, 8, 4, 256, 8192, 4096),
    ),
    "gemma3_text": Family(
        bias_key="attention_bias",
        tied=True,
        norms=4,
        head_norms=True,
        period=6,
        windowed=True,
        silent=_silent(262208, 2304, 9216, 26, 8, 4, 256, 131072, 4096),
    ),
    "deepseek_v2": _LLAMA,
    "deepseek_v3": _LLAMA,
    "gpt_oss": Family(qkv_bias=True, out_bias=True, sinks=True, expert_bias=True, period=2, windowed=True),
    "baichuan": Family(of_its_own=True),
    "internlm": Family(bias_key="bias", of_its_own=True),
    "internlm2": Family(bias_key="bias", of_its_own=True),
}

UNKNOWN = _LLAMA
"""A family that has no row is counted as a Llama: an estimate."""
