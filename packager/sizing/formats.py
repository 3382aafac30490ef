"""What one number takes: a parameter by how it is quantized, a key or value by the cache's format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one number, by the name of its format."""

_BNB = (
    "bitsandbytes 0.50.2, functional.py quantize_4bit: blocks of 64, a float32 each; compress_statistics: blocks of 256"
)
_BNB_KEPT = "transformers 5.23.0, integrations/bitsandbytes.py: nn.Linear alone, without lm_head"
_GPTQ = "GPTQModel, nn_modules/qlinear: a float16 scale and a packed zero point for each group of a column"
_FP8 = "vllm 0.32.0, fp8.py: a scale for each matrix or block; embeddings and lm_head stay"
_FP4 = "OCP Microscaling Formats 1.0: 32 numbers share 8 bits; NVFP4: 16 numbers share 8 bits"
_TRT = (
    "TensorRT-LLM 1.2, quantization/quantize.py quantize_layers: linear layers and experts, without lm_head, embedding and "
    "routers; quantization/layers.py: a 16-bit scale for each column"
)
_TRT_GROUPS = (
    "TensorRT-LLM 1.2, quantization/layers.py: groups of 128 share a 16-bit scale, in GPTQ a 16-bit zero point too"
)
_CT2 = "CTranslate2 docs/quantization.md: all linear and embedding weights; a float32 for each row"


@dataclass(frozen=True, slots=True)
class Width:
    """Bits of one parameter of a quantized matrix, with its share of scales and zero points, and which matrices those are.

    `linear` are those of attention and MLP, `experts` those of a mixture of experts, `ends` embedding and lm_head.
    What is not quantized stays in the format that the model computes in. `source` says who says so; `estimate` why it is
    no more than an estimate.
    """

    bits: float
    source: str
    linear: bool = True
    experts: bool = True
    ends: bool = False
    estimate: str = ""


INT8 = Width(8, _BNB_KEPT, experts=False)
_FOUR = Width(4 + 32 / 64, f"{_BNB}; {_BNB_KEPT}", experts=False)
_FOUR_DOUBLE = Width(4 + 8 / 64 + 32 / (64 * 256), f"{_BNB}; {_BNB_KEPT}", experts=False)
_EIGHT_FLOAT = Width(8, _FP8)
_GROUP, _MOST_BITS = 128, 16
_TRT_WORDS = {"int8": "w8a16", "int4": "w4a16", "awq": "w4a16_awq", "gptq": "w4a16_gptq"}
_TRT_WIDTHS = {
    "w8a16": Width(8, _TRT),
    "w4a16": Width(4, _TRT),
    "w4a16_awq": Width(4 + 16 / _GROUP, _TRT_GROUPS),
    "w4a16_gptq": Width(4 + 32 / _GROUP, _TRT_GROUPS),
}


def width_at_load(engine: str, word: str, *, double: bool = False) -> Width | None:
    """What the engine makes of plain weights for a word of `quantization`; None where it stays as it is.

    Of a compiled engine it is what was compiled in. transformers keeps experts as they are: they are no nn.Linear
    there. For `awq` and `gptq`, which no engine makes when it loads, it is what such weights usually are: 4 bits, in
    groups of 128.
    """
    match engine, word:
        case "ctranslate2", "int8" | "int8_float32" | "int8_float16" | "int8_bfloat16":
            return Width(8, _CT2, ends=True)
        case "tensorrt_llm_engine" | "tensorrt_llm", "int8" | "int4" | "awq" | "gptq":
            return _TRT_WIDTHS[_TRT_WORDS[word]]
        case _, "int8":
            return INT8
        case _, "int4" | "nf4":
            return _FOUR_DOUBLE if double else _FOUR
        case _, "fp8":
            return _EIGHT_FLOAT
        case _, "awq" | "gptq":
            return grouped(4, _GROUP)
    return None


def width_of_weights(quantization: str, said: Mapping[str, Any]) -> Width | None:
    """What weights take that are quantized already; None for a method whose rule is not known here.

    `quantization` is `METHOD` or `METHOD:KIND` (lock/model.py), `said` the `quantization_config` of their config.json.
    """
    method, _, kind = quantization.partition(":")
    match method:
        case "bitsandbytes":
            double = bool(said.get("bnb_4bit_use_double_quant"))
            return INT8 if kind == "int8" else _FOUR_DOUBLE if double else _FOUR
        case "awq" | "auto_awq" | "awq_marlin" | "gptq" | "auto_gptq" | "gptq_marlin":
            return grouped(_number(said.get("bits"), 4), _number(said.get("group_size"), _GROUP))
        case "fp8" | "fbgemm_fp8":
            return _EIGHT_FLOAT
        case "mxfp4" | "gpt_oss_mxfp4":
            return Width(4 + 8 / 32, _FP4, linear=False)
        case "modelopt" if kind in ("fp8", "nvfp4"):
            return _EIGHT_FLOAT if kind == "fp8" else Width(4 + 8 / 16, _FP4)
        case "modelopt" if kind in _TRT_WIDTHS:
            return _TRT_WIDTHS[kind]
        case "compressed-tensors":
            return _compressed(kind, said)
    return None


def is_unpacked(engine: str, quantization: str, capability: int | None) -> bool:
    """Whether the engine makes 16 bits of such weights when it loads them, on a GPU of ten times that capability or on CPU.

    transformers 5.23.0, quantizers/quantizer_finegrained_fp8.py validate_environment.
    """
    return engine == "transformers" and quantization == "fp8" and (capability is None or capability < 89)


def grouped(bits: int, group: int) -> Width | None:
    """Integers of so many bits that share a scale and a zero point; a `group` of -1 is a whole column.

    None for bits that no such integer has.
    """
    if not 0 < bits <= _MOST_BITS:
        return None
    return Width(bits + ((16 + bits) / group if group > 0 else 0), _GPTQ)


def _compressed(kind: str, said: Mapping[str, Any]) -> Width | None:
    if kind == "nvfp4-pack-quantized":
        return Width(4 + 8 / 16, _FP4)
    groups = said.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return _EIGHT_FLOAT if kind == "float-quantized" else None
    bits, group = _number(weights.get("num_bits"), 8), _number(weights.get("group_size"), -1)
    if not 0 < bits <= _MOST_BITS:
        return None
    return Width(bits + (16 / group if group > 0 else 0), "compressed-tensors: a 16-bit scale for each group")


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """Bytes of one number in the key-value cache, and of what comes with each head's keys and each head's values."""

    number: float
    head: int = 0


CACHES: Mapping[str, Mapping[str, CacheFormat]] = {
    # ggml-common.h: blocks of 32 numbers and one float16
    "llama_cpp": {"f16": CacheFormat(2), "q8_0": CacheFormat(34 / 32), "q4_0": CacheFormat(18 / 32)},
    "vllm": {
        "bfloat16": CacheFormat(2),
        "fp8": CacheFormat(1),
        "fp8_e4m3": CacheFormat(1),
        "fp8_e5m2": CacheFormat(1),
        "int8_per_token_head": CacheFormat(1, 4),  # vllm 0.32.0, triton_attn.py customize_spec: a float32 after each
    },
    # lmdeploy 0.18.0, quant_policy 8 and 4: a 16-bit scale and zero point for each head of a token
    "lmdeploy": {
        "int8": CacheFormat(1, 4),
        "int4": CacheFormat(0.5, 4),
        "fp8": CacheFormat(1),
        "fp8_e5m2": CacheFormat(1),
    },
    # TensorRT-LLM 1.2: one scale for all of a layer; of nvfp4, 16 numbers share 8 bits
    "tensorrt_llm_engine": {"int8": CacheFormat(1), "fp8": CacheFormat(1)},
    "tensorrt_llm": {"fp8": CacheFormat(1), "nvfp4": CacheFormat(4.5 / 8)},
}
"""By engine and its own words; `auto` is 16 bits in llama.cpp, and what the model computes in elsewhere."""
