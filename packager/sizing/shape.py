"""The shapes of a decoder, as its config.json says them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SpecError
from ..lock.model import language_of
from .families import FAMILIES, UNKNOWN, Family

_ROUTED = ("num_local_experts", "n_routed_experts", "num_experts")
_DENSE = "intermediate_size_mlp"
"""Llama 4's word for layers without experts; with them, each has one more that all tokens take, as wide as the others."""
_MOST = 1 << 24
_MOST_LAYERS = 10_000
"""What counts as a number of anything, and of layers: a configuration with more is none of a model's."""


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: `rank` and `rope` numbers a token are cached, for all heads together.

    `query_rank` is 0 where queries are not compressed; `nope` is the part of a head that has no position.
    """

    rank: int
    rope: int
    nope: int
    query_rank: int


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: of `count` in a layer, each token takes `used`; `shared` is the width of what all take.

    `layers` are how many layers have them, `width` is the inner width of one.
    """

    count: int
    used: int
    width: int
    shared: int
    layers: int


@dataclass(frozen=True, slots=True)
class Shape:
    """One decoder. Widths and counts are numbers of a tensor's rows or columns.

    `name` is its model_type; `estimated` says why a count of its parameters is only an estimate, or is empty.
    `windows` has for each layer the tokens that it sees, None for all. `value_dim` is `head_dim` but for latent
    attention. `context` is what the model was trained for, where its class says it and the configuration does not.
    """

    name: str
    family: Family
    estimated: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    inner: int
    vocabulary: int
    biased: bool
    tied: bool
    windows: tuple[int | None, ...]
    latent: Latent | None
    experts: Experts | None
    context: int | None = None


def read_shape(config: Mapping[str, Any], *, where: str) -> Shape:
    """The shapes in the config.json of a transformers model. Raises SpecError naming what it lacks."""
    inner = language_of(config)
    whole = {**config, **inner}
    name = str(whole.get("model_type", ""))
    family = FAMILIES.get(name, UNKNOWN)
    silent = {key: one for key, one in family.silent.items() if key not in whole} if inner else {}
    said = _Config(whole | silent, where)
    layers = said.number("num_hidden_layers", "n_layer", most=_MOST_LAYERS)
    hidden = said.number("hidden_size", "n_embd")
    heads = said.number("num_attention_heads", "n_head")
    latent = _latent(said)
    head_dim = latent.nope + latent.rope if latent else said.count("head_dim") or hidden // heads
    return Shape(
        name=name,
        family=family,
        estimated=_doubt(name, beside=bool(inner)),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=said.count("num_key_value_heads") or heads,
        head_dim=head_dim,
        value_dim=said.count("v_head_dim") or head_dim,
        inner=said.number(_DENSE, "intermediate_size", "n_inner"),
        vocabulary=said.number("vocab_size"),
        biased=bool(said.values.get(family.bias_key, False)) if family.bias_key else False,
        tied=bool(said.values.get("tie_word_embeddings", family.tied)),
        windows=_windows(said, family, layers),
        latent=latent,
        experts=_experts(said, layers),
        context=silent.get("max_position_embeddings"),
    )


@dataclass(frozen=True, slots=True)
class _Config:
    values: Mapping[str, Any]
    where: str

    def count(self, *names: str, most: int = _MOST) -> int:
        """The first of these that is a number of things; 0 where none is."""
        found = (self.values.get(name) for name in names)
        return next((one for one in found if type(one) is int and 0 < one < most), 0)

    def number(self, *names: str, most: int = _MOST) -> int:
        """The same, where there has to be one."""
        if found := self.count(*names, most=most):
            return found
        mend = "put the config.json of the transformers model beside the spec"
        raise SpecError(f"this config.json does not say {names[0]}", where=self.where, mend=mend)


def _doubt(name: str, *, beside: bool) -> str:
    if name not in FAMILIES:
        return f"the family {name or 'without a name'} is counted as a Llama"
    return "only the language model is counted" if beside else ""


def _latent(said: _Config) -> Latent | None:
    rank = said.count("kv_lora_rank")
    if not rank:
        return None
    return Latent(rank, said.number("qk_rope_head_dim"), said.number("qk_nope_head_dim"), said.count("q_lora_rank"))


def _experts(said: _Config, layers: int) -> Experts | None:
    count = said.count(*_ROUTED)
    if not count:
        return None
    width = said.count("moe_intermediate_size") or said.number("intermediate_size")
    step = said.count("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step") or 1
    listed = said.values.get("mlp_only_layers")
    dense = listed if isinstance(listed, list) else []
    first = said.count("first_k_dense_replace")
    shared = said.count("shared_expert_intermediate_size") or said.count("n_shared_experts") * width
    # qwen2_moe, qwen3_moe and llama4 count from one, deepseek from zero; but for llama4 all have a step of one.
    routed = [one for one in range(first, layers) if one not in dense and (one + (not first)) % step == 0]
    return Experts(
        count=count,
        used=said.number("num_experts_per_tok", "experts_per_token"),
        width=width,
        shared=width if said.count(_DENSE) else shared,
        layers=len(routed),
    )


def _windows(said: _Config, family: Family, layers: int) -> tuple[int | None, ...]:
    window, kinds = said.count("sliding_window"), said.values.get("layer_types")
    if not window or not said.values.get("use_sliding_window", family.windowed):
        return (None,) * layers
    if isinstance(kinds, list) and len(kinds) == layers:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    period = said.count("sliding_window_pattern") or family.period
    if period > 1:
        return tuple(None if number % period == 0 else window for number in range(1, layers + 1))
    first = said.count("max_window_layers") if "use_sliding_window" in said.values else 0
    return tuple(window if number >= first else None for number in range(layers))
