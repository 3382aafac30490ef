"""The smallest change to a spec with which its model fits: candidates in the order of what they cost, tried one by one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..lock.shards import shares
from ..recipes import RECIPES
from ..recipes.gpus import GPUS
from ..recipes.recipe import Format
from .demand import Demand, Place, measure
from .formats import CACHES, is_unpacked, width_at_load

LEAST_CONTEXT = 2048
"""Tokens: a shorter context is no mend of a spec that asks for more, it is another product."""
_STEP = 256
_CARDS = "rtx-"
"""Cards of workstations: no mend for who has a data centre's GPU."""


@dataclass(frozen=True, slots=True)
class Change:
    """`kind` is what is changed, `words` what to write, `demand` what is asked then."""

    kind: str
    words: str
    demand: Demand


def changes_that_fit(demand: Demand) -> tuple[Change, ...]:
    """Single changes that fit, at most one of each kind, the smallest first; where none does, the first pair that does."""
    found: dict[str, Change] = {}
    for change in _changes(demand):
        if change.kind not in found and measure(change.demand).fits:
            found[change.kind] = change
    if found:
        return tuple(found.values())
    for first in _narrower(demand):
        for second in _changes(first.demand):
            if second.kind != first.kind and measure(second.demand).fits:
                return (Change("both", f"{first.words} and {second.words}", second.demand),)
    return ()


def _changes(demand: Demand) -> Iterator[Change]:
    yield from _given_cache(demand)
    yield from _fewer_requests(demand)
    yield from _shorter_context(demand)
    yield from _narrower(demand)
    yield from _larger_gpu(demand)


def _narrower(demand: Demand) -> Iterator[Change]:
    """Changes of a choice, not of an amount; a pair begins with one."""
    yield from _cache_formats(demand)
    yield from _quantizations(demand)
    yield from _more_gpus(demand)


def _given_cache(demand: Demand) -> Iterator[Change]:
    """Another size than the one that the spec gives the cache: what is asked for, and no more."""
    if demand.place.cache_gib is not None:
        asked = measure(replace(demand, place=replace(demand.place, cache_gib=None))).cache
        given = math.ceil(asked / 2**30 * 100) / 100
        place = replace(demand.place, cache_gib=given)
        yield Change("kv_cache_gib", f"`engine.kv_cache_gib: {given}`", replace(demand, place=place))


def _fewer_requests(demand: Demand) -> Iterator[Change]:
    def with_requests(count: int) -> Demand:
        return replace(demand, requests=count, slots=min(count, demand.slots))

    count = _most(demand.requests - 1, lambda number: measure(with_requests(number)).fits)
    if count:
        yield Change("requests", f"`serving.max_concurrency: {count}`", with_requests(count))


def _shorter_context(demand: Demand) -> Iterator[Change]:
    most = (demand.context - 1) // _STEP
    steps = _most(most, lambda number: measure(replace(demand, context=number * _STEP)).fits)
    if (context := steps * _STEP) >= LEAST_CONTEXT:
        yield Change("context", f"`engine.context_length: {context}`", replace(demand, context=context))


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, where what is smaller fits too; 0 when none does."""
    low, high = 0, max(0, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _cache_formats(demand: Demand) -> Iterator[Change]:
    """The widest first, and of those as wide the first: LMDeploy's fp8 is not TurboMind's, and its int8 is both engines'."""
    rows, sizes = RECIPES[demand.engine].formats.get("kv_cache", ()), CACHES.get(demand.engine, {})
    tried = {2.0}
    for row in sorted((row for row in rows if row.name in sizes), key=lambda row: -sizes[row.name].number):
        width = sizes[row.name].number
        if width not in tried and _runs(row, demand.place) and demand.quantization not in row.without:
            tried.add(width)
            yield Change("kv_cache", f"`engine.kv_cache: {row.name}`", replace(demand, kv_cache=row.name))


def _quantizations(demand: Demand) -> Iterator[Change]:
    """Of weights that are not quantized: first what the engine makes of them itself, the widest first."""
    recipe, now = RECIPES[demand.engine], demand.weights.loaded
    asked, cache = recipe.format("quantization", demand.quantization), recipe.format("kv_cache", demand.kv_cache)
    if demand.model.quantization or demand.weights.stored is not None or (asked is not None and not asked.at_load):
        return
    for row in sorted(recipe.formats.get("quantization", ()), key=lambda row: not row.at_load):
        width = width_at_load(demand.engine, row.name)
        if width is None or not _runs(row, demand.place) or (now is not None and width.bits >= now.bits):
            continue
        if cache is not None and row.name in cache.without:
            continue
        words = f"`quantization: {row.name}`" + (f" with weights that {row.made_by} made" if row.made_by else "")
        weights = replace(demand.weights, loaded=width)
        kind = "quantization" if row.at_load else "weights"
        yield Change(kind, words, replace(demand, weights=weights, quantization=row.name))


def _more_gpus(demand: Demand) -> Iterator[Change]:
    place, splits, row = demand.place, demand.memory.splits, _row(demand)
    if splits == "none" or (splits == "tensor" and row is not None and not row.splits):
        return
    now = place.tensor * place.pipeline
    for count in (2, 4, 8):  # GPUs of one host, as they are sold
        if count <= now or count % now:
            continue
        if splits == "layers":
            yield _on(demand, replace(place, pipeline=count), f"`hardware.count: {count}`")
        elif shares(demand.engine, demand.model, tensor := place.tensor * count // now):
            words = f"`engine.tensor_parallel: {tensor}` with `hardware.count: {count}`"
            yield _on(demand, replace(place, tensor=tensor), words)


def _on(demand: Demand, place: Place, words: str) -> Change:
    return Change("gpus", words, replace(demand, place=place))


def _larger_gpu(demand: Demand) -> Iterator[Change]:
    place = demand.place
    if place.gpu is None:
        return
    now = GPUS[place.gpu].bytes
    larger = [name for name, gpu in GPUS.items() if gpu.bytes > now and _has_all(demand, gpu.capability)]
    if not place.gpu.startswith(_CARDS):
        larger = [name for name in larger if not name.startswith(_CARDS)]
    for name in sorted(larger, key=lambda name: GPUS[name].bytes):
        weights = demand.weights
        method = demand.model.quantization
        if is_unpacked(demand.engine, method, None):  # on some GPUs
            packed = not is_unpacked(demand.engine, method, GPUS[name].capability)
            weights = replace(weights, loaded=weights.stored if packed else None)
        moved = replace(demand, weights=weights, place=replace(place, gpu=name))
        yield Change("gpu", f"`hardware.gpu: {name}`", moved)


def _has_all(demand: Demand, capability: int) -> bool:
    """Whether the engine runs there, with its cache and its numbers."""
    recipe = RECIPES[demand.engine]
    said = {"kv_cache": demand.kv_cache, "quantization": demand.quantization, "dtype": demand.weights.dtype}
    rows = [_row(demand), *(recipe.format(where, name) for where, name in said.items())]
    return capability >= recipe.floor and all(row is None or _has(row, capability) for row in rows)


def _row(demand: Demand) -> Format | None:
    """What the recipe says of weights that are quantized as these are."""
    return RECIPES[demand.engine].of_weights(demand.model.quantization)


def _has(row: Format, capability: int) -> bool:
    return (row.floor <= capability or bool(row.fallback)) and not 0 < row.below <= capability


def _runs(row: Format, place: Place) -> bool:
    return row.cpu if place.gpu is None else _has(row, GPUS[place.gpu].capability)
