"""Locks weights, their tokenizer and adapters: lists their files, refuses what runs code, checks that the engine can open
them, and gives each its sha256: the one that its source knows, else one of its bytes.
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..errors import Problem, SpecError
from ..manifest import ADAPTERS_FOLDER, WeightsFile
from ..recipes import RECIPES
from ..recipes.recipe import Recipe
from ..spec.conversion import CONVERTED
from ..spec.load import SpecFile
from ..spec.weights import WeightsSpec
from ..weights.mirrors import open_locked
from ..weights.policy import CONFIGURATIONS, check_names, refuse, refuse_own_code, refuse_pickle
from ..weights.source import Source, SourceFile, read_file
from .built import built_for, check_built, facts_of_built
from .compiled import lock_compiled
from .gates import check_dropped, check_weights, needs_code
from .lockfile import WeightsLock
from .lora import check_adapter
from .model import ModelFacts, facts_of_config, facts_of_ctranslate2, facts_of_gguf
from .origin import Origin, at
from .parts import INDEX, first_part, lacking_gguf, lacking_safetensors, without_part
from .tokenizer import TOKENIZER_FILES, check_described, choose_tokenizer, lacks_tokenizer
from .tools import Tools

_HEAD = 1 << 20
"""Bytes of a file in which its format says what it holds."""

_MODELOPT = "hf_quant_config.json"

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What an adapter is; the rest of its folder (optimizer states, checkpoints) stays where it is."""

_NAMED = 5
"""Files and folders that a message names."""


def lock_weights(file: SpecFile, tools: Tools) -> tuple[WeightsLock | None, WeightsLock | None]:
    """The spec's weights and the tokenizer from elsewhere, file by file; None for what it has not.

    Raises SpecError, LoadError.
    """
    asked = file.spec.weights
    if asked is None:
        return None, None
    _raise(_options(file, asked))
    where = file.where("weights", "source")
    with at(where):
        source = _origin(asked.source, asked.revision, file, tools)
    with source:
        with at(where):
            chosen = _choose(file, asked, source)
        tokenizer = _lock_tokenizer(file, asked, chosen, tools)
        beside = () if tokenizer is None else tokenizer.files
        _raise(_lacking_code(file, asked, (*chosen, *beside)))  # before gigabytes are read
        with at(where):
            weights = _lock_chosen(file, asked, source, chosen, beside, tools)
    _raise(_trusted(file, asked, (*weights.files, *beside)))
    return weights, tokenizer


def _choose(file: SpecFile, asked: WeightsSpec, source: Origin) -> tuple[SourceFile, ...]:
    """The weights that the spec asks for; nothing among them leads astray or runs code."""
    where = file.where("weights", "source")
    listed = source.inventory()
    chosen = tuple(one for one in listed if asked.include is None or _matches(one.path, asked.include))
    _raise(check_names(chosen, where=where))  # before anything is read
    refused = _code(source, chosen, file, asked, where)
    if refused and RECIPES[file.spec.engine.kind].folder:
        model = _model(source, chosen, "", where)
        check_dropped(file, model)  # then there is nothing to mend for this engine
        refused[:0] = needs_code(file, model)
    _raise(refused)
    return chosen


def _lock_chosen(
    file: SpecFile,
    asked: WeightsSpec,
    source: Origin,
    chosen: Sequence[SourceFile],
    beside: Sequence[WeightsFile],
    tools: Tools,
) -> WeightsLock:
    """The lock of the chosen weights. `beside` are the tokenizer's files, which the engine finds among them."""
    where = file.where("weights", "source")
    paths = [*(one.path for one in chosen), *(one.path for one in beside)]
    _check_entry(file, asked, source, chosen, paths)
    entry = RECIPES[file.spec.engine.kind].entry(paths, asked.file) or ""
    _tell_unused(file, chosen, entry, tools)
    if RECIPES[file.spec.engine.kind].folder and not asked.trusted_code and lacks_tokenizer(paths):
        tools.say("no file of these weights looks like a tokenizer: `weights.tokenizer` names one from elsewhere")
    described = lock_compiled(source, chosen, where, built_for(file))  # refused before anything large is read
    model = _model(source, chosen, entry, where) if described is None else facts_of_built(described)
    check_weights(file, model, tools.say)
    check_built(file, described)
    check_described(described, beside, file.where("weights", "tokenizer"))
    if asked.adapters and any(path.startswith(f"{ADAPTERS_FOLDER}/") for path in paths):
        what = f"the weights have a folder {ADAPTERS_FOLDER}/, where the package puts `weights.adapters`"
        raise SpecError(what, where=where, mend="leave it out with `weights.include`, or rename it at its source")
    files = source.lock(chosen, keep=asked.ship == "in_image")
    hashed = [SourceFile(one.path, one.size, one.sha256) for one in files]
    compiled = lock_compiled(source, hashed, where, built_for(file))
    return WeightsLock(asked.source, source.revision or asked.revision or "", files, model, compiled)


def _lock_tokenizer(
    file: SpecFile, asked: WeightsSpec, weights: Sequence[SourceFile], tools: Tools
) -> WeightsLock | None:
    """The lock of what is taken of `weights.tokenizer`, beside these weights; None where it is not asked for."""
    if asked.tokenizer is None:
        return None
    where = file.where("weights", "tokenizer")
    with at(where), _origin(asked.tokenizer, asked.tokenizer_revision, file, tools) as source:
        chosen = choose_tokenizer(source.inventory(), weights, asked.trusted_code, where)
        _raise(check_names((*weights, *chosen), where=where))
        _raise(_code(source, chosen, file, asked, where))
        files = source.lock(chosen, keep=asked.ship == "in_image")
    return WeightsLock(asked.tokenizer, source.revision or asked.tokenizer_revision or "", files)


def lock_adapters(file: SpecFile, tools: Tools) -> Mapping[str, WeightsLock]:
    """The spec's LoRA adapters by name. Raises SpecError, LoadError."""
    asked = file.spec.weights
    locked: dict[str, WeightsLock] = {}
    for number, adapter in enumerate(asked.adapters if asked else ()):
        where = file.where("weights", "adapters", number, "source")
        keep = asked is not None and asked.ship == "in_image"
        with at(where), _origin(adapter.source, adapter.revision, file, tools) as source:
            chosen = [one for one in source.inventory() if one.path in ADAPTER_FILES]
            lacking = [name for name in ADAPTER_FILES if name not in {one.path for one in chosen}]
            if lacking:
                what = f"the adapter {adapter.name} lacks {' and '.join(lacking)}"
                mend = "name the folder that PEFT's `save_pretrained` wrote, which has both"
                raise SpecError(what, where=where, mend=mend)
            config = next(one for one in chosen if one.path == ADAPTER_FILES[0])
            _raise(check_adapter(file, number, read_file(source, config)))
            files = source.lock(chosen, keep=keep)
        locked[adapter.name] = WeightsLock(adapter.source, source.revision or adapter.revision or "", files)
    return locked


def _origin(address: str, revision: str | None, file: SpecFile, tools: Tools) -> Origin:
    return Origin(open_locked(address, revision or "", folder=file.folder), tools)


def _model(source: Source, files: Sequence[SourceFile], entry: str, where: str) -> ModelFacts:
    """What the weights say of themselves, where their format says it."""
    named = {one.path: one for one in files}
    if entry.endswith(".gguf"):
        return facts_of_gguf(read_file(source, named[entry], stop=_HEAD) if entry in named else b"")
    if "model.bin" in named:
        return facts_of_ctranslate2(read_file(source, named["model.bin"], stop=_HEAD))
    if "config.json" not in named:
        return ModelFacts()
    try:
        config = json.loads(read_file(source, named["config.json"]))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"config.json is not JSON: {error}", where=where, mend="restore the file") from error
    facts = facts_of_config(config) if isinstance(config, dict) else ModelFacts()
    if not facts.quantization and _MODELOPT in named:
        return replace(facts, quantization=_modelopt(read_file(source, named[_MODELOPT]), where))
    return facts


def _modelopt(data: bytes, where: str) -> str:
    """What ModelOpt says in a file of its own, where config.json has nothing of it (TensorRT-LLM's and vLLM's loaders read it)."""
    try:
        algorithm = json.loads(data)["quantization"]["quant_algo"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        what = f"{_MODELOPT} does not say how the weights are quantized"
        raise SpecError(what, where=where, mend="restore the file") from error
    return f"modelopt:{algorithm.lower()}" if isinstance(algorithm, str) else ""


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise SpecError.collect(problems)


def _options(file: SpecFile, asked: WeightsSpec) -> list[Problem]:
    """What the spec says of its weights and this engine has no use for."""
    recipe, found = RECIPES[file.spec.engine.kind], []
    if recipe.folder and asked.file is not None:
        what = f"the engine {recipe.engine} opens the whole folder, not one file of it"
        mend = "remove `weights.file`; a folder within goes into `weights.source`"
        found.append(Problem(what, file.where("weights", "file"), mend))
    if asked.tokenizer is not None and not recipe.folder:
        what = f"the engine {recipe.engine} opens one file, which has its own tokenizer"
        found.append(Problem(what, file.where("weights", "tokenizer"), "remove `weights.tokenizer`"))
    if asked.adapters and not recipe.adapters:
        can = ", ".join(one.engine for one in RECIPES.values() if one.adapters)
        what = f"the engine {recipe.engine} serves no LoRA adapters"
        mend = f"use an engine that does ({can}), or merge the adapter into the weights"
        found.append(Problem(what, file.where("weights", "adapters"), mend))
    if asked.trusted_code and not recipe.own_code:
        what = f"the engine {recipe.engine} runs no code of the weights"
        found.append(Problem(what, file.where("weights", "trusted_code"), "remove `weights.trusted_code`"))
    return found


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _code(source: Source, files: Sequence[SourceFile], file: SpecFile, asked: WeightsSpec, where: str) -> list[Problem]:
    """Files that run code when they are opened, and configurations that name code to run."""
    recipe = RECIPES[file.spec.engine.kind]
    trusted = asked.trusted_code if recipe.own_code else None
    found = [*refuse(files, where=where, data_files=recipe.data_files, trusted=trusted)]
    for one in files:
        if one.path in recipe.data_files:
            found += refuse_pickle(one.path, read_file(source, one, stop=2), where=where)
        if one.path in CONFIGURATIONS and recipe.own_code:
            found += refuse_own_code(one.path, read_file(source, one), where=where, trusted=asked.trusted_code)
    return found


def _lacking_code(file: SpecFile, asked: WeightsSpec, files: Iterable[SourceFile | WeightsFile]) -> list[Problem]:
    """What is vouched for must be there."""
    paths, mend = {one.path for one in files}, "remove it, or correct its path"
    return [
        Problem(f"{path} is not among the weights", file.where("weights", "trusted_code", path), mend)
        for path in asked.trusted_code
        if path not in paths
    ]


def _trusted(file: SpecFile, asked: WeightsSpec, files: Sequence[WeightsFile]) -> list[Problem]:
    """What is vouched for, and is there, must be what was read."""
    digests, found = {one.path: one.sha256 for one in files}, []
    for path, sha256 in asked.trusted_code.items():
        if digests[path] != sha256:
            where = file.where("weights", "trusted_code", path)
            what = f"{path} is not the file that was vouched for: it has another sha256"
            found.append(Problem(what, where, f"read the file, then write its sha256: {digests[path]}"))
    return found


def _check_entry(
    file: SpecFile, asked: WeightsSpec, source: Source, files: Sequence[SourceFile], paths: Sequence[str]
) -> None:
    """The engine must know what to open of `paths`, and be able to; `files` are those of the weights."""
    if RECIPES[file.spec.engine.kind].folder:
        _check_folder(file, source, files, paths)
    else:
        _check_file(file, asked.file, paths)


def _check_folder(file: SpecFile, source: Source, files: Sequence[SourceFile], paths: Sequence[str]) -> None:
    recipe, where = RECIPES[file.spec.engine.kind], file.where("weights", "source")
    lacking = recipe.lacking(paths)
    if not lacking:
        _check_index(file, source, files, where)
        return
    kinds = [f"a {need} file" if need.startswith(".") else need for need in recipe.weights]
    none = [f"{need} file" if need.startswith(".") else need for need in lacking]
    within = sorted({path.rpartition("/")[0] for path in paths if path.rpartition("/")[2] == recipe.weights[0]} - {""})
    mend, who = _other_ways(recipe, paths), "these weights"
    if file.spec.weights is not None and file.spec.weights.tokenizer is not None:
        who = "weights and tokenizer"
    if set(lacking) <= set(TOKENIZER_FILES):
        mend = "name a source that has it in `weights.tokenizer`"
    elif within:
        mend = f"name the folder within: {', '.join(within[:_NAMED])}"
    elif set(_model(source, files, "", where).architectures) & set(recipe.converts):
        mend = f"convert them first: `{recipe.converter}`"
    what = f"the engine {recipe.engine} opens a folder with {_and(kinds)}; {who} have no {' and no '.join(none)}"
    raise SpecError(what, where=where, mend=mend)


def _check_index(file: SpecFile, source: Source, files: Sequence[SourceFile], where: str) -> None:
    """Every file that the index of the tensors names must be there, where the engine opens them."""
    recipe, named = RECIPES[file.spec.engine.kind], {one.path: one for one in files}
    instead = any(path.endswith(row.file) for row in recipe.by_file for path in named)
    if INDEX not in named or ".safetensors" not in recipe.weights or instead:
        return
    try:
        lacking = lacking_safetensors(read_file(source, named[INDEX]), named)
    except ValueError as error:
        raise SpecError(f"{INDEX} is not JSON: {error}", where=where, mend="restore the file") from error
    if lacking:
        raise _incomplete(f"{INDEX} names", lacking, where)


def _incomplete(who: str, lacking: Sequence[str], where: str) -> SpecError:
    named = ", ".join(lacking[:_NAMED]) + (f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else "")
    what = f"a part of the model is missing: {who} {named}"
    return SpecError(what, where=where, mend="upload the rest, or take it with `weights.include`")


def _other_ways(recipe: Recipe, paths: Sequence[str]) -> str:
    """What else can be done with weights that the engine does not open."""
    if ADAPTER_FILES[0] in paths:
        return "this is a LoRA adapter: name it in `weights.adapters`, and in `weights.source` the model that it is for"
    able = [one.engine for one in RECIPES.values() if one is not recipe and _opens(one, paths)]
    other = (
        f"use an engine that opens these ({', '.join(able)})" if able else "choose another source, or another engine"
    )
    if recipe.engine in CONVERTED and able:
        return f"compile them: name them in `conversion.source`, for `packager convert`; or {other}"
    return f"{other}, or choose another source" if able else other


def _opens(recipe: Recipe, paths: Sequence[str]) -> bool:
    if recipe.folder:
        return not recipe.lacking([path for path in paths if not path.endswith(".gguf")])
    return bool(recipe.weights) and any(path.endswith(recipe.weights) for path in paths)


def _tell_unused(file: SpecFile, files: Sequence[SourceFile], entry: str, tools: Tools) -> None:
    """Say that more is taken than the engine opens: repositories of GGUF files hold a model in many quantizations."""
    recipe = RECIPES[file.spec.engine.kind]
    whole = without_part(entry)
    others = [one for one in files if one.path.endswith(recipe.weights) and without_part(one.path) != whole]
    if not recipe.folder and others:
        size = sum(one.size for one in others) / 1e9
        tools.say(
            f"{len(others)} more such files are taken beside {entry} ({size:,.1f} GB): `weights.include` says which"
        )


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _check_file(file: SpecFile, chosen: str | None, paths: Sequence[str]) -> None:
    recipe = RECIPES[file.spec.engine.kind]
    entry, kinds = recipe.entry(paths, chosen), " or ".join(recipe.weights)
    fitting = [path for path in paths if path.endswith(recipe.weights)]
    where = file.where("weights", "file" if chosen else "source")
    if not fitting:
        what = f"the engine {recipe.engine} opens {kinds}, and the weights have none"
        raise SpecError(what, where=where, mend=_other_ways(recipe, paths))
    choice = f"one of: {', '.join(fitting[:_NAMED])}"
    if entry is None:
        what = f"the engine {recipe.engine} opens one file, and {len(fitting)} of the weights are {kinds}"
        if first := first_part(fitting):
            choice = f"the first part: {first}"
        raise SpecError(what, where=where, mend=f"say which in `weights.file`, {choice}")
    if entry not in paths:
        raise SpecError(f"{entry} is not among the weights", where=where, mend=choice)
    if entry not in fitting:
        raise SpecError(f"the engine {recipe.engine} opens {kinds}, not {entry}", where=where, mend=choice)
    if lacking := lacking_gguf(entry, paths):
        raise _incomplete(f"with {entry} belong", lacking, where)
    if entry != (first := min(path for path in fitting if without_part(path) == without_part(entry))):
        what = f"{entry} is not the first part of the model, which the engine opens"
        raise SpecError(what, where=where, mend=f"write {first}: it opens the others by itself")
