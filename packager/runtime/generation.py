"""One request's life: it waits, runs in a slot, streams, and ends once.

A task of its own reads the engine, so that the reader can fall behind by a bounded number of tokens,
gets whatever is waiting at once, and the slot is given back when the engine has ended,
whether or not anybody reads.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import monotonic

from ..errors import EngineError, PackagerError
from .admission import Ticket
from .engine import Delta, FinishReason, GenerationRequest, Streams, Usage
from .metrics import Metrics
from .turns import Turns

MOST_WAITING = 256
"""Deltas a slow reader may fall behind before the engine's stream is no longer read."""
ABORT_GRACE = 5.0
"""Seconds an engine has to end an aborted stream before the stream is closed under it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a request may take once it runs; None is no limit."""

    first_token: float | None = None
    token_gap: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What the generations of one engine share; `on_end` is called with each one that has ended."""

    engine: Streams
    metrics: Metrics
    turns: Turns
    on_end: Callable[["Generation"], None]


class Generation:
    """A stream of Deltas with an owner. Lives on the engine's event loop."""

    def __init__(self, request: GenerationRequest, ticket: Ticket, source: Source) -> None:
        self.request = request
        self.outcome: FinishReason | None = None
        self.usage: Usage | None = None
        self.queue_seconds = 0.0
        self.first_token_seconds: float | None = None
        self._source = source
        self._ticket = ticket
        self._arrived = monotonic()
        self._began = 0.0
        self._last_token = 0.0
        self._deltas: list[Delta] = []
        self._error: PackagerError | None = None
        self._ending: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._told = False
        self._flows = False
        self._room = asyncio.Event()  # cleared while the engine waits for the reader
        self._room.set()
        self._task = asyncio.create_task(self._run())
        # A callback and not a `finally`: a task cancelled before its first step runs none of its code.
        self._task.add_done_callback(self._ended)

    async def batch(self) -> list[Delta]:
        """Every Delta that waits, at least one; an empty list when the stream has ended.

        The first one is given at once, later ones after a few turns of the event loop (turns.py).
        Raises the stream's failure, after the Deltas that came before it.
        """
        while not self._deltas and not self._over:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._deltas:
            batch, self._deltas = self._deltas, []
            self._told = False
            self._room.set()
            return batch
        if self._error is not None:
            raise self._error
        return []

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while batch := await self.batch():
            for delta in batch:
                yield delta

    @property
    def _over(self) -> bool:
        return self.outcome is not None or self._error is not None

    @property
    def error(self) -> PackagerError | None:
        """What ended it early, if anything did."""
        return self._error

    def abort(self) -> None:
        """End it early, waiting or running. Idempotent; harmless after the end."""
        if self._ending is not None or self._task.done():
            return
        self._room.set()
        if self._ticket.running:
            self._ending = asyncio.create_task(self._end())
        else:
            self._task.cancel()

    def fail(self, error: PackagerError, *, engine_gone: bool = False) -> None:
        """End it early with an error, which the reader gets at once. An engine that is gone is not asked to abort."""
        if not self._task.done() and self._error is None:
            self._error = error
            self._wake()
            if engine_gone:
                self._task.cancel()
            else:
                self.abort()

    def overdue(self, limits: Limits, now: float) -> str:
        """Which limit it has passed at the monotonic time `now`, in words; empty when none."""
        if not self._began or self._over:
            return ""
        if limits.total and now - self._began > limits.total:
            return f"the answer took longer than {limits.total:g} s"
        if not self._last_token:
            late = limits.first_token and now - self._began > limits.first_token
            return f"the engine gave no token for {limits.first_token:g} s" if late else ""
        if limits.token_gap and now - self._last_token > limits.token_gap:
            who = "the engine gave no further token" if self._room.is_set() else "the client did not read"
            return f"{who} for {limits.token_gap:g} s"
        return ""

    async def closed(self) -> None:
        """Wait until the engine is done with it and the slot is free."""
        await asyncio.wait({self._task})

    async def _end(self) -> None:
        try:
            await self._source.engine.abort(self.request.id)
            await asyncio.wait({self._task}, timeout=ABORT_GRACE)
        finally:
            self._task.cancel()

    async def _run(self) -> None:
        await self._ticket.granted()
        self._began = monotonic()
        self.queue_seconds = self._began - self._arrived
        self._source.metrics.queue_wait.observe(self.queue_seconds)
        async for delta in self._source.engine.stream(self.request):
            self._take(delta)
            while len(self._deltas) >= MOST_WAITING and self._ending is None:
                self._room.clear()
                await self._room.wait()
        if self.usage is None:
            raise EngineError("the engine ended the stream without saying why")

    def _take(self, delta: Delta) -> None:
        if delta.tokens:
            self._count(delta.tokens)
        if delta.finish_reason is not None:
            self._finish(delta, delta.finish_reason, delta.usage)
        elif self._error is None and self._ending is None:
            self._deltas.append(delta)
            if not self._told:
                self._tell()

    def _finish(self, delta: Delta, reason: FinishReason, usage: Usage | None) -> None:
        if reason == "error":
            raise EngineError("the engine ended the stream with an error")
        if reason == "abort" and self._ending is None:
            raise EngineError("the engine aborted a request that nobody had ended")
        self.outcome, self.usage = reason, usage or Usage(0, 0)
        if self._error is None:
            self._deltas.append(delta)
            self._wake()

    def _tell(self) -> None:
        """Let the reader know that something waits: at once for the first token, else with what a few turns bring."""
        self._told = True
        if self._flows:
            self._source.turns.after(self._wake)
        else:
            self._flows = True
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _count(self, tokens: int) -> None:
        now, metrics = monotonic(), self._source.metrics
        if self._last_token:
            metrics.token_gap.observe(now - self._last_token)
        else:
            self.first_token_seconds = now - self._arrived
            metrics.first_token.observe(self.first_token_seconds)
        self._last_token = now
        metrics.generated_tokens += tokens

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """However it ended: the slot is free, the reader wakes, the outcome is counted."""
        self._ticket.release()
        failure = None if task.cancelled() else task.exception()
        if self._error is None and failure is not None:
            self._error = _translated(failure)
        if self._error is not None:
            self.outcome = "error"
        elif self.outcome is None:
            self.outcome = "abort"
            self._deltas.append(Delta("", 0, "abort", self.usage or Usage(0, 0)))
        if self.usage is not None:
            self._source.metrics.prompt_tokens += self.usage.prompt_tokens
        self._wake()
        self._source.on_end(self)


def _translated(failure: BaseException) -> PackagerError:
    if isinstance(failure, PackagerError):
        return failure
    error = EngineError(f"the engine failed: {type(failure).__name__}: {failure}")
    error.__cause__ = failure
    return error
