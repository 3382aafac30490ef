"""The local files a lock answers for: are they still what was locked, and does the store have what is shipped?"""

from pathlib import Path

from ..errors import IntegrityError, LoadError
from ..manifest import WeightsFile
from ..spec.load import SpecFile
from ..weights.load import file_digest, find_intact
from ..weights.schemes import open_source
from .lockfile import Lock, WeightsLock
from .tools import Tools


def check_sources(lock: Lock, file: SpecFile, tools: Tools) -> None:
    """Check the locked weights at their source; those that ship in the image are in the store afterwards.

    A file that is gone from its source is no matter while the store has its bytes: that is what a lock
    is for. Raises IntegrityError when it has other bytes, LoadError when it is in neither place.
    """
    spec = file.spec.weights
    if lock.weights is None or spec is None:
        return
    _check_source(lock.weights, file, file.where("weights", "source"), tools)
    for number, adapter in enumerate(spec.adapters):
        where = file.where("weights", "adapters", number, "source")
        _check_source(lock.adapters[adapter.name], file, where, tools)


def _check_source(lock: WeightsLock, file: SpecFile, where: str, tools: Tools) -> None:
    if not lock.source.startswith("file://"):
        return
    root = Path(open_source(lock.source, folder=file.folder).uri.removeprefix("file://"))
    keep = file.spec.weights is not None and file.spec.weights.ship == "in_image"
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
        tools.store.add(path, sha256=locked.sha256)
    except FileNotFoundError as error:
        raise LoadError(
            f"{locked.path} is neither here nor in the store: {path}",
            where=where,
            mend="restore the file, or copy a store that has it (PACKAGER_CACHE)",
        ) from error
