"""The sha256 of files on disk, remembered while they stay as they are."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ..digest import CHUNK, sha256_hex
from ..manifest import WeightsFile
from ..store import Store, StoredFile

OnBytes = Callable[[str, int, int], None]
"""Progress: title, bytes done, bytes in total."""


def find_intact(
    file: WeightsFile, store: Store, on_bytes: OnBytes | None = None, *, again: bool = False
) -> StoredFile | None:
    """`file` as the store has it, or None when the store lacks it or its copy was damaged since."""
    stored = store.find(file.sha256, file.size)
    if stored is None:
        return None
    return stored if file_digest(stored.path, store, on_bytes, again=again) == file.sha256 else None


def file_digest(path: Path, store: Store, on_bytes: OnBytes | None = None, *, again: bool = False) -> str:
    """Hex sha256 of the file at `path`, remembered in `store` while size, inode and times stay as they are.

    `again` hashes it whatever is remembered.
    """
    key, seen = _identity(path, store)
    memo = None if again else store.recall("digest", key)
    if isinstance(memo, list) and memo[1:] == seen:
        return str(memo[0])
    hasher, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
            done += len(chunk)
            if on_bytes is not None:
                on_bytes(f"verify {path.name}", done, int(seen[0]))
    store.remember("digest", key, [hasher.hexdigest(), *seen])
    return hasher.hexdigest()


def remember_digest(path: Path, sha256: str, store: Store) -> None:
    """The file at `path` was hashed while it was written: not again."""
    key, seen = _identity(path, store)
    store.remember("digest", key, [sha256, *seen])


def _identity(path: Path, store: Store) -> tuple[str, list[int]]:
    """Under which key the file's digest is remembered, and what must not have changed since."""
    status, real, root = path.stat(), path.resolve(), store.root.resolve()
    seen = [status.st_size, status.st_ino, status.st_mtime_ns]
    if real.is_relative_to(root):
        # By its name in the store: the same volume may be mounted elsewhere, as another device.
        name = os.fsencode(real.relative_to(root))
    else:
        name = os.fsencode(real)
        # The change time tells of a change whose mtime was put back. But a new link moves it too, and packages are
        # linked from the store at each build: within it only we write, and read-only.
        seen += [status.st_dev, status.st_ctime_ns]
    return sha256_hex(name), seen
