"""Small files of one fetch: each comes whole, in memory, and they are synced and named many at a time.

A journal and a part for each of thousands would cost more than the files. One claim covers all of them, for all
processes that share the store: while one fetches small files, others wait and then find most of them.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress

from ..store import Store
from .claim import Claim, private_claim, take_claim
from .stuck import Stuck
from .work import Job, OnStored

_NAME = "small"
_MOST_FILES, _MOST_BYTES = 64, 16 << 20
"""How much waits in memory to be synced together."""


class SmallFiles:
    """The `count` small files of one fetch. Methods may be called from any thread."""

    def __init__(self, store: Store, count: int, on_stored: OnStored) -> None:
        self._store, self._left, self._on_stored = store, count, on_stored
        self._folder = store.root / "parts"
        self._claim: Claim | None = None
        self._stuck = Stuck(self._folder / f"{_NAME}.journal")
        self._lock = threading.Lock()
        self._waiting: list[tuple[Job, bytes | None]] = []
        self._held = 0  # bytes of them
        self._put: list[str] = []  # digests of those whose names are not durable yet

    def claim(self, patience: float) -> bool:
        """Whether this process may fetch them now; another that brings nothing for `patience` seconds is passed by."""
        with self._lock:
            if self._claim is None:
                self._claim = take_claim(self._folder, _NAME, 0)
            if self._claim is None and self._stuck.for_seconds() > patience:
                self._claim = private_claim(self._folder, _NAME, 0)
            return self._claim is not None

    def add(self, job: Job, data: bytes | None) -> None:
        """Take the bytes of a file, verified, or None where it is there."""
        with self._lock:
            self._left -= 1
            self._waiting.append((job, data))
            self._held += len(data or b"")

    def store(self) -> Sequence[Job]:
        """Store what waits, where it is much or the last; gives the files that have their names now. Raises OSError."""
        with self._lock:
            if self._left and len(self._waiting) < _MOST_FILES and self._held < _MOST_BYTES:
                return ()
            batch, self._waiting, self._held = self._waiting, [], 0
        if not batch:
            return ()
        self._store_all(batch)
        if self._claim is not None:
            os.utime(self._claim.descriptor)  # tells those who wait that it goes on
        return [one for one, _ in batch]

    def settle(self) -> None:
        """All that have a name have it durably. Raises OSError."""
        with self._lock:
            put, self._put = self._put, []
        self._store.sync_names(put)

    def close(self) -> None:
        """Put what still waits, if the disk takes it, and give up the claim."""
        with self._lock:
            batch, self._waiting = self._waiting, []
            claim, self._claim = self._claim, None
        with suppress(OSError):
            self._store_all(batch)
            self.settle()
        if claim is not None:
            claim.release(done=True)

    def _store_all(self, batch: Sequence[tuple[Job, bytes | None]]) -> None:
        files = {one.file.sha256: data for one, data in batch if data is not None}
        for sha256, status in self._store.put_small(files).items():
            self._on_stored(sha256, status)
        with self._lock:
            self._put += files
