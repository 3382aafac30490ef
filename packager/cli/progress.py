"""Progress of long work: moving bars on a terminal, a plain line now and then elsewhere, nothing when quiet.

    with Progress.start(quiet=console.quiet) as progress:
        build(source, options, Tools(..., stage=progress.stage, on_bytes=progress.on_bytes))

Methods may be called from any thread.
"""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from .console import harmless, is_lively

if TYPE_CHECKING:
    from rich.progress import TaskID

EVERY = 5.0
"""Seconds between two plain lines about the same stage."""
REFRESHES = 8
"""Redraws a second on a terminal."""
MAX_BARS = 8
"""Transfers shown at once; further ones run unseen."""
_UNITS = ("kB", "MB", "GB", "TB", "PB")


class Progress:
    """Tells nobody; the base of those that do."""

    @staticmethod
    def start(*, quiet: bool = False, stream: TextIO | None = None) -> "Progress":
        """The progress display that suits `stream` (standard error)."""
        stream = stream or sys.stderr
        if quiet:
            return Progress()
        return Bars(stream) if is_lively(stream) else Plain(stream)

    def stage(self, title: str, total_bytes: int | None = None) -> None:
        """A new step begins; the one before it is done. `total_bytes` is what it will move, if that is known."""

    def on_bytes(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes of one transfer within the stage; a `total` of 0 is unknown."""

    def say(self, text: str) -> None:
        """A line of talk that does not tear the display."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display, whatever happened."""


class Plain(Progress):
    """One line a stage, and one every few seconds about what moves."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._started: dict[str, tuple[float, int]] = {}
        self._spoke = clock()

    def stage(self, title: str, total_bytes: int | None = None) -> None:
        """Print the step's name."""
        with self._lock:
            self._started.clear()
            self._print(title if total_bytes is None else f"{title} ({size(total_bytes)})")

    def on_bytes(self, title: str, done: int, total: int) -> None:
        """Print a line when the last one is a few seconds old."""
        with self._lock:
            now = self._clock()
            since, already = self._started.setdefault(title, (now, done))
            if now - self._spoke >= EVERY:
                rate = (done - already) / (now - since) if now > since else 0.0
                self._print(f"  {title}: {_amount(done, total)}{_speed(rate, total - done)}")

    def say(self, text: str) -> None:
        """Print the line."""
        with self._lock:
            self._print(text)

    def _print(self, text: str) -> None:
        print(harmless(text), file=self._stream, flush=True)
        self._spoke = self._clock()


class Bars(Progress):
    """A moving line for the stage and for each transfer in it; finished stages stay, with their seconds."""

    def __init__(self, stream: TextIO) -> None:
        from rich import progress as rich_progress
        from rich.console import Console, Group
        from rich.live import Live

        text = rich_progress.TextColumn("{task.description}", markup=False)
        self._console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
        self._steps = rich_progress.Progress(rich_progress.SpinnerColumn(), text, rich_progress.TimeElapsedColumn())
        self._moves = rich_progress.Progress(
            rich_progress.TextColumn(" "),
            text,
            rich_progress.BarColumn(bar_width=30),
            rich_progress.DownloadColumn(),
            rich_progress.TransferSpeedColumn(),
            rich_progress.TimeRemainingColumn(compact=True),
        )
        self._live = Live(
            Group(self._steps, self._moves), console=self._console, transient=True, refresh_per_second=REFRESHES
        )
        self._lock = threading.Lock()
        self._transfers: dict[str, TaskID] = {}
        self._stage: tuple[str, float] | None = None

    def stage(self, title: str, total_bytes: int | None = None) -> None:
        """Note the time of the stage before, and show this one."""
        with self._lock:
            self._finish()
            self._stage = (title, time.monotonic())
            self._steps.add_task(title if total_bytes is None else f"{title} ({size(total_bytes)})", total=None)

    def on_bytes(self, title: str, done: int, total: int) -> None:
        """Move the transfer's bar; a finished one goes away."""
        with self._lock:
            if title not in self._transfers:
                visible = len(self._transfers) < MAX_BARS
                self._transfers[title] = self._moves.add_task(title, total=total or None, visible=visible)
            finished = 0 < total <= done
            self._moves.update(self._transfers[title], completed=done, total=total or None)
            if finished:
                self._moves.remove_task(self._transfers.pop(title))

    def say(self, text: str) -> None:
        """Print the line above what moves."""
        self._console.print(harmless(text))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the finished stages on the screen; the one that failed is not among them."""
        with self._lock:
            if kind is None:
                self._finish()
        self._live.stop()

    def _finish(self) -> None:
        if self._stage is not None:
            title, began = self._stage
            self._console.print(f"{title}: {time.monotonic() - began:.1f} s")
        for progress in (self._steps, self._moves):
            for task in list(progress.task_ids):
                progress.remove_task(task)
        self._transfers.clear()
        self._stage = None


def size(count: int) -> str:
    """Bytes for people, in powers of 1000: `812 B`, `41.2 MB`."""
    if count < 1000:
        return f"{count} B"
    value, steps = count / 1000, 0
    while value >= 999.95 and steps < len(_UNITS) - 1:  # what rounds to 1000.0 goes on to the next unit
        value, steps = value / 1000, steps + 1
    return f"{value:.1f} {_UNITS[steps]}"


def _amount(done: int, total: int) -> str:
    return f"{size(done)} of {size(total)}" if total else size(done)


def _speed(rate: float, left: int) -> str:
    if rate <= 0:
        return ""
    return f", {size(round(rate))}/s" + (f", {left / rate:.0f} s left" if left > 0 else "")
