"""Reads every file of the store again: is each still what its name says?"""

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from ..digest import CHUNK
from ..store import Store
from ..weights.identity import remember_digest
from ..weights.leases import gate, living
from .inventory import Item, open_aside, users_of

OnBytes = Callable[[str, int, int], None]
_TITLE = "files"


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that is not what its name says: `why`, who uses it now, and whether it was removed."""

    item: Item
    why: str
    users: tuple[str, ...] = ()
    removed: bool = False


def check_files(store: Store, items: Sequence[Item], on_bytes: OnBytes) -> tuple[Damaged, ...]:
    """Hash `items` again, several at once, and say which are damaged; what load() remembers of each is renewed.

    `on_bytes` is told the bytes of all of them. A file that is removed meanwhile is no matter.
    """
    total, done, lock = sum(item.size for item in items), 0, threading.Lock()

    def count(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            on_bytes(_TITLE, done, total)

    pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="verify")
    try:
        whys = pool.map(lambda item: _check(store, item, count), items)
        damaged = tuple(Damaged(item, why) for item, why in zip(items, whys, strict=True) if why)
    finally:
        pool.shutdown(cancel_futures=True)
    if damaged:
        _forget(store, {one.item.sha256 for one in damaged})
    return damaged


def remove_damaged(store: Store, damaged: Sequence[Damaged]) -> tuple[Damaged, ...]:
    """Remove those that no process uses, so that the next load fetches them anew. Raises OSError."""
    with gate(store, shut=True):
        leases = living(store)
        found = []
        for one in damaged:
            users = users_of(one.item.sha256, leases)
            if not users:
                store.path(one.item.sha256).unlink(missing_ok=True)
            found.append(Damaged(one.item, one.why, users, removed=not users))
    return tuple(found)


def _forget(store: Store, damaged: Collection[str]) -> None:
    """Drop what load() remembers of sets with one of these files: it looks at each file of them anew."""
    for memo in (store.root / "memo" / "intact").glob("*.json"):
        value = store.recall("intact", memo.stem)
        if isinstance(value, dict) and not value.keys().isdisjoint(damaged):
            with suppress(OSError):  # a store that cannot be written remembers nothing either
                memo.unlink()


def _check(store: Store, item: Item, count: Callable[[int], None]) -> str:
    """Why the file is damaged, or an empty string."""
    path, hasher = store.path(item.sha256), hashlib.sha256()
    try:
        with open_aside(path) as file:
            status = os.fstat(file.fileno())
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
                count(len(chunk))
        found = hasher.hexdigest()
        remember_digest(path, status, found, store)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return "" if found == item.sha256 else f"its bytes have sha256 {found[:12]}"
