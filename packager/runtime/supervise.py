"""The engine's life: loading, ready, draining, and dead or failed.

The one place that knows whether a request may be taken. Lives on one event loop, the one
that called `start`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

from ..errors import EngineError, LoadError, PackagerError, RequestError, UnavailableError
from ..manifest import Manifest
from .admission import Admission, Ticket
from .engine import Engine, EngineFacts, GenerationRequest
from .features import refuse_unsupported
from .generation import ABORT_GRACE, Generation, Source
from .logs import event
from .metrics import Metrics
from .turns import Turns

State = Literal["loading", "ready", "draining", "dead", "failed", "stopped"]
Loader = Callable[[], Awaitable[tuple[Engine, EngineFacts]]]
_HEALTH_SECONDS = 0.5
_TURNS = 16
"""Turns of the event loop that a streamed token may wait for the next ones. Measured with 64 streams of an engine that
is faster than the server: 16 gave a sixth more tokens for the same processor time than 8, 32 nothing certain over 16."""


class Supervisor:
    """Owns the engine and every open request of one served model."""

    def __init__(self, manifest: Manifest, loader: Loader, metrics: Metrics) -> None:
        self.manifest = manifest
        self.metrics = metrics
        self.state: State = "loading"
        self.error: PackagerError | None = None
        self.failed = asyncio.Event()
        self.facts: EngineFacts | None = None
        self._loader = loader
        self._engine: Engine | None = None
        self._admission = Admission(0, 0)
        self._turns = Turns(_TURNS)
        self._open: set[Generation] = set()
        self._loading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether a request would be taken now (it may have to wait)."""
        return self.state == "ready"

    @property
    def alive(self) -> bool:
        """Whether staying up can still lead to a served request."""
        return self.state not in ("dead", "failed")

    def start(self) -> None:
        """Begin to load in the background. Called once."""
        self._loading = asyncio.create_task(self._load())

    async def loaded(self) -> None:
        """Wait until loading has ended. Raises what it failed with."""
        if self._loading is not None:
            await asyncio.wait({self._loading})
        if self.error is not None:
            raise self.error

    def submit(self, request: GenerationRequest) -> Generation:
        """Take a request; its stream begins when a slot is free.

        Raises UnavailableError when none is taken now, OverloadedError when too many are, RequestError
        when it asks what the engine has not.
        """
        try:
            engine, ticket = self._admit(request)
        except (RequestError, UnavailableError):
            self.metrics.outcomes["refused"] += 1
            raise
        source = Source(engine, self.metrics, self._turns, self._ended)
        generation = Generation(request, ticket, source)
        self._open.add(generation)
        self._gauge()
        return generation

    def _admit(self, request: GenerationRequest) -> tuple[Engine, Ticket]:
        if self.state != "ready" or self._engine is None or self.facts is None:
            raise UnavailableError(f"the model is {self.state}", mend="ask /readyz when it takes requests")
        refuse_unsupported(request, self.facts.features, self.facts.engine)
        return self._engine, self._admission.enter()

    async def drain(self, seconds: float) -> None:
        """Take no more requests, let the open ones end, and fail what is left after `seconds`."""
        if self.alive:
            self._become("draining")
        if self._loading is not None:
            self._loading.cancel()
        await self._closed(seconds)
        for generation in list(self._open):
            generation.fail(UnavailableError("the server is stopping; the answer is not complete", mend="ask again"))
        await self._closed(ABORT_GRACE)

    async def stop(self) -> None:
        """Give the engine back. Requests still open fail. Idempotent."""
        if self.state == "stopped":
            return
        await self.drain(0)
        for task in (self._loading, self._watching):
            if task is not None:
                task.cancel()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()
        if self.alive:
            self._become("stopped")

    async def _load(self) -> None:
        try:
            engine, self.facts = await self._loader()
        except asyncio.CancelledError:
            return
        except PackagerError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - an adapter's failure, whatever it is, has one name here
            failure = LoadError(f"the engine cannot start: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(failure)
        else:
            self._engine = engine
            slots = min(self.facts.slots, self.manifest.serving.max_concurrency)
            self._admission = Admission(slots, self.manifest.serving.max_queue)
            self._watching = asyncio.create_task(self._watch(engine))
            self._become("ready")

    async def _watch(self, engine: Engine) -> None:
        while self._check(engine):  # noqa: ASYNC110 - an engine cannot tell us that it died: it is asked
            await asyncio.sleep(_HEALTH_SECONDS)

    def _check(self, engine: Engine) -> bool:
        health = engine.health()
        if not health.alive and self._engine is engine and self.state in ("ready", "draining"):
            self.error = EngineError(f"the engine died: {health.reason}", mend="restart the container")
            self._become("dead", reason=health.reason)
            for generation in list(self._open):
                generation.fail(self.error)
        return health.alive

    def _ended(self, generation: Generation) -> None:
        self._open.discard(generation)
        self._gauge()
        refused = isinstance(generation.error, RequestError)
        self.metrics.outcomes["refused" if refused else generation.outcome or "error"] += 1
        if generation.outcome == "error" and not refused and self._engine is not None:
            event("stream failed", logging.ERROR, request=generation.request.id, reason=str(generation.error))
            self._check(self._engine)

    async def _closed(self, seconds: float) -> None:
        if self._open:
            closing = [asyncio.ensure_future(generation.closed()) for generation in self._open]
            _, late = await asyncio.wait(closing, timeout=seconds)
            for task in late:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _fail(self, error: PackagerError) -> None:
        self.error = error
        mend = next((problem.mend for problem in error.problems if problem.mend), "")
        self._become("failed", reason=str(error), mend=mend)
        self.failed.set()

    def _become(self, state: State, **fields: str) -> None:
        if state != self.state:
            self.state = state
            self.metrics.ready = state == "ready"
            level = logging.ERROR if state in ("dead", "failed") else logging.INFO
            event(state, level, model=self.manifest.name, **fields)

    def _gauge(self) -> None:
        self.metrics.running = self._admission.running
        self.metrics.waiting = self._admission.waiting
