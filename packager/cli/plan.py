"""`packager plan`: whether a model fits its GPUs, before anything is fetched."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..errors import SpecError
from .console import Console

if TYPE_CHECKING:
    from ..sizing.change import Change
    from ..sizing.demand import Demand, Sizes
    from ..spec.load import SpecFile
    from .known import Known

_SMALL = 2**30 // 10
"""Bytes below which MiB say more than GiB."""
_SERVED = ("requests", "context")
"""Changes that an engine does not have to be compiled again for."""


@click.command("plan")
@click.argument("spec", default=".")
@click.option("--context", type=click.IntRange(1), help="Tokens of a request; without it the spec's, else the model's.")
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    help="Requests of that length that must fit at once; without it what the engine needs: one, where others wait.",
)
@click.option("--offline", is_flag=True, help="Ask nobody: what lies beside the spec, the lock and the store must do.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def command(
    console: Console, /, spec: str, *, context: int | None, concurrency: int | None, offline: bool, as_json: bool
) -> None:
    """Say what a model takes of its GPUs, and whether it fits.

    SPEC is a name from `packager catalog`, a packager.yaml or its folder. Shapes are read from a
    config.json beside the spec, else from the lock and the store, else where the weights are. When
    the model does not fit, the exit code is 1, and the smallest change that fits is named.
    """
    from ..catalog import find
    from ..lock.check import check
    from ..sizing.ask import Asked, demand_of
    from ..sizing.change import changes_that_fit
    from ..sizing.demand import measure
    from ..spec.load import load_spec
    from .known import know
    from .progress import Progress
    from .tools import make_tools

    file = load_spec(find(spec))
    check(file)
    if file.spec.weights is None:
        what = f"the engine {file.spec.engine.kind} has no weights, so there is nothing to size"
        raise SpecError(what, where=file.where("engine", "kind"))
    with Progress.start(quiet=console.quiet) as progress:
        known = know(file, make_tools(progress, offline=offline))
    asked, files = Asked(context, concurrency), known.files
    demand = demand_of(file, known.config, asked, where=known.config_from, files=files, limits=known.limits)
    sizes = measure(demand)
    changes = () if sizes.fits else changes_that_fit(demand)
    if as_json:
        console.data(_value(file, demand, sizes, known, changes))
    else:
        _show(console, file, demand, sizes, known)
    if not sizes.fits:
        raise _refusal(file, demand, sizes, changes)


def _show(console: Console, file: "SpecFile", demand: "Demand", sizes: "Sizes", known: "Known") -> None:
    from ..sizing.engines import ENGINES

    place = demand.place
    count = place.tensor * place.pipeline
    one = "the machine" if place.gpu is None else "each GPU" if count > 1 else "the GPU"
    console.result(f"{file.spec.name}: what {demand.engine} takes of {one}")
    console.result(f"  weights    {_gib(sizes.weights)}  {_about(demand, known)}")
    requests = f"{demand.requests:,} request{'s' * (demand.requests > 1)} of {demand.context:,} tokens"
    console.result(f"  KV cache   {_gib(sizes.cache)}  {requests}, {sizes.token:,.0f} bytes a token")
    console.result(f"  workspace  {_gib(sizes.workspace)}  an allowance: CUDA, activations, logits, graphs")
    console.result(f"  total      {_gib(sizes.total)}")
    if sizes.gpu is None or sizes.room is None:
        console.say("no GPU is named in `hardware`: nothing is compared")
        return
    console.result(f"  {place.gpu:9}  {_gib(sizes.gpu)}  {count if count > 1 else 'one'}{_part(demand)}")
    if sizes.fits:
        full = f"{sizes.tokens:,} tokens of cache fit" if sizes.tokens is not None else "it fits"
        console.result(f"fits: {_gib(sizes.room - sizes.cache).strip()} to spare, {full}")
        if not ENGINES[demand.engine].for_all and sizes.tokens is not None and demand.requests == 1:
            at_once = sizes.tokens // demand.context
            slots = file.spec.serving.max_concurrency
            if at_once < slots:
                console.say(
                    f"{at_once} of {slots} requests (`serving.max_concurrency`) run at once when all have full length; others wait"
                )


def _part(demand: "Demand") -> str:
    """Which part of the GPU's memory an engine may take, or its cache."""
    if demand.place.share < 1:
        return f", of which {demand.place.share:.0%} are the engine's"
    share = demand.place.cache_share or demand.memory.share
    return f"; {share:.0%} of what is free is for the cache" if share < 1 else ""


def _about(demand: "Demand", known: "Known") -> str:
    from ..sizing.parameters import count_parameters

    counted = count_parameters(demand.shape)
    words = f"{counted.total / 1e9:.2f} billion parameters"
    if counted.idle:
        words += f", {counted.active / 1e9:.2f} active"
    width = demand.weights.loaded
    words += f", {f'{width.bits:.2f} bits' if width else demand.weights.dtype}"
    if known.files is not None and demand.weights.as_stored:
        return f"as large as the files, says {known.files_from}"
    estimated = _estimated(demand)
    return f"{words}{f' (estimate: {estimated})' if estimated else ''}"


def _estimated(demand: "Demand") -> str:
    width = demand.weights.loaded
    return "; ".join(filter(None, (demand.shape.estimated, width.estimate if width else "")))


def _value(
    file: "SpecFile", demand: "Demand", sizes: "Sizes", known: "Known", changes: "tuple[Change, ...]"
) -> dict[str, Any]:
    from ..sizing.parameters import count_parameters

    counted, place = count_parameters(demand.shape), demand.place
    return {
        "name": file.spec.name,
        "engine": demand.engine,
        "gpu": place.gpu,
        "gpus": place.tensor * place.pipeline,
        "tensor_parallel": place.tensor,
        "context": demand.context,
        "requests": demand.requests,
        "parameters": counted.total,
        "active_parameters": counted.active,
        "estimated": _estimated(demand),
        "config_from": known.config_from,
        "files": known.files,
        "files_from": known.files_from,
        "bytes": {**asdict(sizes), "token": round(sizes.token), "total": sizes.total},
        "fits": sizes.fits if place.gpu else None,
        "changes": [{"kind": one.kind, "words": one.words} for one in changes],
    }


def _refusal(file: "SpecFile", demand: "Demand", sizes: "Sizes", changes: "tuple[Change, ...]") -> SpecError:
    lacks = sizes.cache - (sizes.room or 0)
    each = "each " if demand.place.tensor * demand.place.pipeline > 1 else ""
    what = f"the model does not fit: {each}{demand.place.gpu} lacks {_gib(lacks).strip()}"
    first, *others = [one.words for one in changes] or ["a smaller model, or one quantized to fewer bits"]
    mend = (f"write {first}" if changes else f"take {first}") + "".join(f"; or {one}" for one in others)
    if demand.engine == "tensorrt_llm_engine" and any(one.kind not in _SERVED for one in changes):
        mend += "; what is neither fewer requests nor a shorter context has to be compiled in"
    return SpecError(what, where=file.where("hardware", "gpu"), mend=mend)


def _gib(count: float) -> str:
    return f"{count / 2**30:8.2f} GiB" if count >= _SMALL else f"{count / 2**20:8.2f} MiB"
