"""What is in the store: files with their names, size, last use and users; unfinished parts."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..store import Store
from ..weights.leases import Lease, is_locked, living

HEX = 64
"""Characters of a hex sha256."""
_STARTS = (
    (b"PK\x03\x04", "wheel"),
    (b"!<arch>\n", "Debian package"),
    (b"\x1f\x8b", "layer"),
    (b"\x28\xb5\x2f\xfd", "layer"),
    (b"{", "image"),
)
"""How files begin that are no weights."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file of the store; `size` in bytes, `used` the last time in seconds since 1970, `users` who uses it now."""

    sha256: str
    name: str
    kind: str
    size: int
    used: float
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartItem:
    """A fetch that did not end: how many bytes of `size` lie on the disk, when it last moved, and whether it lives."""

    sha256: str
    name: str
    done: int
    size: int
    used: float
    live: bool
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole store at one moment. `free` is what its disk has left, in bytes."""

    items: tuple[Item, ...]
    parts: tuple[PartItem, ...]
    leases: tuple[Lease, ...]
    free: int


def take_inventory(store: Store) -> Inventory:
    """Look at every file of the store, without reading it. Raises OSError."""
    leases = living(store)
    names = _names(store, leases)
    items = tuple(
        Item(
            sha256,
            names.get(sha256) or _noted(sha256, store),
            "weights" if sha256 in names else _kind(store.path(sha256)),
            size,
            used,
            users_of(sha256, leases),
        )
        for sha256, size, used in _stored(store)
    )
    return Inventory(items, _unfinished(store, names, leases), leases, _free(store.root))


def _stored(store: Store) -> Iterator[tuple[str, int, float]]:
    """Digest, size and last use of every file that is in the store, in order of the digests. Raises OSError."""
    for folder in sorted((store.root / "sha256").glob("??")):
        for path in sorted(folder.iterdir()):
            with suppress(FileNotFoundError):  # removed meanwhile
                status = path.lstat()
                if len(path.name) == HEX:
                    yield path.name, status.st_size, max(status.st_atime, status.st_mtime)


def _unfinished(store: Store, names: Mapping[str, str], leases: tuple[Lease, ...]) -> tuple[PartItem, ...]:
    """The fetches that did not end, each with its files. Raises OSError."""
    found: dict[str, list[Path]] = {}
    for path in sorted((store.root / "parts").glob("*")):
        found.setdefault(path.name.lstrip(".")[:HEX], []).append(path)
    parts = (_part(sha256, paths, names, leases) for sha256, paths in found.items())
    return tuple(part for part in parts if part is not None)


def users_of(sha256: str, leases: tuple[Lease, ...]) -> tuple[str, ...]:
    """Who uses the file with this digest."""
    return tuple(shown(lease) for lease in leases if lease.files is None or sha256 in lease.files)


def open_aside(path: Path) -> io.FileIO:
    """The file, to be read without using it: its time of access stays, where the file is ours. Raises OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return io.FileIO(os.open(path, flags | getattr(os, "O_NOATIME", 0)))
    except PermissionError:  # of another user
        return io.FileIO(os.open(path, flags))


def shown(lease: Lease) -> str:
    """A lease's holder for people: the host as well, for in a container a pid alone says nothing."""
    return f"{lease.holder} (pid {lease.pid} on {lease.host})"


def _names(store: Store, leases: tuple[Lease, ...]) -> dict[str, str]:
    """Where weights are from, by digest: as packages that load or were loaded said, else their path in a tree."""
    found: dict[str, str] = {}
    for link in (store.root / "trees").rglob("*"):
        if link.is_symlink():
            tree_relative = link.relative_to(store.root / "trees").parts[1:]
            found[link.readlink().name] = "/".join(tree_relative)
    for memo in (store.root / "memo" / "names").glob("*.json"):
        value = store.recall("names", memo.stem)
        found |= value if isinstance(value, dict) else {}
    for lease in leases:
        found |= lease.files or {}
    return found


def _noted(sha256: str, store: Store) -> str:
    """What the file was called when it was put."""
    noted = store.recall("name", sha256)
    name = noted if isinstance(noted, str) else ""
    # Paths of the machine that built are long, and of no use once the bytes are here.
    return name.rpartition("/")[2] if name.startswith("/") else name


def _kind(path: Path) -> str:
    try:
        with open_aside(path) as file:
            start = file.read(8)
    except OSError:
        return "unreadable"
    return next((kind for begin, kind in _STARTS if start.startswith(begin)), "file")


def _part(sha256: str, paths: list[Path], names: Mapping[str, str], leases: tuple[Lease, ...]) -> PartItem | None:
    done = size = 0
    used, live = 0.0, bool(users_of(sha256, leases))
    for path in paths:
        try:
            status = path.lstat()
            live = live or (path.suffix == ".journal" and is_locked(path))
        except FileNotFoundError:  # it has ended meanwhile
            continue
        used = max(used, status.st_mtime)
        if path.suffix == ".part":
            done, size = max(done, min(status.st_blocks * 512, status.st_size)), max(size, status.st_size)
    return PartItem(sha256, names.get(sha256, ""), done, size, used, live, tuple(paths)) if used else None


def _free(root: Path) -> int:
    while not root.exists():
        root = root.parent
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize
