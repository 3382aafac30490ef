"""What an upload would do, and whether it did it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import Problem
from ..weights.source import SourceFile, is_hidden


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file to upload: its relative POSIX path at the destination, where it lies, size in bytes, hex sha256."""

    path: str
    local: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What goes to `destination`: the files to `send`, and those that are `present` with the same sha256.

    `others` are files of the destination that are none of these. They stay, and a spec that names the destination
    takes them too.
    """

    destination: str
    send: tuple[LocalFile, ...]
    present: tuple[LocalFile, ...]
    others: tuple[str, ...]

    @property
    def files(self) -> tuple[LocalFile, ...]:
        """All files that are at the destination afterwards because of this upload, sorted by path."""
        return tuple(sorted((*self.send, *self.present), key=lambda file: file.path))


def make_plan(destination: str, files: Sequence[LocalFile], there: Iterable[SourceFile]) -> UploadPlan:
    """The plan for `files` at a destination that has `there`. A file without a known sha256 is sent again."""
    listed = {one.path: one for one in there}
    same = {file.path for file in files if _is_same(file, listed.get(file.path))}
    others = sorted(path for path in listed.keys() - {file.path for file in files} if not is_hidden(path))
    return UploadPlan(
        destination,
        send=tuple(file for file in files if file.path not in same),
        present=tuple(file for file in files if file.path in same),
        others=tuple(others),
    )


def differences(plan: UploadPlan, there: Iterable[SourceFile]) -> tuple[Problem, ...]:
    """What a destination that has `there` lacks of the plan, or has otherwise."""
    listed = {one.path: one for one in there}
    found = []
    for file in plan.files:
        one = listed.get(file.path)
        if one is None:
            found.append(f"{file.path} is not there after the upload")
        elif one.size != file.size:
            found.append(f"{file.path} has {one.size} bytes there, and {file.size} here")
        elif one.sha256 is not None and one.sha256 != file.sha256:
            found.append(f"{file.path} has the sha256 {one.sha256[:12]} there, and {file.sha256[:12]} here")
    mend = "upload again; if it stays so, somebody else writes to the same place"
    return tuple(Problem(what, plan.destination, mend) for what in found)


def _is_same(file: LocalFile, there: SourceFile | None) -> bool:
    return there is not None and there.size == file.size and there.sha256 == file.sha256
