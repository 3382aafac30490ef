"""The GPU that a spec names, and the words for one that is too old or unknown. Pure."""

import difflib
from collections.abc import Iterable

from ..errors import Problem
from ..recipes.gpus import GPUS, Gpu, shown
from ..spec.load import SpecFile
from ..spec.model import ModelSpec


def gpu_of(spec: ModelSpec) -> Gpu | None:
    """The GPU's row; None without a GPU, and for a name that is not in the table (`unknown_gpu` refuses it)."""
    return GPUS.get(spec.hardware.gpu or "")


def unknown_gpu(file: SpecFile) -> tuple[Problem, ...]:
    """The problem with a GPU that has no row: nothing could be checked against it."""
    name = file.spec.hardware.gpu
    if name is None or name in GPUS:
        return ()
    near = [one for one in GPUS if one.startswith(name) or name.startswith(f"{one}-")]
    near = near or difflib.get_close_matches(name, GPUS, n=3, cutoff=0.7)
    mend = f"did you mean {listed(f'`{one}`' for one in near)}?" if near else f"it can be: {', '.join(GPUS)}"
    return (Problem(f"unknown GPU '{name}'", file.where("hardware", "gpu"), mend),)


def too_old(file: SpecFile, who: str, floor: int, *, where: str = "", instead: str = "") -> tuple[Problem, ...]:
    """The problem of `who` with a GPU below the compute capability `floor` (ten times NVIDIA's).

    `where` is the place to point at, without it the GPU's; `instead` is what to do other than take another GPU.
    """
    gpu = gpu_of(file.spec)
    if gpu is None or gpu.capability >= floor:
        return ()
    what = (
        f"{who} needs compute capability {shown(floor)} or newer; {file.spec.hardware.gpu} has {shown(gpu.capability)}"
    )
    mend = f"use a newer GPU, such as {listed(newer(floor))}"
    where = where or file.where("hardware", "gpu")
    return (Problem(what, where, f"{instead}, or {mend}" if instead else mend),)


def newer(floor: int) -> tuple[str, ...]:
    """Up to three GPUs of that compute capability or newer, each of another one."""
    first: dict[int, str] = {}
    for name, gpu in GPUS.items():
        if gpu.capability >= floor:
            first.setdefault(gpu.capability, name)
    return tuple(first.values())[:3]


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
