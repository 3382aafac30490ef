"""Removes from the store what no process uses and nobody used for a while.

What may go is decided, and taken out of its place, while the gate of the leases is shut: a process that comes later
finds it gone and fetches it. It is deleted afterwards, when nobody waits.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BusyError, OutputError
from ..store import Store
from ..weights.flock import DISK
from ..weights.leases import Lease, clear_dead, gate
from .inventory import HEX, Inventory, Item, PartItem, shown, take_inventory

_STALE = 86400.0
"""Seconds after which a temporary file belongs to nobody any more."""
_OF_FILES = ("name", "chunks")
"""Kinds of memos whose key is the digest of the file they are about."""


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """`older_than` seconds without use; `keep_parts` leaves unfinished fetches; `dry_run` removes nothing."""

    older_than: float
    keep_parts: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class Pruned:
    """What was removed, or would be. `used` are files that were old enough and are in use."""

    items: list[Item] = field(default_factory=list)
    parts: list[PartItem] = field(default_factory=list)
    used: list[Item] = field(default_factory=list)
    trees: int = 0
    memos: int = 0
    temporary: int = 0

    @property
    def size(self) -> int:
        """Bytes of files and parts."""
        return sum(item.size for item in self.items) + sum(part.done for part in self.parts)


def prune(store: Store, options: PruneOptions) -> Pruned:
    """Remove what may go, and say what it was.

    Raises BusyError while a build, whose files nobody can name beforehand, uses the store; OutputError when the
    store cannot be written.
    """
    if not store.root.is_dir():
        return Pruned()
    try:
        with gate(store, shut=True):
            stock = take_inventory(store)
            _refuse_busy(stock.leases, store)
            pruned = _choose(stock, options)
            paths = [*_paths(store, pruned), *_around(store, stock, options, pruned)]
            trash = None if options.dry_run else _take_out(store, paths)
            if not options.dry_run:
                clear_dead(store)
        if trash is not None:
            shutil.rmtree(trash)
    except OSError as error:
        raise OutputError(
            f"the store cannot be pruned: {error.strerror or error}",
            where=str(error.filename or store.root),
            mend="prune it where it can be written, as the user who owns it",
        ) from error
    return pruned


def _refuse_busy(leases: tuple[Lease, ...], store: Store) -> None:
    busy = next((lease for lease in leases if lease.files is None), None)
    if busy is not None:
        mend = "prune it when that has ended"
        if busy.locks != DISK:
            mend += f"; if it has, by a crash on another machine, remove leases/{busy.pid}-*.json there"
        raise BusyError(f"{shown(busy)} uses the store", where=str(store.root), mend=mend)


def _choose(stock: Inventory, options: PruneOptions) -> Pruned:
    limit, pruned = time.time() - options.older_than, Pruned()
    for item in stock.items:
        if item.used <= limit:
            (pruned.used if item.users else pruned.items).append(item)
    if not options.keep_parts:
        pruned.parts += [part for part in stock.parts if not part.live and part.used <= limit]
    return pruned


def _paths(store: Store, pruned: Pruned) -> Iterator[Path]:
    yield from (store.path(item.sha256) for item in pruned.items)
    for part in pruned.parts:
        yield from part.paths


def _around(store: Store, stock: Inventory, options: PruneOptions, pruned: Pruned) -> list[Path]:
    """Trees and memos whose files are gone, and what killed processes left; counted in `pruned`."""
    gone = {item.sha256 for item in pruned.items}
    kept = {item.sha256 for item in stock.items} - gone
    held = kept | {sha256 for lease in stock.leases for sha256 in lease.files or ()}
    limit = time.time() - options.older_than
    trees = [tree for tree in _children(store.root / "trees") if not _new(tree) and not _links(tree) <= held]
    memos = [memo for memo in _memos(store, held) if _when(memo) <= limit]
    left = (*_children(store.root / "tmp"), *store.root.glob("rootfs-*"), *(store.root / "trees").glob(".new-*"))
    left += tuple(path for path in (store.root / "leases").glob(".*") if path.name != ".gate")
    temporary = [path for path in left if _when(path) <= time.time() - _STALE]
    pruned.trees, pruned.memos, pruned.temporary = len(trees), len(memos), len(temporary)
    return [*trees, *memos, *temporary]


def _links(tree: Path) -> set[str]:
    """The digests of the files that a tree names."""
    return {path.readlink().name for path in tree.rglob("*") if path.is_symlink()}


def _memos(store: Store, held: set[str]) -> Iterator[Path]:
    """Memos about files that the store has not (any more)."""
    for memo in (store.root / "memo").glob("*/*.json"):
        kind, value = memo.parent.name, store.recall(memo.parent.name, memo.stem)
        about: set[object] = set()
        if kind in _OF_FILES:
            about = {memo.stem}
        elif kind == "digest" and isinstance(value, list):
            about = set(value[:1])
        elif kind in ("names", "intact") and isinstance(value, dict):
            about = set(value)
        if about and not about & held:
            yield memo


def _take_out(store: Store, paths: list[Path]) -> Path:
    """Move everything out of its place; it is deleted when the gate is open again."""
    staging = store.root / "tmp"
    staging.mkdir(parents=True, exist_ok=True)
    trash = Path(tempfile.mkdtemp(dir=staging, prefix="pruned-"))
    try:
        for number, path in enumerate(paths):
            with suppress(FileNotFoundError):
                path.rename(trash / str(number))
    except OSError:
        shutil.rmtree(trash, ignore_errors=True)
        raise
    return trash


def _children(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.iterdir())) if folder.is_dir() else ()


def _new(tree: Path) -> bool:
    """Whether it is being made at this moment."""
    return len(tree.name) != HEX


def _when(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()
