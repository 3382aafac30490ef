"""The lock: a spec resolved to exact bytes, and its file `packager.lock`.

Invariants: no host, no time, no path of the machine that made it; the same resolution gives the
same bytes; reading and writing again gives the same bytes. Pure: reading the file is the caller's.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..debian.resolve import DebianPackage, DebianRelease
from ..digest import readable_json
from ..errors import LockError
from ..facts import BaseFacts
from ..manifest import WeightsFile, decode
from ..weights.compiled import parse_build
from ..wheels.contest import Contest
from ..wheels.resolve import Wheel
from .model import ModelFacts

FORMAT = 5
FILE_NAME = "packager.lock"


@dataclass(frozen=True, slots=True)
class DebianBaseLock:
    """A base made of Debian packages, unpacked without running their scripts."""

    release: DebianRelease
    packages: tuple[DebianPackage, ...]
    kind: Literal["debian"] = "debian"


@dataclass(frozen=True, slots=True)
class ImageBaseLock:
    """A base that is an image; `digest` is its manifest's."""

    kind: Literal["registry", "layout"]
    digest: str


BaseLock = DebianBaseLock | ImageBaseLock


@dataclass(frozen=True, slots=True)
class WeightsLock:
    """The weights, file by file. `source` is the spec's address, `revision` what it was pinned to.

    `model` is what they say of themselves: a later build checks its engine and GPU against it. `compiled` is the
    engine.json of a compiled engine.
    """

    source: str
    revision: str
    files: tuple[WeightsFile, ...]
    model: ModelFacts = field(default_factory=ModelFacts)
    compiled: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """Everything that decides the package's and the image's bytes, beside spec and packager version.

    `inputs` are the parts of the spec (and of packager) that the lock answers, by dotted name:
    drift is a difference there. `requirements` are the lines of requirements.txt, for serving the
    package on other Pythons and platforms. `tokenizer` is what is taken of `weights.tokenizer`, `adapters` are LoRA
    adapters by name.
    """

    layer_format: int
    inputs: Mapping[str, Any]
    base: BaseLock
    facts: BaseFacts
    wheels: tuple[Wheel, ...]
    contests: tuple[Contest, ...]
    requirements: tuple[str, ...]
    weights: WeightsLock | None
    tokenizer: WeightsLock | None = None
    adapters: Mapping[str, WeightsLock] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The bytes of `packager.lock`."""
        value = {"format": FORMAT, **asdict(self)}
        value["inputs"] = dict(sorted(self.inputs.items()))
        value["facts"]["installed"] = dict(sorted(self.facts.installed.items()))
        value["adapters"] = dict(sorted(value["adapters"].items()))
        value["base"] = {"kind": self.base.kind, **asdict(self.base)}
        return readable_json(value)


def parse_lock(data: bytes, *, where: str) -> Lock:
    """The lock that `data` holds; `where` names its file in errors. Raises LockError."""
    mend = "make it again with `packager lock`"
    try:
        value = json.loads(data)
    except ValueError as error:
        raise LockError(f"the lock is not JSON: {error}", where=where, mend=mend) from error
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        what = f"the lock has format {json.dumps(found)}; this packager reads format {FORMAT}"
        raise LockError(what, where=where, mend=mend)
    try:
        lock: Lock = decode(Lock, {key: one for key, one in value.items() if key != "format"})
        if lock.weights is not None and lock.weights.compiled is not None:
            _check_compiled(lock.weights.compiled)
    except ValueError as error:
        raise LockError(f"the lock is damaged: {error}", where=where, mend=mend) from error
    return lock


def _check_compiled(value: Mapping[str, Any]) -> None:
    """Raise ValueError for what is no engine.json."""
    try:
        parse_build(value)
    except ValueError as error:
        raise ValueError(f"weights.compiled: {error}") from error
