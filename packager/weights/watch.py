"""Who is told how a load goes."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..manifest import WeightsFile
from .identity import OnBytes

Result = TypeVar("Result")

ALL = "weights"
"""The title under which a phase tells of all its bytes."""


class Watch:
    """Tells nobody; the base of those that do. Methods may be called from any thread."""

    def phase(self, name: str) -> None:
        """A phase begins, and the one before it is done: `resolve`, `download`, `verify`."""

    def on_bytes(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes: of one file, or, under the title ALL, of all that the phase has to do."""

    def fetched(self, more: int) -> None:
        """So many more bytes have come from a source."""

    def waits(self, title: str) -> None:
        """Another process fetches this; it is waited for."""

    def retried(self, title: str, why: str) -> None:
        """A transfer broke off and is tried again."""


SILENT = Watch()


class Checks:
    """Checks of many files, by many threads, told to a watch as one."""

    def __init__(self, watch: Watch, files: Sequence[WeightsFile]) -> None:
        self._watch = watch
        self._total = sum(file.size for file in files)
        self._lock = threading.Lock()
        self._done = 0

    def run(self, file: WeightsFile, check: Callable[[OnBytes], Result]) -> Result:
        """Do the check of one file; what of it has not to be read is taken off what there is to do."""
        done = 0

        def on_bytes(_: str, now: int, __: int) -> None:
            nonlocal done
            self._count(now - done, 0)
            done = now

        result = check(on_bytes)
        self._count(0, file.size - done)
        if done:
            self._watch.on_bytes(f"verify {file.path}", file.size, file.size)
        return result

    def _count(self, size: int, less: int) -> None:
        with self._lock:
            self._done += size
            self._total -= less
            if self._done:
                self._watch.on_bytes(ALL, self._done, self._total)
