"""The weights a lock answers for: are the local ones still what was locked, and has the store what is shipped?"""

from collections.abc import Iterator
from pathlib import Path

from ..errors import FetchError, IntegrityError, LoadError, PackageError
from ..manifest import WeightsFile
from ..spec.load import SpecFile
from ..weights.fetch import Wanted, fetch_files
from ..weights.file import FileSource
from ..weights.identity import file_digest, find_intact
from ..weights.mirrors import open_locked
from ..weights.policy import check_names
from ..weights.source import Source
from ..weights.watch import Watch
from .lockfile import Lock, WeightsLock
from .origin import at
from .tools import Tools, storing

_NAMED = 5
"""Files that a message names; more are counted."""


def check_sources(lock: Lock, file: SpecFile, tools: Tools) -> None:
    """Check the locked weights of this machine at their source; those that ship in the image are in the store afterwards.

    A file that is gone from its source is no matter while the store has its bytes: that is what a lock
    is for. Raises IntegrityError when it has other bytes, LoadError when it is in neither place.
    """
    for locked, source, where in _sources(lock, file):
        if _is_local(locked, source):
            _check_local(locked, source, where, tools, keep=_ships(file))


def fetch_sources(lock: Lock, file: SpecFile, tools: Tools) -> None:
    """Bring the locked weights that ship in the image, and are not of this machine, into the store, verified.

    What the store has is not asked for, whatever became of its branch. Raises FetchError when offline, LoadError when
    they cannot be had, IntegrityError when they are others.
    """
    for locked, source, where in _sources(lock, file):
        if _is_local(locked, source) or not _ships(file):
            continue
        if problems := check_names(locked.files, where=where):
            raise PackageError.collect(problems)
        lacking = [one for one in locked.files if find_intact(one, tools.store, tools.on_bytes) is None]
        # A mirror on a disk is no network.
        if lacking and tools.offline and not isinstance(source, FileSource):
            raise _offline(lacking, where)
        if lacking:
            tools.stage(f"weights: {_counted(lacking)}")
        with at(where):
            fetch_files([Wanted(one, source) for one in lacking], tools.store, _Told(tools))


def _sources(lock: Lock, file: SpecFile) -> Iterator[tuple[WeightsLock, Source, str]]:
    """Weights, tokenizer and adapters, each with its source, or the mirror of it, and its place in the spec."""
    spec = file.spec.weights
    if lock.weights is None or spec is None:
        return
    places = [(lock.weights, file.where("weights", "source"))]
    if lock.tokenizer is not None:
        places.append((lock.tokenizer, file.where("weights", "tokenizer")))
    for number, adapter in enumerate(spec.adapters):
        places.append((lock.adapters[adapter.name], file.where("weights", "adapters", number, "source")))
    for locked, where in places:
        with at(where):
            source = open_locked(locked.source, locked.revision, folder=file.folder)
        yield locked, source, where


def _is_local(locked: WeightsLock, source: Source) -> bool:
    return isinstance(source, FileSource) and locked.source.startswith("file://")


def _ships(file: SpecFile) -> bool:
    return file.spec.weights is not None and file.spec.weights.ship == "in_image"


def _check_local(lock: WeightsLock, source: Source, where: str, tools: Tools, *, keep: bool) -> None:
    root = Path(source.uri.removeprefix("file://"))
    for locked in lock.files:
        path = root / locked.path if root.is_dir() else root
        if path.is_file():
            _check(path, locked, where, tools)
        if keep and find_intact(locked, tools.store, tools.on_bytes) is None:
            _keep(path, locked, where, tools)


def _check(path: Path, locked: WeightsFile, where: str, tools: Tools) -> None:
    found = file_digest(path, tools.store, tools.on_bytes)
    if found != locked.sha256:
        raise IntegrityError(
            f"{locked.path} changed since it was locked: sha256 {found[:12]}, locked {locked.sha256[:12]}",
            where=where,
            mend="run `packager lock` if the change is wanted; else restore the file",
        )


def _keep(path: Path, locked: WeightsFile, where: str, tools: Tools) -> None:
    try:
        with storing(tools.store):
            tools.store.add(path, sha256=locked.sha256)
    except FileNotFoundError as error:
        raise LoadError(
            f"{locked.path} is neither here nor in the store: {path}",
            where=where,
            mend="restore the file, or copy a store that has it (PACKAGER_CACHE)",
        ) from error


def _offline(lacking: list[WeightsFile], where: str) -> FetchError:
    named = ", ".join(one.path for one in lacking[:_NAMED])
    more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
    what = f"offline, and the store lacks weights ({_counted(lacking)}): {named}{more}"
    mend = (
        "build once where the network is, and bring that store here (PACKAGER_CACHE); "
        "or say where a copy lies: PACKAGER_WEIGHTS_MIRRORS"
    )
    return FetchError(what, where=where, mend=mend)


def _counted(files: list[WeightsFile]) -> str:
    return f"{len(files)} file{'s' * (len(files) > 1)}, {sum(one.size for one in files) / 1e6:,.1f} MB"


class _Told(Watch):
    """A fetch, told to whoever watches the command."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def on_bytes(self, title: str, done: int, total: int) -> None:
        if self._tools.on_bytes is not None:
            self._tools.on_bytes(title, done, total)

    def retried(self, title: str, why: str) -> None:
        self._tools.say(f"{title}: {why}")
