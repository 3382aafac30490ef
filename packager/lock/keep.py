"""The lock beside the spec: used while it answers the spec, made anew when it does not."""

from pathlib import Path

from ..errors import DriftError, LockError, OutputError, Problem
from ..spec.load import SpecFile
from ..store import write_atomically
from .built import check_built
from .check import check
from .drift import drifted
from .gates import check_weights
from .lockfile import FILE_NAME, Lock, parse_lock
from .resolve import resolve
from .sources import check_sources
from .tools import Tools


def lock_for(file: SpecFile, tools: Tools, *, locked: bool = False) -> Lock:
    """The lock beside the spec when it answers the spec, else a new one, written there.

    Raises SpecError for what cannot work together, DriftError instead of locking anew when `locked` or offline
    (making a lock asks indexes and mirrors), IntegrityError when the weights at their source are no longer the
    locked ones, LoadError when they are nowhere.
    """
    check(file)
    old = read_lock(file)
    moved = drifted(old, file.spec) if old else ()
    if old is not None and not moved:
        if old.weights is not None:
            check_weights(file, old.weights.model, tools.say)  # the GPU may be another one
            check_built(file, old.weights.compiled)
        check_sources(old, file, tools)
        return old
    if locked or tools.offline:
        check_lock(file)
    for drift in moved:
        tools.say(f"locking again: {drift}")
    return write_lock(resolve(file, tools), file.folder / FILE_NAME)


def check_lock(file: SpecFile) -> None:
    """Raise DriftError, naming every field that moved, unless the lock beside the spec answers it."""
    lock = read_lock(file)
    said = ["there is no lock"] if lock is None else [str(drift) for drift in drifted(lock, file.spec)]
    if said:
        *rest, last = said
        mend = "run `packager lock` where package indexes and mirrors are in reach"
        raise DriftError.collect([*(Problem(what, _shown(file)) for what in rest), Problem(last, _shown(file), mend)])


def read_lock(file: SpecFile) -> Lock | None:
    """The lock beside the spec, or None when there is none. Raises LockError for one that cannot be read."""
    try:
        data = (file.folder / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LockError(f"the lock cannot be read: {error.strerror}", where=_shown(file)) from error
    return parse_lock(data, where=_shown(file))


def _shown(file: SpecFile) -> str:
    """The lock's path as messages name it."""
    return str(Path(file.shown).with_name(FILE_NAME))


def write_lock(lock: Lock, path: Path) -> Lock:
    """Write `lock` to `path`, whole or not at all. Raises OutputError."""
    try:
        write_atomically(path, lock.to_bytes())
    except OSError as error:
        mend = "give the spec's folder write permission, or copy the spec to a folder of yours"
        raise OutputError(f"the lock cannot be written: {error.strerror}", where=str(path), mend=mend) from error
    return lock
