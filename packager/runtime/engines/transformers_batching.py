"""Continuous batching: one thread computes all open requests together, and lets them come and go between steps.

A step is one forward for all requests that write, a token each. Before it, prompts that wait get a forward each, up
to `piece` tokens together; a longer prompt is computed in pieces. So nobody waits for the end of another's answer.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ...errors import EngineError
from .transformers_answer import Answer
from .transformers_rows import ROOM, Network, Rows, roomy
from .transformers_sampling import choose

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is computed at once.

    `slots` requests, `columns` of keys and values in all rows together (what memory holds), `piece` tokens of
    prompts before each step, `threads` of the CPU.
    """

    slots: int
    columns: int
    piece: int
    threads: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """Requests that are computed together, each in the row of its number."""

    rows: Rows
    answers: list[Answer]


class _DeviceLostError(Exception):
    """The device computes nothing any more."""


class Batcher:
    """Owns the thread. `add` and `stop` are called from others; `reason` says why it serves no more."""

    def __init__(self, network: Network, bounds: Bounds) -> None:
        self.reason = ""
        self._network = network
        self._bounds = bounds
        self._inbox: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: deque[_Batch] = deque()
        """One request each, whose prompt is not computed yet, or in part."""
        self._writing: list[_Batch] = []
        self._thread = threading.Thread(target=self._run, name="transformers", daemon=True)
        self._thread.start()

    def add(self, answer: Answer) -> None:
        """Compute it when its turn comes."""
        with self._lock:
            if not self.reason:
                self._inbox.put(answer)
                return
        answer.fail(EngineError(self.reason))

    def stop(self) -> None:
        """End the thread, and what is open with EngineError. Blocks for one forward. Idempotent."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        reason = "the engine's thread failed"
        try:
            torch.set_num_threads(self._bounds.threads)  # counts for the thread that says it
            while self._receive():
                self._begin()
                self._step()
            reason = "the engine was stopped"
        except _DeviceLostError as lost:
            reason = str(lost)
        finally:
            self._end(reason)

    def _receive(self) -> bool:
        """Take in what has come; without anything to do, wait for it. False: stop."""
        idle = not (self._waiting or self._writing)
        while idle or not self._inbox.empty():
            answer = self._inbox.get()
            if answer is None:
                return False
            self._waiting.append(_Batch(Rows(self._network), [answer]))
            idle = False
        return True

    def _begin(self) -> None:
        """Compute prompts that have waited, and gather all that writes."""
        self._waiting = deque(batch for batch in self._waiting if not batch.answers[0].over)
        begun: list[_Batch] = []
        left = self._bounds.piece
        while left > 0 and self._waiting and self._fits([*self._open(begun), *self._waiting[0].answers], ROOM):
            batch = self._waiting[0]
            tokens, done = batch.answers[0].tokens, batch.rows.lengths[0]
            piece = tokens[done : done + left] if self._network.joins else tokens
            whole = done + len(piece) == len(tokens)
            self._guarded(batch.answers, self._write if whole else self._read, batch, [piece])
            left -= len(piece)
            if whole or batch.answers[0].over:
                self._waiting.popleft()
                begun.append(batch)
        self._gather(begun)

    def _step(self) -> None:
        for batch in self._writing:
            self._guarded(batch.answers, self._write, batch, [answer.tokens[-1:] for answer in batch.answers])

    def _open(self, begun: list[_Batch]) -> list[Answer]:
        return [answer for batch in (*self._writing, *begun) for answer in batch.answers if not answer.over]

    def _fits(self, answers: list[Answer], more: int) -> bool:
        """Whether there are slots, and memory for `more` tokens in each. One alone always fits."""
        columns = len(answers) * roomy(max(len(answer.tokens) for answer in answers) + more)
        return len(answers) == 1 or (len(answers) <= self._bounds.slots and columns <= self._bounds.columns)

    def _gather(self, begun: list[_Batch]) -> None:
        """Drop what is over, and put the rest into one batch where the network can.

        When memory gets short, who came last waits again; its tokens are then computed anew, like a prompt.
        """
        answers = self._open(begun)
        while answers and not self._fits(answers, 0):
            self._waiting.appendleft(_Batch(Rows(self._network), [answers.pop()]))
        parts = [(batch, _numbers(batch, answers)) for batch in (*self._writing, *begun)]
        parts = [(batch, rows) for batch, rows in parts if rows]
        self._writing = [batch for batch, _ in parts]
        changed = len(parts) > 1 or any(len(rows) < len(batch.answers) for batch, rows in parts)
        if changed and self._network.joins:
            joined = self._guarded(answers, Rows.joined, [(batch.rows, rows) for batch, rows in parts])
            self._writing = [_Batch(joined, answers)] if joined else []

    def _read(self, batch: _Batch, tokens: Sequence[Sequence[int]]) -> None:
        batch.rows.forward(tokens)

    def _write(self, batch: _Batch, tokens: Sequence[Sequence[int]]) -> None:
        """Compute `tokens`, and let each answer write the next one."""
        logits = batch.rows.forward(tokens)
        choices = [answer.choice(row) for answer, row in zip(batch.answers, logits, strict=True)]
        for answer, chosen in zip(batch.answers, choose(choices, logits), strict=True):
            self._guarded([answer], answer.take, chosen)

    def _guarded(self, answers: Sequence[Answer], work: Callable[..., Result], *given: Any) -> Result | None:
        """What `work` gives. When it fails: None, and the failure goes to the streams of `answers`."""
        try:
            return work(*given)
        except _DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the streams are told
            failure = _words(error)  # not the error: its traceback holds the tensors
        for answer in answers:
            answer.fail(EngineError(failure))
        if lost := self._network.lost():
            raise _DeviceLostError(lost)
        return None

    def _end(self, reason: str) -> None:
        with self._lock:
            self.reason = reason
        left = [answer for batch in (*self._waiting, *self._writing) for answer in batch.answers]
        while not self._inbox.empty():
            if (answer := self._inbox.get()) is not None:
                left.append(answer)
        self._waiting.clear()
        self._writing.clear()
        for answer in left:
            if not answer.over:
                answer.fail(EngineError(reason))


def _numbers(batch: _Batch, answers: list[Answer]) -> list[int]:
    """The rows of `batch` whose answers are among `answers`."""
    return [row for row, answer in enumerate(batch.answers) if answer in answers]


def _words(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in line:
        return f"the device is out of memory: {line}"
    return f"transformers failed: {type(error).__name__}: {line}"
