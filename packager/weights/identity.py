"""The sha256 of files on disk, remembered while they stay as they are."""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..digest import CHUNK, canonical_json, sha256_hex
from ..manifest import WeightsFile
from ..store import Store, StoredFile, note_use
from .chunks import PIECE

OnBytes = Callable[[str, int, int], None]
"""Progress: title, bytes done, bytes in total."""
SMALL = PIECE
"""Bytes of a small file, at most: such are fetched whole, and hashed anew rather than remembered one by one."""


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

    `again` hashes it whatever is remembered. Of small files nothing is remembered: reading a memo costs as much.
    """
    status = path.stat()
    key, seen = _identity(path, status, store) if status.st_size > SMALL else ("", [])
    memo = None if again or not key else store.recall("digest", key)
    if isinstance(memo, list) and memo[1:] == seen:
        return str(memo[0])
    hasher, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
            done += len(chunk)
            if on_bytes is not None:
                on_bytes(f"verify {path.name}", done, status.st_size)
    if key:
        store.remember("digest", key, [hasher.hexdigest(), *seen])
    return hasher.hexdigest()


def remember_digest(path: Path, status: os.stat_result | None, sha256: str, store: Store) -> None:
    """The file at `path` was hashed, and had this status before that, or when its last byte was written: not again."""
    if status is not None and status.st_size > SMALL:
        key, seen = _identity(path, status, store)
        store.remember("digest", key, [sha256, *seen])


class Intact:
    """Which files of one set the store had intact at the last look, remembered together: thousands are told in no time.

    Of each file the status counts that it had before it was verified: what changes it later is seen.
    """

    def __init__(self, files: Sequence[WeightsFile], store: Store) -> None:
        self._store = store
        self._key = sha256_hex(canonical_json(sorted(file.sha256 for file in files)))
        memo = store.recall("intact", self._key)
        self._before: Mapping[str, Any] = memo if isinstance(memo, dict) else {}
        self._seen: dict[str, list[int]] = {}

    def lacks(self, file: WeightsFile) -> bool:
        """Whether nothing is there under the file's digest."""
        return not os.path.lexists(self._store.place(file.sha256))

    def has(self, file: WeightsFile) -> bool:
        """Whether the file is as it was when it was verified."""
        path = self._store.place(file.sha256)
        try:
            status = os.lstat(path)
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode) or self._before.get(file.sha256) != _seen(status):
            return False
        note_use(path, status)
        self._seen[file.sha256] = _seen(status)
        return True

    def verify(self, file: WeightsFile, on_bytes: OnBytes | None = None, *, again: bool = False) -> bool:
        """Whether the store has the file intact, by its digest."""
        try:
            status = os.lstat(self._store.place(file.sha256))
        except OSError:
            return False
        if find_intact(file, self._store, on_bytes, again=again) is None:
            return False
        self._seen[file.sha256] = _seen(status)
        return True

    def note(self, sha256: str, status: os.stat_result) -> None:
        """The file was hashed as it came, and had this status when its last byte was written. By any thread."""
        self._seen[sha256] = _seen(status)

    def knows(self, file: WeightsFile) -> bool:
        """Whether the file was verified since this began."""
        return file.sha256 in self._seen

    def remember(self) -> None:
        """Remember what was verified."""
        if self._seen != self._before:
            self._store.remember("intact", self._key, self._seen)


def _identity(path: Path, status: os.stat_result, store: Store) -> tuple[str, list[int]]:
    """Under which key the file's digest is remembered, and what must not have changed since."""
    real, root = path.resolve(), store.root.resolve()
    if real.is_relative_to(root):
        # By its name in the store: the same volume may be mounted elsewhere, as another device.
        return sha256_hex(os.fsencode(real.relative_to(root))), _seen(status)
    # The change time tells of a change whose mtime was put back. But a new link moves it too, and packages are
    # linked from the store at each build: within it only we write, and read-only.
    return sha256_hex(os.fsencode(real)), [*_seen(status), status.st_dev, status.st_ctime_ns]


def _seen(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_ino, status.st_mtime_ns]
