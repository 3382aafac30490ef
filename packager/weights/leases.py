"""Leases: which files of the store a living process uses, so that `packager store prune` leaves them.

A lease is a small file below `root/leases/`, locked for as long as its process lives: the kernel lets go of the lock
however the process ends. It says how far that lock reaches: who is beyond cannot tell whether its process lives, and
takes it that it does. It is taken before files are looked for, through a gate that is shut while files are removed: what
is found after that stays.
"""

import json
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from ..digest import sha256_hex
from ..manifest import Manifest, WeightsManifest, decode
from ..store import Store
from .flock import ALONE, AT_ONCE, DISK, SHARED, excludes, lock, reach

_READABLE = 0o644


@dataclass(frozen=True, slots=True)
class Lease:
    """What one process uses: `files` are names by hex sha256, None is all that the store has.

    `host` is what people call its machine, `locks` is how far its lock reaches (`flock.reach`), or empty where the file
    system's locks do nothing, `since` is seconds since 1970.
    """

    holder: str
    pid: int
    host: str
    locks: str
    since: int
    files: Mapping[str, str] | None


class Leasing:
    """The right of this process to files of the store, from `take` to `release`."""

    def __init__(self, store: Store, holder: str, files: Mapping[str, str] | None) -> None:
        self._store, self._holder, self._files = store, holder, files
        self._held: tuple[Path, BinaryIO] | None = None

    def take(self) -> None:
        """Hold the lease, if it is not held yet. Raises OSError where the store cannot be written."""
        if self._held is not None or self._files == {}:
            return
        folder = _folder(self._store)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        temporary, final = folder / f".{name}", folder / f"{name}.json"
        with gate(self._store, shut=False):
            file = temporary.open("xb", buffering=0)
            try:
                lock(file.fileno(), ALONE)
                os.fchmod(file.fileno(), _READABLE)
                locks = reach(file.fileno()) if excludes(temporary) else ""
                file.write(json.dumps(asdict(self._lease(locks))).encode())
                if locks != DISK:
                    os.fsync(file.fileno())  # who shares the volume sees the name at once, and the bytes may come later
                temporary.replace(final)  # nobody sees it before it is locked and whole
            except BaseException:
                temporary.unlink(missing_ok=True)
                file.close()
                raise
        self._held = (final, file)
        # It becomes a file's name, and a package may call itself anything.
        key = sha256_hex(self._holder.encode("utf-8", "replace"))
        if self._files and self._store.recall("names", key) != self._files:
            self._store.remember("names", key, self._files)  # for lists, when nobody holds them any more

    def bequeath(self) -> None:
        """Hold the lease until this process has ended, whatever program it becomes by then, and those that it starts."""
        if self._held is not None:
            os.set_inheritable(os.dup(self._held[1].fileno()), True)  # nobody closes it

    def release(self) -> None:
        """Give the files up. Idempotent."""
        if self._held is not None:
            path, file = self._held
            self._held = None
            with suppress(OSError):
                path.unlink()
            file.close()

    def _lease(self, locks: str) -> Lease:
        return Lease(self._holder, os.getpid(), platform.node(), locks, int(time.time()), self._files)


@contextmanager
def leased(store: Store, holder: str, files: Mapping[str, str] | None) -> Iterator[None]:
    """Hold a lease for as long as the body runs; a store that cannot be written is not pruned either."""
    leasing = Leasing(store, holder, files)
    with suppress(OSError):
        leasing.take()
    try:
        yield
    finally:
        leasing.release()


def names_of(manifest: Manifest) -> dict[str, str]:
    """What `load()` of a package takes from the store: where each file is from, by its hex sha256."""
    parts = (part for parts in manifest.folders().values() for part in parts)
    return {file.sha256: _name(part, file.path) for part in parts if part.ship == "on_load" for file in part.files}


def _name(weights: WeightsManifest, path: str) -> str:
    address = weights.source.partition("?")[0].rstrip("/")  # without a signature
    # An address may be that of its one file.
    alone = len(weights.files) == 1 and address.rpartition("/")[2] == path
    return address if alone else f"{address}/{path}"


def living(store: Store) -> tuple[Lease, ...]:
    """The leases of processes that live, as far as can be told. Raises OSError."""
    return tuple(lease for path in _paths(store) if (lease := _living(path)) is not None)


def clear_dead(store: Store) -> int:
    """Remove the leases of processes that are gone, and say how many. The gate must be shut. Raises OSError."""
    dead = [path for path in _paths(store) if _living(path) is None]
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


@contextmanager
def gate(store: Store, *, shut: bool) -> Iterator[None]:
    """While it is shut nobody takes a lease, and who shuts it waits for those that are being taken. Raises OSError."""
    folder = _folder(store)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        lock(descriptor, ALONE if shut else SHARED)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on the file; also where its file system has no locks to tell."""
    with path.open("rb") as file:
        return _is_locked(file)


def _is_locked(file: BinaryIO) -> bool:
    return lock(file.fileno(), SHARED | AT_ONCE) is not True


def _living(path: Path) -> Lease | None:
    try:
        with path.open("rb") as file:
            held, here = _is_locked(file), reach(file.fileno())
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        lease: Lease = decode(Lease, json.loads(data))
    except ValueError:  # of another version, or lost to a power cut, which disks have: whatever it names is used
        lease = Lease("an unreadable lease", 0, "", DISK, 0, None)
    return lease if held or lease.locks != here else None


def _paths(store: Store) -> list[Path]:
    return sorted(_folder(store).glob("*.json"))


def _folder(store: Store) -> Path:
    return store.root / "leases"
