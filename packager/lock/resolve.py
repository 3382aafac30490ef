"""From a spec to a lock: asks the package index, the Debian mirror, the registry and the weights.

The one place where what "latest" means is decided. What was decided is in the returned value;
what was fetched on the way is in the store.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..errors import LoadError, LockError, Problem, ResolveError, SpecError
from ..facts import BaseFacts
from ..manifest import WeightsFile
from ..recipes import RECIPES
from ..spec.load import SpecFile
from ..weights.load import file_digest
from ..weights.policy import refuse
from ..weights.schemes import open_source
from ..weights.source import Source, SourceFile
from ..wheels.contest import find_contests
from ..wheels.fetch import fetch_wheels
from ..wheels.read import read_wheel
from ..wheels.resolve import resolve_image, resolve_universal
from .base import lock_base
from .check import check
from .drift import LAYER_FORMAT, lock_inputs, python_requirements
from .lockfile import Lock, WeightsLock
from .tools import Tools

PYTHON_FLOOR = "3.11"
"""The oldest Python that the container side runs on; requirements.txt is good from here on."""


def resolve(file: SpecFile, tools: Tools) -> Lock:
    """The lock of the spec in `file`.

    Raises SpecError for what cannot work together, LockError offline, ResolveError or FetchError where
    no answer or no bytes are to be had, LoadError for weights, ImageError for a base that cannot carry
    the package.
    """
    spec = file.spec
    check(file)
    if tools.offline:
        raise LockError(
            "a lock is made of what package indexes and mirrors answer, and offline none is asked",
            where=file.shown,
            mend="make it without --offline (PACKAGER_OFFLINE); with it `packager build --offline` works",
        )
    tools.stage("lock: weights")
    weights = _weights(file, tools)
    tools.stage("lock: base")
    base, facts = lock_base(file, tools)
    _check_python(facts, file)
    tools.stage("lock: requirements")
    requirements = python_requirements(spec)
    try:
        wheels = resolve_image(requirements, facts, run=tools.run)
        universal = resolve_universal(requirements, python=PYTHON_FLOOR, run=tools.run)
    except ResolveError as error:
        raise ResolveError.collect(_placed(problem, file) for problem in error.problems) from error
    tools.stage("lock: wheels")
    paths = fetch_wheels(
        wheels, tools.store, facts=facts, run=tools.run, offline=tools.offline, on_bytes=tools.on_bytes
    )
    installed = {wheel.name: read_wheel(paths[wheel.sha256], facts) for wheel in wheels}
    return Lock(
        layer_format=LAYER_FORMAT,
        inputs=lock_inputs(spec),
        base=base,
        facts=facts,
        wheels=wheels,
        contests=find_contests(installed),
        requirements=tuple(universal.splitlines()),
        weights=weights,
    )


def _placed(problem: Problem, file: SpecFile) -> Problem:
    """The problem at its place in the spec, when it is with a distribution that the spec names."""
    for number, line in enumerate(file.spec.image.python_packages):
        if problem.where and canonicalize_name(Requirement(line).name) == canonicalize_name(problem.where):
            return replace(problem, where=file.where("image", "python_packages", number))
    return problem


def _check_python(facts: BaseFacts, file: SpecFile) -> None:
    found = tuple(int(part) for part in facts.python_minor.split("."))
    if found < tuple(int(part) for part in PYTHON_FLOOR.split(".")):
        raise SpecError(
            f"the base has Python {facts.python}; packager's runtime needs {PYTHON_FLOOR} or newer",
            where=file.where("image", "base"),
            mend="choose a base with a newer Python",
        )


def _weights(file: SpecFile, tools: Tools) -> WeightsLock | None:
    asked = file.spec.weights
    if asked is None:
        return None
    where = file.where("weights", "source")
    source = open_source(asked.source, folder=file.folder)
    try:
        listed = source.inventory()
    except LoadError as error:
        problem = error.problems[0]
        raise LoadError(f"{problem.what}: {problem.where}", where=where, mend=problem.mend) from error
    chosen = _chosen(listed, asked.include)
    problems = refuse(chosen, where=where)
    if problems:
        raise SpecError.collect(problems)
    files = tuple(_lock_file(source, one, tools, keep=asked.ship == "in_image") for one in chosen)
    _check_entry(file, [one.path for one in files])
    return WeightsLock(asked.source, source.revision, files)


def _chosen(listed: Iterable[SourceFile], include: tuple[str, ...] | None) -> tuple[SourceFile, ...]:
    if include is None:
        return tuple(listed)
    return tuple(one for one in listed if any(fnmatch.fnmatchcase(one.path, pattern) for pattern in include))


def _lock_file(source: Source, file: SourceFile, tools: Tools, *, keep: bool) -> WeightsFile:
    """The file with its sha256; `keep` puts its bytes into the store, where the package takes them from."""
    sha256 = file.sha256
    if sha256 is None:
        root = Path(source.uri.removeprefix("file://"))
        sha256 = file_digest(root if root.is_file() else root / file.path, tools.store, tools.on_bytes)
    if keep and tools.store.find(sha256, file.size) is None:
        tools.store.put(source.open(file.path), sha256=sha256, name=f"{source.uri}/{file.path}")
    return WeightsFile(file.path, file.size, sha256)


def _check_entry(file: SpecFile, paths: Sequence[str]) -> None:
    """The engine must know which file to open, and be able to."""
    weights, recipe = file.spec.weights, RECIPES[file.spec.engine.kind]
    chosen = weights.file if weights else None
    entry, kinds = recipe.entry(paths, chosen), " or ".join(recipe.weights)
    fitting = [path for path in paths if path.endswith(recipe.weights)]
    where = file.where("weights", "file" if chosen else "source")
    if not fitting:
        what = f"the engine {recipe.engine} opens {kinds}, and the weights have none"
        raise SpecError(what, where=where, mend="choose another source, or another engine")
    choice = f"one of: {', '.join(fitting[:5])}"
    if entry is None:
        what = f"the engine {recipe.engine} opens one file, and {len(fitting)} of the weights are {kinds}"
        raise SpecError(what, where=where, mend=f"say which in `weights.file`, {choice}")
    if entry not in paths:
        raise SpecError(f"{entry} is not among the weights", where=where, mend=choice)
    if entry not in fitting:
        raise SpecError(f"the engine {recipe.engine} opens {kinds}, not {entry}", where=where, mend=choice)
