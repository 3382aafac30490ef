"""Which engines, and which of an engine's backends, load weights that are quantized so. Pure."""

from collections.abc import Collection, Mapping, Sequence

from packaging.version import Version

from ..errors import Problem
from ..recipes import RECIPES
from ..recipes.recipe import Recipe
from ..spec.load import SpecFile
from .drift import engine_version
from .hardware import listed
from .model import WHOLE, ModelFacts

_GROUPED: Mapping[str, Mapping[str, str]] = {
    "awq": {},
    "gptq": {"desc_act": "desc_act: false", "asymmetric": "sym: true"},
}
"""Methods whose kinds (lock/model.py) are words of config.json, by what it says of the kind that all engines have."""


def unloadable(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """The problems with how the weights are quantized, beyond the method, where the engine has that only otherwise."""
    return _kinds(file, model) or _groups(file, model)


def wrong_backend(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """What one of an engine's backends has, and the one that the spec takes has not."""
    recipe = RECIPES[file.spec.engine.kind]
    backends, taken = recipe.record.backends if recipe.record else {}, getattr(file.spec.engine, "backend", "")
    if taken not in backends or not is_recorded(file):
        return ()
    found = []
    for name in (*model.architectures[:1], *((model.method,) if model.method else ())):
        others = [one for one, has in backends.items() if name in has]
        if others and taken not in others:
            does, mend = f"run {name}", f"write `backend: {listed(others)}`"
            if name == model.method:
                does = f"load weights that are {name}"
                if not _loading(recipe, model):  # then nothing is mended by another backend
                    mend = listed(_elsewhere(recipe, model) or ["take weights that are not quantized"])
            what = f"{versioned(file)} does not {does} with `backend: {taken}`"
            found.append(Problem(what, file.where("engine", "backend"), mend))
    return tuple(found)


def _groups(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """Weights whose groups have a size for which the engine has no kernel."""
    recipe, taken = RECIPES[file.spec.engine.kind], getattr(file.spec.engine, "backend", "")
    row = recipe.of_weights(model.quantization)
    if row is None or model.group is None or model.group in row.groups.get(taken, (model.group,)):
        return ()
    sizes = listed(str(size) for size in row.groups[taken])
    these = "have a scale for each column" if model.group == WHOLE else f"are in groups of {model.group}"
    what = f"{recipe.engine}'s {taken} takes {model.method} in groups of {sizes}; these weights {these}"
    mend = listed([*_elsewhere(recipe, model), f"quantize them in groups of {sizes}"])
    return (Problem(what, file.where("weights", "source"), mend),)


def _kinds(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """Weights of a kind of their method that the engine, or the backend that the spec takes, has not."""
    recipe, taken = RECIPES[file.spec.engine.kind], getattr(file.spec.engine, "backend", "")
    row = recipe.of_weights(model.quantization)
    if row is None or model.kind in row.kinds.get(taken, (model.kind,)) or not is_recorded(file):
        return ()
    who = f"{recipe.engine}'s {taken}" if taken else versioned(file)
    what = f"{who} cannot load weights that are {model.quantization}"
    mend = listed([*_elsewhere(recipe, model), _otherwise(row.kinds[taken], model)])
    return (Problem(what, file.where("weights", "source"), mend),)


def _otherwise(kinds: Sequence[str], model: ModelFacts) -> str:
    """How to quantize weights of an odd kind, as config.json says it."""
    if model.method not in _GROUPED:
        return f"take weights that are {listed(f'{model.method}:{kind}' for kind in kinds if kind)}"
    said = "bits: 4" if model.kind.endswith("-bit") else _GROUPED[model.method].get(model.kind, "version: gemm")
    return f"quantize them with `{said}`"


def _elsewhere(recipe: Recipe, model: ModelFacts) -> list[str]:
    """What loads weights that are quantized so, as advice: the engine's other backends, and other engines."""
    advice = [f"write `backend: {one}`" for one in _loading(recipe, model) if one]
    for other in RECIPES.values():
        able = [] if other is recipe else _loading(other, model)
        if able:
            word = f" with `backend: {able[0]}`" if len(able) < len(_backends(other)) else ""
            advice.append(f"use the engine {other.engine}{word}")
    return advice


def _loading(recipe: Recipe, model: ModelFacts) -> list[str]:
    """The engine's backends that load weights that are quantized so; "" is an engine that is one."""
    row = recipe.of_weights(model.quantization)
    return [
        one
        for one, methods in _backends(recipe).items()
        if model.method in methods
        and (row is None or model.group is None or model.group in row.groups.get(one, (model.group,)))
        and (row is None or model.kind in row.kinds.get(one, (model.kind,)))
    ]


def _backends(recipe: Recipe) -> Mapping[str, Collection[str]]:
    """What each backend has of architectures and methods."""
    record = recipe.record
    return {} if record is None else record.backends or {"": record.methods}


def is_recorded(file: SpecFile) -> bool:
    """Whether the engine's version is the one that its record was read from."""
    record = RECIPES[file.spec.engine.kind].record
    return record is not None and Version(engine_version(file.spec)).public == record.version


def versioned(file: SpecFile) -> str:
    """`vllm 0.32.0`."""
    return f"{file.spec.engine.kind} {engine_version(file.spec)}"
