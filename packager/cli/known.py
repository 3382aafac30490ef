"""What is known of a spec's model without loading it: its config.json, and how large its files are.

Asked in this order: what lies beside the spec, what the lock names, where the weights are, or will be made of. The
network is asked only where the first two say no shapes.
"""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..lock.drift import lock_inputs
from ..lock.hardware import loaded_bytes
from ..lock.keep import read_lock
from ..lock.lockfile import WeightsLock
from ..lock.origin import Origin, at
from ..lock.tools import Tools
from ..recipes import RECIPES
from ..sizing.compiled import Limits
from ..sizing.gguf import config_of_gguf
from ..spec.conversion import ConversionSpec
from ..spec.load import SpecFile
from ..spec.weights import WeightsSpec
from ..weights.file import FileSource
from ..weights.identity import find_intact
from ..weights.mirrors import open_locked
from ..weights.source import SourceFile, read_file

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
_HEAD = 1 << 20
"""Bytes of a GGUF file that hold what it says of shapes."""


@dataclass(frozen=True, slots=True)
class Known:
    """`config` is the model's, read from `config_from`; `files` are the bytes of its weights, None where nobody lists them.

    `files_from` says who does. `limits` are those of an engine that was compiled.
    """

    config: Mapping[str, Any]
    config_from: str
    files: int | None
    files_from: str
    limits: Limits | None = None


def know(file: SpecFile, tools: Tools) -> Known:
    """What is known of the model of `file`, whose engine takes weights. Raises SpecError, LoadError."""
    config, origin = _beside(file, CONFIG), f"{file.folder.name or '.'}/{CONFIG}"
    locked = _locked(file)
    sizes = [(one.path, one.size) for one in locked.files] if locked else []
    source = "the lock"
    if config is None and locked is not None:
        config, origin = _stored(file, locked, tools), "the lock's config.json"
    if config is None or not sizes:
        made = file.spec.conversion if config is None and locked is None else None
        # Elsewhere there may be nothing of an engine yet.
        here = tools if made is None else replace(tools, offline=True)
        found, listed = _at_source(file, here, file.spec.weights, wanted=config is None)
        if config is None:
            config, origin = found, "the weights' config.json"
        if config is None and made is not None:
            (config, _), origin = _at_source(file, tools, made, wanted=True), "conversion's config.json"
        if not sizes:
            sizes, source = listed, "the weights' source"
    if config is None:
        raise _nothing(file)
    files = loaded_bytes(file.spec, sizes)
    # An engine was compiled of such files, and is as large as what was made of them.
    compiled = file.spec.engine.kind == "tensorrt_llm_engine"
    if files is None and not compiled and (index := _beside(file, INDEX)) is not None:
        said = index.get("metadata")
        total = said.get("total_size") if isinstance(said, dict) else None
        files, source = (total, INDEX) if isinstance(total, int) and total > 0 else (None, source)
    return Known(config, origin, files, source if files else "", _limits(locked))


def _limits(locked: WeightsLock | None) -> Limits | None:
    built = locked.compiled["limits"] if locked and locked.compiled else None
    return Limits(built["max_seq_len"], built["max_num_tokens"], built["max_batch_size"]) if built else None


def _nothing(file: SpecFile) -> SpecError:
    return SpecError(
        "nothing says what shapes the model has",
        where=file.where("weights", "source"),
        mend="put the config.json of the transformers model beside the spec, or run this where the weights are in reach",
    )


def _beside(file: SpecFile, name: str) -> Mapping[str, Any] | None:
    path = file.folder / name
    return _parsed(path.read_bytes(), str(path)) if path.is_file() else None


def _parsed(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"this is not JSON: {error}", where=where, mend="restore the file") from error
    if not isinstance(value, dict):
        raise SpecError("this is JSON, but no configuration", where=where, mend="restore the file")
    return value


def _locked(file: SpecFile) -> WeightsLock | None:
    """The weights in the lock beside the spec, while it answers for what the spec says of them."""
    lock = read_lock(file)
    asked = {key: one for key, one in lock_inputs(file.spec).items() if key.startswith("weights")}
    same = lock is not None and all(lock.inputs.get(key) == one for key, one in asked.items())
    return lock.weights if lock is not None and same else None


def _stored(file: SpecFile, locked: WeightsLock, tools: Tools) -> Mapping[str, Any] | None:
    """What the store has of the locked files, where that says the shapes."""
    for one in locked.files:
        if _tells(file, [one.path], one.path):
            stored = find_intact(one, tools.store, tools.on_bytes)
            if stored is not None:
                with stored.path.open("rb") as opened:
                    data = opened.read(_HEAD if one.path.endswith(".gguf") else -1)
                return _told(one.path, data)
    return None


def _at_source(
    file: SpecFile, tools: Tools, asked: WeightsSpec | ConversionSpec | None, *, wanted: bool
) -> tuple[Mapping[str, Any] | None, list[tuple[str, int]]]:
    """The configuration (where it is `wanted`) and the listing of what is `asked`, where its source may be asked.

    Of a model to be converted there is no listing: the weights will have other files.
    """
    if asked is None:
        return None, []
    weights = asked if isinstance(asked, WeightsSpec) else None
    with at(file.where("weights" if weights else "conversion", "source")):
        source = open_locked(asked.source, asked.revision or "", folder=file.folder)
        local = isinstance(source, FileSource)  # or a mirror on a disk
        if not Path(source.uri.removeprefix("file://")).exists() if local else tools.offline or not wanted:
            return None, []
        with Origin(source, tools) as origin:
            listed = [one for one in origin.inventory() if _taken(one.path, weights.include if weights else None)]
            paths = [one.path for one in listed]
            tells = next((one for one in listed if _tells(file, paths, one.path)), None) if wanted else None
            config = None if tells is None else _read(origin, tells)
    return config, [(one.path, one.size) for one in listed] if weights else []


def _read(origin: Origin, one: SourceFile) -> Mapping[str, Any] | None:
    return _told(one.path, read_file(origin, one, stop=_HEAD if one.path.endswith(".gguf") else None))


def _taken(path: str, include: Sequence[str] | None) -> bool:
    return include is None or any(fnmatch.fnmatchcase(path, pattern) for pattern in include)


def _tells(file: SpecFile, paths: Sequence[str], path: str) -> bool:
    """Whether this file says the model's shapes: the GGUF file that is opened, or a folder's config.json."""
    recipe, weights = RECIPES[file.spec.engine.kind], file.spec.weights
    if recipe.folder:
        return path == CONFIG
    chosen = weights.file if weights else None
    return path == (recipe.entry(paths, chosen) or chosen)


def _told(path: str, data: bytes) -> Mapping[str, Any] | None:
    if path.endswith(".gguf"):
        return config_of_gguf(data) or None
    return _parsed(data, path)
