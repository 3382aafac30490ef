"""From a spec to a lock: asks the package index, the Debian mirror, the registry and the weights.

The one place where what "latest" means is decided. What was decided is in the returned value;
what was fetched on the way is in the store.
"""

from dataclasses import replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..errors import LockError, Problem, ResolveError, SpecError
from ..facts import BaseFacts
from ..spec.load import SpecFile
from ..wheels.contest import find_contests
from ..wheels.fetch import fetch_wheels
from ..wheels.read import read_wheel
from .base import lock_base
from .built import check_vendor
from .check import check
from .closure import PYTHON_FLOOR, resolve_closure
from .drift import LAYER_FORMAT, lock_inputs
from .gates import check_files, check_python
from .lockfile import Lock
from .tools import Tools
from .weights import lock_adapters, lock_weights


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
    (weights, tokenizer), adapters = lock_weights(file, tools), lock_adapters(file, tools)
    if weights is not None:
        check_files(file, [one.path for one in weights.files])
    tools.stage("lock: base")
    base, facts = lock_base(file, tools)
    _check_python(facts, file)
    check_python(file, facts.python)
    check_vendor(file, facts, weights.compiled if weights else None)
    tools.stage("lock: requirements")
    try:
        closure = resolve_closure(spec, facts, tools)
    except ResolveError as error:
        raise ResolveError.collect(_placed(problem, file) for problem in error.problems) from error
    wheels = closure.wheels
    # What a build costs is known here, before the first byte of it is fetched.
    tools.stage(f"lock: {len(wheels)} wheels, {sum(wheel.size for wheel in wheels) / 1e6:,.0f} MB")
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
        requirements=closure.requirements,
        weights=weights,
        tokenizer=tokenizer,
        adapters=adapters,
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
