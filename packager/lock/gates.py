"""Checks engine, GPU and spec against what the weights are: once when they are locked, and again from the lock. Pure.

What a registry does not say is not judged: a record holds for the version it was read from, and what an engine dropped
before it.
"""

from collections.abc import Callable, Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ..errors import Problem, SpecError
from ..recipes import RECIPES
from ..recipes.recipe import Recipe, Record
from ..spec.load import SpecFile
from .backends import is_recorded, unloadable, versioned, wrong_backend
from .built import dropped_by_gpu
from .drift import engine_version, python_requirements
from .hardware import gpu_of, listed, newer, too_old
from .model import ModelFacts
from .shards import unshared


def check_weights(file: SpecFile, model: ModelFacts, say: Callable[[str], None]) -> None:
    """Raise SpecError with everything about these weights that the spec's engine or GPU cannot do.

    For a spec that `check` has passed. `say` is told what runs, but otherwise than its name says.
    """
    problems = (
        *_dropped(file, model),
        *_architecture(file, model),
        *_quantization(file, model),
        *wrong_backend(file, model),
        *unloadable(file, model),
        *_needs(file, model),
        *_weights_on_gpu(file, model),
        *_dtype(file, model),
        *unshared(file, model),
        *_context(file, model),
    )
    if problems:
        raise SpecError.collect(problems)
    for note in _notes(file, model):
        say(note)


def check_dropped(file: SpecFile, model: ModelFacts) -> None:
    """Raise SpecError for a model that the engine no longer has.

    To be asked first: what is to be done about the code and the formats of such weights depends on the engine that is next.
    """
    problems = _dropped(file, model)
    if problems:
        raise SpecError.collect(problems)


def needs_code(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """What to say first of weights whose code is refused: that the engine runs them by that code alone, if it does."""
    recipe = RECIPES[file.spec.engine.kind]
    if not (model.own_code and recipe.own_code and is_recorded(file)) or _lacking(recipe, model) is None:
        return ()
    name = model.architectures[0]
    others = _engines_for(name, recipe)
    mend = "vouch for that code in `weights.trusted_code`" + (f", or {others}" if others else "")
    return (
        Problem(f"{versioned(file)} runs {name} by the weights' own code alone", file.where("engine", "kind"), mend),
    )


def check_files(file: SpecFile, paths: Sequence[str]) -> None:
    """Raise SpecError unless the weights have the file, and only one, that `quantization` says they are.

    For weights whose config does not say it (GGUF), and whose other files the engine has seen to be there.
    """
    recipe, word = RECIPES[file.spec.engine.kind], file.spec.quantization
    top = [path for path in paths if "/" not in path]
    found = {row.name: [path for path in top if path.endswith(row.file)] for row in recipe.by_file}
    if word in found:
        problems = _one_file(file, recipe, word, found[word])
    elif recipe.by_file and not any(path.endswith(recipe.weights[-1]) for path in top):
        fits = next(name for name, files in found.items() if files)
        mend = f"write `quantization: {fits}`, or take weights that have {recipe.weights[-1]} files"
        problems = (Problem(f"these weights are {fits}", file.where("weights", "source"), mend),)
    else:
        return
    if problems:
        raise SpecError.collect(problems)


def _one_file(file: SpecFile, recipe: Recipe, word: str, found: Sequence[str]) -> tuple[Problem, ...]:
    row, who = recipe.format("quantization", word), f"`quantization: {word}` on {recipe.engine}"
    if row is None or len(found) == 1:
        return ()
    if not found:
        what = f"{who} opens a folder with a {row.file} file, and these weights have none"
        mend = f"take weights that are ({row.made_by} make them), or write `quantization: none`"
        return (Problem(what, file.where("quantization"), mend),)
    what = f"{who} opens one {row.file} file, and these weights have {len(found)}: {', '.join(found[:5])}"
    mend = "leave the others out with `weights.include`; parts of one model are joined by llama.cpp's llama-gguf-split"
    return (Problem(what, file.where("weights", "source"), mend),)


def check_python(file: SpecFile, python: str) -> None:
    """Raise SpecError for a base whose Python (`3.11.2`) the engine's distribution is not for."""
    record = RECIPES[file.spec.engine.kind].record
    if record is None or not is_recorded(file) or SpecifierSet(record.python).contains(python, prereleases=True):
        return
    raise SpecError(
        f"the base has Python {python}; {versioned(file)} is for Python {record.python}",
        where=file.where("image", "base"),
        mend="choose a base with such a Python",
    )


def _notes(file: SpecFile, model: ModelFacts) -> tuple[str, ...]:
    spec, gpu = file.spec, gpu_of(file.spec)
    recipe, said = RECIPES[spec.engine.kind], []
    if gpu is None:
        return ()
    if recipe.gpu_note:
        said.append(recipe.gpu_note)
    row = recipe.of_weights(model.quantization) or recipe.format("quantization", spec.quantization)
    if row is not None and gpu.capability < row.native:
        said.append(f"{spec.hardware.gpu} does not compute in {model.quantization or row.name}: {row.note}")
    dtype = recipe.format("dtype", model.dtype)
    if dtype is not None and dtype.fallback and _is_auto(file) and gpu.capability < dtype.floor:
        said.append(f"{spec.hardware.gpu} does not compute in {dtype.name}: {recipe.engine} takes {dtype.fallback}")
    return tuple(said)


def _dropped(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """A model that the engine had once, in a version before the spec's."""
    recipe = RECIPES[file.spec.engine.kind]
    record = _lacking(recipe, model)
    if record is None:
        return ()
    name = model.architectures[0]
    last = record.removed.get(name)
    if last is None or Version(engine_version(file.spec)) <= Version(last):
        return ()
    what, others = f"{versioned(file)} no longer runs {name}: {last} was the last that did", _engines_for(name, recipe)
    if _drives(recipe, last):
        mend = f"write `engine.version: {last}`, or {others or 'take other weights'}"
    else:
        what += f", and packager drives none before {recipe.oldest}"
        mend = f"{others}, or take other weights" if others else "take other weights"
    return (Problem(what, file.where("engine", "version"), mend),)


def _lacking(recipe: Recipe, model: ModelFacts) -> Record | None:
    """The engine's record, where it has none of the model's classes; None for a model that names none."""
    record = recipe.record
    known = record is None or not model.architectures or set(model.architectures) & set(record.architectures)
    return None if known else record


def _drives(recipe: Recipe, version: str) -> bool:
    return not recipe.oldest or Version(version) >= Version(recipe.oldest)


def _architecture(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """A model that the engine never had."""
    recipe = RECIPES[file.spec.engine.kind]
    record = _lacking(recipe, model)
    if record is None:
        return ()
    name = model.architectures[0]
    trusted = model.own_code and recipe.own_code and file.spec.weights is not None and file.spec.weights.trusted_code
    if name in record.removed or trusted or not is_recorded(file):
        return ()
    what = f"{versioned(file)} does not run {name}"
    mend = _engines_for(name, recipe) or "take weights of a model that it runs (docs/reference/engines.md)"
    return (Problem(what, file.where("weights", "source"), mend),)


def _engines_for(architecture: str, recipe: Recipe) -> str:
    """What other engines make of it, as advice; empty when none has it."""
    others = [(one, one.record) for one in RECIPES.values() if one.record and one is not recipe]
    advice = [f"use the engine {one.engine}" for one, record in others if architecture in record.architectures]
    converted = [f"convert them for {one.engine}" for one, record in others if architecture in record.converts]
    if advice:
        return listed([*advice, *converted])
    for one, record in others:
        last = record.removed.get(architecture)
        if last is not None and _drives(one, last):
            advice.append(f"use the engine {one.engine} with `engine.version: {last}`")
    # GGUF has names of its own: most are those of transformers' classes in lower case.
    named = architecture.removesuffix("ForCausalLM").lower()
    converted += [f"convert them to GGUF for {one.engine}" for one, record in others if named in record.architectures]
    return listed([*advice, *converted]) if advice or converted else ""


def _quantization(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """The spec's word and the weights' own, and whether the engine has it."""
    recipe, word = RECIPES[file.spec.engine.kind], file.spec.quantization
    row, fits = recipe.format("quantization", word), _word_for(recipe, model)
    if row is None:  # `none`
        return _method(file, model)
    if fits == word and getattr(file.spec.engine, "double_quantization", False):
        what = "`double_quantization` is for weights that are quantized when they are loaded; these are already"
        return (Problem(what, file.where("engine", "double_quantization"), "remove it"),)
    if fits == word or ((row.at_load or row.file) and not model.quantization):
        return ()
    where = file.where("quantization")
    if not model.quantization:
        what = f"`quantization: {word}` is for weights that are {word}, and these are not quantized"
        mend = f"take weights that are ({row.made_by} makes them), or write `quantization: none`"
        return (Problem(what, where, mend),)
    what = f"`quantization: {word}`, but the weights' config.json says they are {model.quantization}"
    mend = f"write `quantization: {fits or 'none'}`"
    return (Problem(what, where, f"{mend}, or take weights that are not quantized" if row.at_load else mend),)


def _method(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    recipe = RECIPES[file.spec.engine.kind]
    record = recipe.record
    if (
        record is None
        or not record.methods
        or not model.quantization
        or recipe.of_weights(model.quantization)
        or not is_recorded(file)
    ):
        return ()
    if model.method in record.methods:
        return ()
    able = [one.engine for one in RECIPES.values() if one.record and (model.method in one.record.methods)]
    what = f"{versioned(file)} cannot load weights that are {model.quantization}"
    mend = "take weights that are not quantized"
    return (
        Problem(what, file.where("weights", "source"), f"use the engine {listed(able)}, or {mend}" if able else mend),
    )


def _needs(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """Distributions that weights of this kind take beside the engine; a word of `quantization` brings its own."""
    recipe = RECIPES[file.spec.engine.kind]
    row = recipe.of_weights(model.quantization)
    if row is None or file.spec.quantization != "none":
        return ()
    has = {canonicalize_name(Requirement(line).name) for line in python_requirements(file.spec)}
    lacks = " and ".join(name for name in row.needs if name not in has)
    if not lacks:
        return ()
    what = f"weights that are {model.quantization} need {lacks} beside {recipe.engine}"
    word = _word_for(recipe, model)
    mend = f"write `quantization: {word}`, which brings it" if word else f"add {lacks} to `image.python_packages`"
    return (Problem(what, file.where("weights", "source"), mend),)


def _weights_on_gpu(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    spec, recipe = file.spec, RECIPES[file.spec.engine.kind]
    if not model.quantization:
        return ()
    row, who = recipe.of_weights(model.quantization), f"{recipe.engine} with weights that are {model.quantization}"
    declared = recipe.record.methods.get(model.method, 0) if recipe.record else 0
    floor = row.floor if row else declared
    found = [*too_old(file, who, floor)]
    if row is not None:
        found += dropped_by_gpu(
            file, who, row, file.where("hardware", "gpu"), "take weights that are not quantized, or "
        )
    if row is not None and not row.cpu and spec.hardware.gpu is None:
        mend = f"name one in `hardware.gpu`, such as {listed(newer(floor))}"
        found.append(Problem(f"{who} needs a GPU", file.where("weights", "source"), mend))
    parallel = getattr(spec.engine, "tensor_parallel", 1)
    if row is not None and not row.splits and parallel > 1:
        what = f"weights that are {model.quantization} cannot be split over {parallel} GPUs by {recipe.engine}"
        mend = "write `tensor_parallel: 1`, or take weights that are not quantized"
        word = _word_for(recipe, model)
        asked = recipe.format("quantization", word) if word else None
        if asked is not None and asked.at_load:
            mend += f": `quantization: {word}` quantizes those when they are loaded"
        found.append(Problem(what, file.where("engine", "tensor_parallel"), mend))
    return tuple(found)


def _dtype(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """`dtype: auto` takes the weights' own format, which the GPU may not have."""
    row = RECIPES[file.spec.engine.kind].format("dtype", model.dtype)
    if row is None or row.fallback or not _is_auto(file):
        return ()
    who = f"{file.spec.engine.kind} with weights that are {model.dtype}"
    return too_old(file, who, row.floor, where=file.where("engine", "dtype"), instead="write `dtype: float16`")


def _context(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """With more, vLLM does not start; the others would answer nonsense past what the model was trained for."""
    asked = getattr(file.spec.engine, "context_length", None)
    if asked is None or model.context is None or asked <= model.context:
        return ()
    what = f"`context_length: {asked}` is more than the {model.context} tokens that the model was trained for"
    return (Problem(what, file.where("engine", "context_length"), f"write {model.context} or less, or leave it out"),)


def _word_for(recipe: Recipe, model: ModelFacts) -> str | None:
    """The word of `quantization` that means weights quantized so."""
    named = {model.quantization, model.method} - {""}
    return next((row.name for row in recipe.formats.get("quantization", ()) if named & set(row.weights)), None)


def _is_auto(file: SpecFile) -> bool:
    return getattr(file.spec.engine, "dtype", "") == "auto"
