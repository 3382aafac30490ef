"""Whether another process that has a claim still brings something: one that was stopped must not hold up the rest."""

import os
import time
from pathlib import Path


class Stuck:
    """Watches the journal of somebody else's claim."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._seen: tuple[int, int, int] | None = None
        self._since = time.monotonic()

    def for_seconds(self) -> float:
        """Seconds for which the journal has been seen as it is; by our own clock, whatever the file system's says."""
        try:
            status = os.lstat(self._journal)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            seen = None
        if seen is None or seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since
