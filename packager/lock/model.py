"""What the weights say of the model they are: the facts that engines and GPUs are checked against. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEYS, _LATENT = ("num_key_value_heads",), ("kv_lora_rank",)
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
_STRETCHES = ("linear", "dynamic")
"""Kinds of RoPE scaling whose `factor` comes on top of the length in config.json; with the others it is in it (vLLM
0.32.0, config/model.py _get_and_verify_max_len)."""
_PLAIN = ("default", "llama3", "longrope", "mrope", "su", "yarn", "deepseek_yarn")
_SCALED = "gemma3"
"""How the names of those begin whose length is scaled already, whatever the kind (the same function)."""
_MOST_FACTOR = 4096
"""JSON has Infinity; no model stretches its positions so far."""
_RULES = ("dynamic", "modules_in_block_to_quantize")
"""What GPTQModel quantizes otherwise than the rest, or alone."""
_BESIDE = re.compile(r"(lm_head|gate|router|norm)\$?$|vis|audio|embed")
"""Names of what is beside attention and MLP, and mostly not quantized."""
INNER = ("text_config", "llm_config", "language_config")
"""Where a model with eyes or ears keeps its language model's configuration."""
WHOLE = -1
"""As a group: a scale for each column of a matrix, which is AutoGPTQ's word for it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known without loading; empty or None is what the weights do not say.

    `architectures` are names in the words of the format: classes of transformers, a GGUF architecture, the kind of
    a CTranslate2 model. `quantization` is `METHOD` or `METHOD:KIND`, `dtype` the number format of the rest. `heads`
    are attention heads, `kv_heads` those of keys and values, where each head of a token is cached; `context` tokens that
    it was trained for. `group` is how many weights of a quantized model share a scale, or WHOLE; `cuts` are the inputs of
    each layer's last matrices that are quantized in such groups: tensor parallel divides these. `own_code` says that the
    weights bring the class that runs them.
    """

    architectures: tuple[str, ...] = ()
    quantization: str = ""
    dtype: str = ""
    heads: int | None = None
    context: int | None = None
    group: int | None = None
    kv_heads: int | None = None
    cuts: tuple[int, ...] = ()
    own_code: bool = False

    @property
    def method(self) -> str:
        """`bitsandbytes` of `bitsandbytes:nf4`."""
        return self.quantization.partition(":")[0]

    @property
    def kind(self) -> str:
        """`nf4` of `bitsandbytes:nf4`; empty where the method is all there is to say."""
        return self.quantization.partition(":")[2]


def facts_of_config(config: Mapping[str, Any]) -> ModelFacts:
    """The facts in the config.json of a transformers folder."""
    text = language_of(config)
    named = config.get("architectures")
    dtype = next((one for one in _values((config, text), ("dtype", "torch_dtype")) if isinstance(one, str)), "")
    return ModelFacts(
        architectures=tuple(one for one in named if isinstance(one, str)) if isinstance(named, list) else (),
        quantization=_quantization(config, text),
        dtype=dtype.removeprefix("torch."),
        heads=_number((config, text), _HEADS),
        kv_heads=None if _number((config, text), _LATENT) else _number((config, text), _KEYS),
        context=_context(config, text),
        group=_group(config, text),
        cuts=_cuts(config, text),
        own_code="AutoModelForCausalLM" in _mapping(config, "auto_map"),
    )


def language_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own configuration in that of a model with eyes or ears; empty where there is none."""
    return next((one for key in INNER if (one := _mapping(config, key))), {})


def facts_of_gguf(head: bytes) -> ModelFacts:
    """The facts in the header of a GGUF file, of which `head` are the first bytes: what it lacks is not said."""
    found = re.search(rb"\x14\0{7}general\.architecture\x08\0{3}(.)\0{7}", head, re.DOTALL)
    if found is None:
        return ModelFacts()
    name = head[found.end() : found.end() + found[1][0]]
    word = name + b".context_length"
    key = re.escape(len(word).to_bytes(8, "little") + word)
    context = re.search(key + rb"\x04\0{3}(.{4})", head, re.DOTALL)
    return ModelFacts(
        architectures=(name.decode(errors="replace"),),
        context=int.from_bytes(context[1], "little") if context else None,
    )


def facts_of_ctranslate2(head: bytes) -> ModelFacts:
    """The facts at the start of CTranslate2's model.bin: its binary version, then the kind of the model."""
    found = re.match(rb".\0{3}(.)\0([A-Za-z0-9]+)\0", head, re.DOTALL)
    if found is None or found[1][0] != len(found[2]) + 1:
        return ModelFacts()
    return ModelFacts(architectures=(found[2].decode(),))


def _said_of_quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> Mapping[str, Any]:
    keys = ("quantization_config", "compression_config")
    return next((one for one in _values((config, text), keys) if isinstance(one, Mapping)), {})


def _group(config: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    said = _said_of_quantization(config, text)
    # compressed-tensors has it in the first of its groups of layers
    layers = _mapping(_mapping(_mapping(said, "config_groups"), "group_0"), "weights")
    if layers.get("strategy") == "channel" or said.get("group_size") == WHOLE:
        return WHOLE
    # a block of FP8 is so many rows high, and so many inputs wide
    match said.get("weight_block_size"):
        case [_, int(wide)] if wide > 0:
            return wide
    return _number((said, layers), ("group_size", "q_group_size"))


def _cuts(config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[int, ...]:
    """Only where all such matrices are quantized alike: an exception may be the one that would not fit."""
    said, group = _said_of_quantization(config, text), _group(config, text)
    if group is None or group == WHOLE or _has_exceptions(said):
        return ()
    widths = (_attended(config, text), *_inner(config, text))
    return tuple(width for width in widths if width > group and width % group == 0)


def _has_exceptions(said: Mapping[str, Any]) -> bool:
    if any(said.get(key) for key in _RULES) or len(_mapping(said, "config_groups")) > 1:
        return True
    listed = (said.get("modules_to_not_convert"), said.get("ignore"))
    names = [name for one in listed if isinstance(one, list) for name in one]
    return not all(isinstance(name, str) and _BESIDE.search(name) for name in names)


def _attended(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    """Inputs of the attention's last matrix: what comes of its heads; 0 where that is not said."""
    places = (config, text)
    heads, hidden = _number(places, _HEADS) or 0, _number(places, ("hidden_size",)) or 0
    each = _number(places, ("v_head_dim",)) or _number(places, ("head_dim",)) or (heads and hidden // heads)
    return heads * each


def _inner(config: Mapping[str, Any], text: Mapping[str, Any]) -> Iterator[int]:
    """Inputs of an MLP's last matrix. Experts are not among them: vLLM makes their groups smaller (0.32.0, moe_wna16.py)."""
    places = (config, text)
    width = _number(places, ("intermediate_size",)) or 0
    if not any("expert" in key for place in places for key in place):
        yield width
        return
    yield _number(places, ("shared_expert_intermediate_size",)) or 0
    yield (_number(places, ("n_shared_experts",)) or 0) * (_number(places, ("moe_intermediate_size",)) or 0)
    yield width if _number(places, ("first_k_dense_replace",)) else 0


def _quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    said = _said_of_quantization(config, text)
    loads = bool(said.get("load_in_8bit") or said.get("load_in_4bit"))
    method = said.get("quant_method") or ("bitsandbytes" if loads else "")
    if not method and _number((_mapping(config, "quantization"),), ("bits",)):
        return "mlx"  # mlx-lm names no method, there and in the `quantization_config` beside it
    if not isinstance(method, str) or not method:
        return ""
    match method:
        case "bitsandbytes":
            kind = "int8" if said.get("load_in_8bit") else said.get("bnb_4bit_quant_type", "fp4")
        case "compressed-tensors":
            kind = said.get("format")
        case "modelopt":
            kind = said.get("quant_algo")
        case "awq":
            version = said.get("version", "unversioned")
            kind = _odd_bits(said) or (version if str(version).lower() != "gemm" else None)
        case "gptq":
            kind = "asymmetric" if said.get("sym") is False else _odd_bits(said)
            if said.get("desc_act") and said.get("group_size") != WHOLE:
                kind = kind or "desc_act"
        case _:
            kind = None
    return f"{method}:{kind.lower()}" if isinstance(kind, str) and kind else method


def _odd_bits(said: Mapping[str, Any]) -> str | None:
    """How many bits AWQ or GPTQ weights have that have not 4, as everybody's."""
    bits = _number((said,), ("bits", "w_bit"))
    return None if bits in (None, 4) else f"{bits}-bit"


def _context(config: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    length = _number((config, text), _CONTEXT)
    ropes = _values((config, text), ("rope_scaling", "rope_parameters"))
    rope = next((one for one in ropes if isinstance(one, Mapping)), {})
    names = _values((config, text), ("model_type",))
    if any(isinstance(one, str) and one.startswith(_SCALED) for one in names):
        return length
    kind, factor = rope.get("rope_type", rope.get("type", "default")), rope.get("factor")
    if length is None or not rope or kind in _PLAIN:
        # Parameters for each kind of layer lie one level deeper; they have no common factor.
        return None if any(isinstance(one, Mapping) for one in rope.values()) else length
    if kind not in _STRETCHES or not isinstance(factor, int | float) or not 0 < factor < _MOST_FACTOR:
        return None
    return int(length * factor)


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


def _values(places: tuple[Mapping[str, Any], ...], keys: tuple[str, ...]) -> Iterator[Any]:
    return (place[key] for place in places for key in keys if key in place)


def _number(places: tuple[Mapping[str, Any], ...], keys: tuple[str, ...]) -> int | None:
    found = (one for one in _values(places, keys) if isinstance(one, int) and not isinstance(one, bool) and one > 0)
    return next(found, None)
