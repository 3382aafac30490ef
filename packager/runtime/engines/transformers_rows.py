"""Requests computed together: one batch of a causal language model, whose rows come and go.

Rows of different lengths are padded on the left, so that all end at the same column: what the library's own
`generate` does with a batch. Each forward takes the same number of tokens for every row.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_ROOM = 256
"""Columns that a layer grows by."""


class _Columns(DynamicLayer):
    """One layer's keys and values, `[rows, heads, columns, width]`, with room to grow in place.

    The library's own layer copies all of them for each token.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = (_grown(held, self.length, end) for held in (self.keys, self.values))
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def take(self, parts: Sequence[tuple["_Columns", Sequence[int]]], length: int) -> None:
        """Become the rows of `parts` (a layer, and which of its rows), `length` columns."""
        first = parts[0][0]
        self.lazy_initialization(first.keys, first.values)
        self.keys = _joined([(layer.keys, layer.length, rows) for layer, rows in parts], length)
        self.values = _joined([(layer.values, layer.length, rows) for layer, rows in parts], length)
        self.length = length


def _grown(held: torch.Tensor, length: int, end: int) -> torch.Tensor:
    grown = held.new_empty(*held.shape[:2], _roomy(end), held.shape[3])
    grown[:, :, :length] = held[:, :, :length]
    return grown


def _joined(parts: list[tuple[torch.Tensor, int, Sequence[int]]], length: int) -> torch.Tensor:
    count = sum(len(rows) for *_, rows in parts)
    heads, width = parts[0][0].shape[1], parts[0][0].shape[3]
    # Zeros: a masked column still multiplies its values, by 0.
    joined = parts[0][0].new_zeros(count, heads, _roomy(length), width)
    at = 0
    for held, end, rows in parts:
        common = min(end, length)
        index = torch.tensor(rows, device=held.device)
        joined[at : at + len(rows), :, length - common : length] = held[:, :, end - common : end].index_select(0, index)
        at += len(rows)
    return joined


def _roomy(columns: int) -> int:
    return -(-columns // _ROOM) * _ROOM


@dataclass(frozen=True, slots=True)
class Network:
    """The model, and what its forward takes.

    `joins` says whether requests can be rows of one batch: not with a state that is no list of columns
    (linear attention, Mamba); such a model computes one request at a time.
    """

    model: Any
    config: Any
    joins: bool
    takes: frozenset[str]

    @classmethod
    def of(cls, model: Any) -> "Network":
        config = model.config.get_text_config(decoder=True)
        layers = DynamicCache(config=config).layers
        joins = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
        return cls(model, config, joins, frozenset(inspect.signature(model.forward).parameters))

    def cache(self) -> Any:
        return Cache(layer_class_to_replicate=_Columns) if self.joins else DynamicCache(config=self.config)


class Rows:
    """Some rows, their cache, and how many tokens each has in it."""

    def __init__(self, network: Network, cache: Any | None = None, lengths: Sequence[int] = (0,)) -> None:
        self._network = network
        self._cache = network.cache() if cache is None else cache
        self.lengths = list(lengths)

    @torch.inference_mode()
    def forward(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Compute the next tokens of every row, as many for each; gives `[rows, vocabulary]` logits after the last."""
        count, width = len(tokens[0]), max(self.lengths)
        network, device = self._network, self._network.model.device
        words: dict[str, Any] = {"input_ids": torch.tensor(tokens, device=device), "use_cache": True}
        words["past_key_values"] = self._cache
        lengths = torch.tensor(self.lengths)[:, None]
        if "position_ids" in network.takes:
            words["position_ids"] = (lengths + torch.arange(count)).to(device)
        if min(self.lengths) < width:
            words["attention_mask"] = (torch.arange(width + count) >= width - lengths).long().to(device)
        if "logits_to_keep" in network.takes:
            words["logits_to_keep"] = 1
        logits: torch.Tensor = network.model(**words).logits[:, -1]
        self.lengths = [length + count for length in self.lengths]
        return logits

    def rewind(self) -> None:
        """Undo what a forward that failed half-way has written."""
        for layer in self._cache.layers:
            layer.length = max(self.lengths)

    @staticmethod
    @torch.inference_mode()
    def join(parts: Sequence[tuple["Rows", Sequence[int]]]) -> "Rows":
        """The named rows of each of `parts`, together."""
        network = parts[0][0]._network
        lengths = [rows.lengths[at] for rows, named in parts for at in named]
        cache = network.cache()
        for number in range(len(parts[0][0]._cache.layers)):
            layer = _Columns()
            layer.take([(rows._cache.layers[number], named) for rows, named in parts], max(lengths))
            cache.layers.append(layer)
        return Rows(network, cache, lengths)
