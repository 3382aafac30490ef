"""What is still to be fetched, and who does what next.

One condition guards it all. A worker takes a task, does it without the lock, and says how it went.
"""

import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..errors import TransferError
from ..manifest import WeightsFile
from .identity import SMALL
from .pace import FIRST, MOST, Pace
from .part import Part
from .source import Source
from .stuck import Stuck

OnStored = Callable[[str, os.stat_result], None]
"""Told of each file that came: its sha256, and the status that it had when its last byte was written."""
_TOGETHER = 4
"""Small files that one worker asks for before it reads the first: one thread that reads all costs less than four."""
_SHORTEST, _LONGEST = 4, 16
"""Pieces of one request: long ones cost less, short ones share the end of a file better."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that is to come, and from where."""

    file: WeightsFile
    source: Source


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """`connections` at most at once, `first` of them at the beginning. `tries` of one file in a row that bring nothing.

    Seconds: `pause` before the first new try (it doubles), `longest` before any, `rest` the most that a Retry-After is
    obeyed for, `look` between looks at what another process fetches, `patience` for it to bring anything.
    """

    first: int = FIRST
    connections: int = MOST
    tries: int = 8
    pause: float = 0.5
    longest: float = 30.0
    rest: float = 300.0
    look: float = 0.2
    patience: float = 60.0


@dataclass(eq=False, slots=True)
class Job:
    """One file on its way: its part and its spans are there once it was opened."""

    wanted: Wanted
    part: Part | None = None
    spans: deque[range] = field(default_factory=deque)
    """Runs of pieces that nobody fetches yet."""
    workers: int = 0
    finished: bool = False
    written: bool = False
    """A small file that has come, and is to be synced with others."""
    not_before: float = 0.0
    failures: int = 0
    restarts: int = 0
    bad_chunks: Counter[int] = field(default_factory=Counter)
    """How often a chunk came wrong."""
    waiting: Stuck | None = None
    whole: bool = False
    """The source gives whole files only: one worker, from the beginning."""

    @property
    def file(self) -> WeightsFile:
        return self.wanted.file

    @property
    def title(self) -> str:
        return f"fetch {self.file.path}"

    @property
    def small(self) -> bool:
        """Whether it is fetched whole, in memory, without a part."""
        return self.file.size <= SMALL

    def stuck(self, parts: Path, patience: float) -> bool:
        """Whether another process has had the claim on it for so many seconds, and brought nothing."""
        if self.waiting is None:
            self.waiting = Stuck(parts / f"{self.file.sha256}.journal")
        return self.waiting.for_seconds() > patience

    def done(self) -> int:
        """Bytes that are there."""
        if self.finished or self.written:
            return self.file.size
        return self.part.done if self.part is not None else 0


@dataclass(eq=False, slots=True)
class Task:
    """One thing to do for a file: fetch the pieces of a span, of which `left` are still to come.

    Without a span: open the file, or finish it when all its pieces have come. Small files are fetched whole, and
    `more` of them together with the first.
    """

    job: Job
    left: range | None = None
    more: Sequence[Job] = ()

    @property
    def jobs(self) -> Sequence[Job]:
        """All that it is about."""
        return self.job, *self.more


class Work:
    """The jobs of one fetch."""

    def __init__(self, jobs: Sequence[Job], settings: FetchSettings) -> None:
        self.jobs = jobs
        self._open: list[Job] = list(jobs)
        """Those that there is something to do for, in order."""
        self._left = len(jobs)  # those that are not finished
        self.settings = settings
        self.pace = Pace(settings.first, settings.connections)
        self.changed = threading.Condition()
        self.ended = threading.Event()
        """Set when it is over."""
        self.error: BaseException | None = None
        self.running = 0
        """Requests under way, or what is done instead."""
        self._rest: dict[int, float] = {}  # by source: no request before

    @property
    def over(self) -> bool:
        return self.error is not None or not self._left

    @property
    def crowded(self) -> bool:
        """More work than the pace allows: a worker between two pieces may stop, its span is taken up later."""
        return self.running > self.pace.limit

    def take(self) -> Task | None:
        """The next task; waits for one, and gives None when there will be none."""
        with self.changed:
            while not self.over:
                task = self._choose(time.monotonic()) if self.running < self.pace.limit else None
                if task is not None:
                    self._count(task, 1)
                    return task
                self.changed.wait(self.settings.look)
            return None

    def _choose(self, now: float) -> Task | None:
        """A connection for each file first: what comes in order is hashed while it is in the processor's cache."""
        chosen = None
        for job in self._open:
            if (chosen is None or job.workers < chosen.workers) and self._is_free(job, now):
                chosen = job
                if not job.workers:
                    break
        if chosen is None:
            return None
        if chosen.small:
            return Task(chosen, more=self._others(chosen, now))
        return Task(chosen, self._cut(chosen) if chosen.spans else None)

    def _others(self, chosen: Job, now: float) -> Sequence[Job]:
        """Further small files that nobody fetches, as many as the pace allows."""
        free = (job for job in self._open if job.small and job is not chosen and self._is_free(job, now))
        return tuple(islice(free, min(_TOGETHER, self.pace.limit - self.running) - 1))

    def _count(self, task: Task, change: int) -> None:
        for job in task.jobs:
            self.running += change
            job.workers += change

    def _is_free(self, job: Job, now: float) -> bool:
        if now < max(job.not_before, self._rest.get(id(job.wanted.source), 0.0)):
            return False
        # What is to be opened or finished is one worker's.
        return bool(job.spans) or not job.workers

    def _cut(self, job: Job) -> range:
        """The next span of an open job: shorter ones towards the end, so that all workers end together."""
        first = job.spans.popleft()
        if job.whole and job.part is not None:
            job.spans.clear()
            return range(job.part.count)
        left = len(first) + sum(len(span) for span in job.spans)
        length = max(_SHORTEST, min(_LONGEST, left // (2 * self.pace.limit)))
        if len(first) > length:
            job.spans.appendleft(first[length:])
        return first[:length]

    def give_back(self, task: Task) -> None:
        """The task is over; what is left of its span is for another."""
        with self.changed:
            self._count(task, -1)
            if task.left:
                task.job.spans.appendleft(task.left)
            # The worker itself takes the next task. Another is woken where there is one more than before.
            if task.left or task.job.spans or self.over:
                self.changed.notify_all()

    def open(self, job: Job, part: Part | None) -> None:
        """The job's pieces can be fetched; without a part there is nothing to fetch: the file is there."""
        with self.changed:
            job.part = part
            if part is None:
                job.finished = True
                self._left -= 1
                if not job.written:
                    self._open.remove(job)
                if self.over:
                    self.ended.set()
            else:
                job.spans = deque(_runs(part.missing()))

    def wrote(self, job: Job) -> None:
        """A small file has come: there is nothing more to do for it but to sync it, with others."""
        with self.changed:
            job.written = True
            self._open.remove(job)

    def again(self, job: Job, numbers: range) -> None:
        """These pieces of an open job are to come again."""
        with self.changed:
            job.spans.append(numbers)

    def whole(self, job: Job) -> None:
        """The source gives whole files only: one worker reads the file from its beginning."""
        with self.changed:
            if not job.whole and job.part is not None:
                job.whole, job.spans = True, deque([range(job.part.count)])

    def later(self, job: Job) -> None:
        """Another process fetches this file: look again in a moment."""
        with self.changed:
            job.not_before = time.monotonic() + self.settings.look

    def failed(self, job: Job, error: TransferError) -> float | None:
        """A transfer broke off: the seconds until the next try, or None when there were enough."""
        with self.changed:
            if time.monotonic() >= job.not_before:  # else it began before the last one broke: they broke together
                job.failures += 1
            if job.failures > self.settings.tries or (error.retry_after or 0) > self.settings.rest:
                return None
            pause = min(self.settings.longest, self.settings.pause * 2.0 ** (job.failures - 1))
            # A thousand containers that were refused together must not come back together.
            pause = max(pause, error.retry_after or 0) * random.uniform(1, 1.5)  # noqa: S311 -- jitter, no secret
            until = time.monotonic() + pause
            job.not_before = max(job.not_before, until)
            if error.busy:
                self.pace.refused()
                self._rest[id(job.wanted.source)] = until
            return pause

    def stop(self, error: BaseException) -> None:
        """Nothing more is begun; the first error stands."""
        with self.changed:
            self.error = self.error or error
            self.ended.set()
            self.changed.notify_all()


def _runs(numbers: Iterator[int]) -> list[range]:
    """Runs of consecutive numbers."""
    found: list[range] = []
    for number in numbers:
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found
