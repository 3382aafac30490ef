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

ROOM = 256
"""Columns that a layer grows by."""


class _Columns(DynamicLayer):  # type: ignore[misc] # the library is not there for mypy
    """One layer's keys and values, `[rows, heads, columns, width]`, with room to grow in place.

    The library's own layer copies all of them for each token. This one serves layers with a sliding window too:
    it keeps the columns that have left the window, and the library's mask leaves them out.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.length = 0

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = _grown(self.keys, self.length, end), _grown(self.values, self.length, end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    @classmethod
    def joined(cls, parts: Sequence[tuple["_Columns", Sequence[int]]], length: int) -> "_Columns":
        """The rows of `parts` (a layer, and which of its rows) in one layer of `length` columns."""
        whole, (first, _) = cls(), parts[0]
        whole.lazy_initialization(first.keys, first.values)
        whole.keys = _joined([(layer.keys, layer.length, rows) for layer, rows in parts], length)
        whole.values = _joined([(layer.values, layer.length, rows) for layer, rows in parts], length)
        whole.length = length
        return whole


def _grown(held: Any, length: int, end: int) -> Any:
    grown = held.new_empty(*held.shape[:2], roomy(end), held.shape[3])
    grown[:, :, :length] = held[:, :, :length]
    return grown


def _joined(parts: list[tuple[Any, int, Sequence[int]]], length: int) -> Any:
    first = parts[0][0]
    # Zeros: what the mask leaves out is still multiplied, by 0, and must be a number.
    joined = first.new_zeros(sum(len(rows) for *_, rows in parts), first.shape[1], roomy(length), first.shape[3])
    at = 0
    for held, end, rows in parts:
        common = min(end, length)
        index = torch.tensor(rows, device=held.device)
        joined[at : at + len(rows), :, length - common : length] = held[:, :, end - common : end].index_select(0, index)
        at += len(rows)
    return joined


def roomy(columns: int) -> int:
    """The columns that a layer has memory for when it holds `columns`."""
    return -(-columns // ROOM) * ROOM


@dataclass(frozen=True, slots=True)
class Network:
    """The model, and what its forward takes.

    `joins` says whether requests can be rows of one batch. They cannot where a layer keeps more than columns of
    keys and values (linear attention, Mamba): such a model computes one request at a time, and its prompt at once.
    """

    model: Any
    joins: bool
    takes: frozenset[str]
    cache_word: str

    @classmethod
    def of(cls, model: Any) -> "Network":
        """Raises ValueError for a model that keeps its state in a way of its own."""
        takes = frozenset(inspect.signature(model.forward).parameters)
        words = [word for word in ("past_key_values", "cache_params") if word in takes]
        if not words:  # it would swallow the cache among its other words, and forget all tokens but the last
            raise ValueError(f"{type(model).__name__} takes no cache")
        layers = DynamicCache(config=model.config).layers
        joins = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
        return cls(model, joins, takes, words[0])

    @property
    def device(self) -> Any:
        return self.model.device

    def lost(self) -> str:
        """Why the device computes nothing any more, after a failure; empty when it does.

        An error inside a CUDA kernel (`device-side assert`) is the end of the process's context.
        """
        if self.device.type != "cuda":
            return ""
        try:
            torch.cuda.empty_cache()
            torch.ones(1, device=self.device).item()
        except torch.OutOfMemoryError:
            return ""
        except RuntimeError as error:
            return f"the GPU failed: {next(iter(str(error).splitlines()), '')}"
        return ""

    def cache(self) -> Any:
        if self.joins:
            return Cache(layer_class_to_replicate=_Columns)
        return DynamicCache(config=self.model.config)


class Rows:
    """Some rows, their cache, and how many tokens each has in it. New ones are one row without a token."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.cache = network.cache()
        self.lengths = [0]

    @classmethod
    def joined(cls, parts: Sequence[tuple["Rows", Sequence[int]]]) -> "Rows":
        """The rows of `parts` (some rows, and which of them) together. What `parts` hold is lost."""
        whole = cls(parts[0][0].network)
        whole.lengths = [rows.lengths[at] for rows, named in parts for at in named]
        with torch.inference_mode():
            # Layer by layer, so that only one of them is in memory twice.
            while parts[0][0].cache.layers:
                layers = [(rows.cache.layers.pop(0), named) for rows, named in parts]
                whole.cache.layers.append(_Columns.joined(layers, max(whole.lengths)))
        return whole

    def forward(self, tokens: Sequence[Sequence[int]]) -> Any:
        """Compute the next tokens of every row, as many for each; gives `[rows, vocabulary]` logits after the last."""
        network, count, width = self.network, len(tokens[0]), max(self.lengths)
        lengths = torch.tensor(self.lengths)[:, None]
        words: dict[str, Any] = {network.cache_word: self.cache, "use_cache": True}
        if "position_ids" in network.takes:
            words["position_ids"] = (lengths + torch.arange(count)).to(network.device)
        if "logits_to_keep" in network.takes:
            words["logits_to_keep"] = 1
        if min(self.lengths) < width:
            words["attention_mask"] = (torch.arange(width + count) >= width - lengths).long().to(network.device)
        with torch.inference_mode():
            logits = network.model(torch.tensor(tokens, device=network.device), **words).logits[:, -1]
        self.lengths = [length + count for length in self.lengths]
        return logits

    def token_bytes(self) -> int:
        """Bytes that one column of one row takes, in all layers."""
        held = [getattr(layer, name, None) for layer in self.cache.layers for name in ("keys", "values")]
        return sum(tensor.nbytes // tensor.shape[2] for tensor in held if tensor is not None)
