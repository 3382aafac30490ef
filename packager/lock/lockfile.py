"""The lock: a spec resolved to exact bytes, and its file `packager.lock`.

Invariants: no host, no time, no path of the machine that made it; the same resolution gives the
same bytes; reading and writing again gives the same bytes. Pure: reading the file is the caller's.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..debian.resolve import DebianPackage, DebianRelease
from ..digest import readable_json
from ..errors import LockError
from ..facts import BaseFacts
from ..manifest import WeightsFile
from ..wheels.contest import Contest
from ..wheels.resolve import Wheel

FORMAT = 1
FILE_NAME = "packager.lock"


@dataclass(frozen=True, slots=True)
class DebianBaseLock:
    """A base made of Debian packages, unpacked without running their scripts."""

    release: DebianRelease
    packages: tuple[DebianPackage, ...]


@dataclass(frozen=True, slots=True)
class ImageBaseLock:
    """A base that is an image: `kind` is `registry` or `layout`, `digest` its manifest's."""

    kind: str
    digest: str


BaseLock = DebianBaseLock | ImageBaseLock


@dataclass(frozen=True, slots=True)
class WeightsLock:
    """The weights, file by file. `source` is the spec's address, `revision` what it was pinned to."""

    source: str
    revision: str
    files: tuple[WeightsFile, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """Everything that decides the package's and the image's bytes, beside spec and packager version.

    `inputs` are the parts of the spec (and of packager) that the lock answers, by dotted name:
    drift is a difference there. `requirements` are the lines of requirements.txt, for serving the
    package on other Pythons and platforms.
    """

    layer_format: int
    inputs: Mapping[str, Any]
    base: BaseLock
    facts: BaseFacts
    wheels: tuple[Wheel, ...]
    contests: tuple[Contest, ...]
    requirements: tuple[str, ...]
    weights: WeightsLock | None

    def to_bytes(self) -> bytes:
        """The bytes of `packager.lock`."""
        value = {"format": FORMAT, **asdict(self)}
        value["inputs"] = dict(sorted(self.inputs.items()))
        value["facts"]["installed"] = dict(sorted(self.facts.installed.items()))
        value["base"] = {"kind": base_kind(self.base), **asdict(self.base)}
        return readable_json(value)


def base_kind(base: BaseLock) -> str:
    """`debian`, `registry` or `layout`."""
    return "debian" if isinstance(base, DebianBaseLock) else base.kind


def parse_lock(data: bytes, *, where: str) -> Lock:
    """The lock that `data` holds; `where` names its file in errors. Raises LockError."""
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise LockError(
                f"the lock has format {value['format']}; this packager reads format {FORMAT}",
                where=where,
                mend="make it again with `packager lock`",
            )
        return Lock(
            layer_format=value["layer_format"],
            inputs=value["inputs"],
            base=_base(value["base"]),
            facts=BaseFacts(**value["facts"]),
            wheels=tuple(Wheel(**wheel) for wheel in value["wheels"]),
            contests=tuple(Contest(**{**one, "losers": tuple(one["losers"])}) for one in value["contests"]),
            requirements=tuple(value["requirements"]),
            weights=_weights(value["weights"]),
        )
    except ValueError as error:
        mend = "make it again with `packager lock`, or restore it (a merge may have left its marks)"
        raise LockError(f"the lock is not JSON: {error}", where=where, mend=mend) from error
    except (KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise LockError(
            f"the lock is damaged: {what}", where=where, mend="make it again with `packager lock`"
        ) from error


def _base(value: Mapping[str, Any]) -> BaseLock:
    if value["kind"] == "debian":
        packages = tuple(DebianPackage(**package) for package in value["packages"])
        return DebianBaseLock(DebianRelease(**value["release"]), packages)
    return ImageBaseLock(kind=value["kind"], digest=value["digest"])


def _weights(value: Mapping[str, Any] | None) -> WeightsLock | None:
    if value is None:
        return None
    files = tuple(WeightsFile(**file) for file in value["files"])
    return WeightsLock(value["source"], value["revision"], files)
