"""Whether another process that has a claim still brings something: one that was stopped must not hold up the rest."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class Stuck:
    """Watches the journal of somebody else's claim, and those that stand in for it."""

    def __init__(self, journal: Path) -> None:
        self._folder, self._start = journal.parent, f"{journal.stem}."
        self._seen: list[tuple[int, int, int]] = []
        self._since = time.monotonic()

    def for_seconds(self) -> float:
        """Seconds for which the journal has been seen as it is; by our own clock, whatever the file system's says."""
        seen = sorted(self._look())
        if not seen or seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since

    def _look(self) -> Iterator[tuple[int, int, int]]:
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:  # what ends meanwhile is seen next time
            for entry in entries:
                if entry.name.startswith(self._start) and entry.name.endswith(".journal"):
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_ino, status.st_size, status.st_mtime_ns
