"""A load as people see it: a stage for each phase that moves bytes, one bar for all of them, and one for each large file."""

from ..weights.watch import ALL, Watch
from .progress import Progress

_LARGE = 64 * 1000 * 1000
"""Bytes from which a file has a bar of its own: of thousands of small ones the sum says more."""
_STAGES = {"verify": "check what is here", "download": "fetch"}


class Shown(Watch):
    """Shows the load of one package on `progress`."""

    def __init__(self, progress: Progress, package: str) -> None:
        self._progress, self._package = progress, package

    def phase(self, name: str) -> None:
        """Begin the stage, if it is one that takes time."""
        if name in _STAGES:
            self._progress.stage(f"{self._package}: {_STAGES[name]}")

    def on_bytes(self, title: str, done: int, total: int) -> None:
        """Move the bar of all files, or that of a large one."""
        if title == ALL:
            self._progress.on_bytes("all files", done, total)
        elif total >= _LARGE and title.startswith("fetch "):
            self._progress.on_bytes(title.removeprefix("fetch "), done, total)

    def retried(self, title: str, why: str) -> None:
        """Say why a transfer is tried again."""
        self._progress.say(f"{title}: {why}")

    def waits(self, title: str) -> None:
        """Say whom it waits for."""
        self._progress.say(f"{title}: another process fetches it; waiting")
