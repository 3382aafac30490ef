"""How a load goes, for /metrics while it lasts and for the log: a line for each phase, and one every ten seconds."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..weights.watch import ALL, Watch
from .logs import event

EVERY = 10.0
"""Seconds between two lines of the log about one load."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One moment of a load: seconds of each phase so far, bytes of the phase that runs, and of all fetches."""

    seconds: Mapping[str, float]
    done: int
    total: int
    fetched: int
    retries: int


class Loading(Watch):
    """Follows loads, one after the other. Told from any thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._fetched = self._retries = 0
        self._told = (0.0, 0)
        self._enter("")

    def begin(self) -> None:
        """A load begins: the seconds of the one before it are dropped."""
        with self._lock:
            self._seconds.clear()
            self._enter("")

    def phase(self, name: str) -> None:
        """The phase `name` begins (none when it is empty), and the one before it is done: that is logged."""
        with self._lock:
            if name == self._name:
                return
            line = self._leave()
            self._enter(name)
        if line:
            event("loaded", **line)

    def on_bytes(self, title: str, done: int, total: int) -> None:
        """Note how far the phase is."""
        with self._lock:
            if title == ALL:
                self._done, self._total = done, total
            elif done == total:
                self._files.add(title)

    def fetched(self, more: int) -> None:
        """Count what came; what an earlier attempt had brought is not among it."""
        with self._lock:
            self._fetched += more

    def waits(self, title: str) -> None:
        """Log that another process fetches it."""
        event("waiting", file=title, why="another process fetches it")

    def retried(self, title: str, why: str) -> None:
        """Count a transfer that broke off, and log why."""
        with self._lock:
            self._retries += 1
        event("retry", logging.WARNING, file=title, why=why)

    def stop(self) -> None:
        """The load has ended, maybe in the midst of a phase; its seconds stay as they are."""
        with self._lock:
            self._leave()
            self._enter("")

    def now(self) -> Loaded:
        """How it stands; the phase that runs is among the seconds."""
        with self._lock:
            seconds = dict(self._seconds)
            if self._name:
                seconds[self._name] = seconds.get(self._name, 0.0) + self._clock() - self._begun
            return Loaded(seconds, self._done, self._total, self._fetched, self._retries)

    def tell(self) -> None:
        """Log how far the running phase is; nothing when none runs."""
        with self._lock:
            if not self._name:
                return
            now, (then, before) = self._clock(), self._told
            rate = (self._done - before) / (now - then) if now > then else 0.0
            self._told = (now, self._done)
            line: dict[str, Any] = {"phase": self._name, "seconds": round(now - self._begun, 1)}
            if self._total:
                line |= {"done": self._done, "total": self._total, "files": len(self._files), "rate": round(rate)}
                if rate > 0:
                    line["seconds_left"] = round((self._total - self._done) / rate)
        event("loading", **line)

    def _enter(self, name: str) -> None:
        self._name, self._begun = name, self._clock()
        self._done = self._total = 0
        self._files: set[str] = set()
        self._told = (self._begun, 0)
        self._before = self._fetched

    def _leave(self) -> dict[str, Any]:
        if not self._name:
            return {}
        took = self._clock() - self._begun
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + took
        line: dict[str, Any] = {"phase": self._name, "seconds": round(took, 3)}
        if self._name == "download":
            line["fetched"] = self._fetched - self._before
        return line | ({"bytes": self._done, "files": len(self._files)} if self._total else {})


@contextmanager
def following(loading: Loading, every: float = EVERY) -> Iterator[None]:
    """The body is one load. Every few seconds it is logged how it goes, also when nothing moves."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every):
            loading.tell()

    thread = threading.Thread(target=run, daemon=True, name="packager-loading")
    loading.begin()
    thread.start()
    try:
        yield
        loading.phase("")
    finally:
        over.set()
        thread.join()
        loading.stop()
