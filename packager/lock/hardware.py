"""The GPU that a spec names, and the words for one that is too old, too small or unknown. Pure."""

import difflib
from collections.abc import Iterable, Sequence

from ..errors import Problem
from ..recipes import RECIPES
from ..recipes.gpus import GPUS, Gpu, shown
from ..spec.load import SpecFile
from ..spec.model import ModelSpec
from .lockfile import WeightsLock


def gpu_of(spec: ModelSpec) -> Gpu | None:
    """The GPU's row; None without a GPU, and for a name that is not in the table (`unknown_gpu` refuses it)."""
    return GPUS.get(spec.hardware.gpu or "")


def unknown_gpu(file: SpecFile) -> tuple[Problem, ...]:
    """The problem with a GPU that has no row: nothing could be checked against it."""
    name = file.spec.hardware.gpu
    if name is None or name in GPUS:
        return ()
    parts = set(name.split("-"))  # as drivers and clouds call them: nvidia-a100-sxm4-80gb
    near = [one for one in GPUS if one.startswith(name) or parts.issuperset(one.split("-"))]
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


def too_small(spec: ModelSpec, weights: WeightsLock | None) -> str:
    """A line about weights that alone are more than the GPUs' memory, or nothing. `packager plan` says it exactly.

    Weights that are made smaller when they are loaded are not judged, nor those of which some layers stay on the CPU.
    """
    gpu, recipe = gpu_of(spec), RECIPES[spec.engine.kind]
    row = recipe.format("quantization", spec.quantization)
    shrink = (row is not None and row.at_load and not (weights and weights.model.quantization)) or (
        weights is not None and weights.model.dtype == "float32"
    )
    if gpu is None or weights is None or shrink or getattr(spec.engine, "gpu_layers", -1) >= 0:
        return ""
    size = loaded_bytes(spec, [(one.path, one.size) for one in weights.files]) or 0
    has = gpu.bytes * spec.hardware.gpus
    if size <= has:
        return ""
    many = f"{spec.hardware.gpus} x " if spec.hardware.gpus > 1 else ""
    return (
        f"the weights alone are {size / 2**30:,.1f} GiB, and {many}{spec.hardware.gpu} has {has / 2**30:,.1f} GiB: "
        "`packager plan` says what fits"
    )


def loaded_bytes(spec: ModelSpec, sizes: Sequence[tuple[str, int]]) -> int | None:
    """Bytes of the files that the engine loads, of weights with these paths and sizes; None where there are none."""
    recipe, chosen = RECIPES[spec.engine.kind], spec.weights.file if spec.weights else None
    if not recipe.folder:
        return dict(sizes).get(recipe.entry([path for path, _ in sizes], chosen) or "") or None
    row = recipe.format("quantization", spec.quantization)
    data = next((one for one in recipe.weights if one in ("model.bin", ".engine")), ".safetensors")
    ending = row.file if row is not None and row.file else data
    found = {path: size for path, size in sizes if "/" not in path and path.endswith(ending)}
    # Mistral's repositories hold the same weights twice; engines read those that the index names.
    once = {path: size for path, size in found.items() if not path.startswith("consolidated")}
    return sum((once or found).values()) or None


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
