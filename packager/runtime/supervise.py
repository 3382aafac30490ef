"""The engine's life: loading, ready, draining; when it died, started again within a budget; dead or failed.

The one place that knows whether a request may be taken. Lives on one event loop, the one
that called `start`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Literal

from ..errors import DeadlineError, EngineError, LoadError, PackagerError, RequestError, UnavailableError
from ..manifest import Manifest
from .admission import Admission, Ticket
from .engine import Engine, EngineFacts, GenerationRequest, Streams
from .features import refuse_unsupported
from .generation import ABORT_GRACE, Generation, Limits, Source
from .logs import event
from .metrics import Metrics
from .turns import Turns

State = Literal["loading", "ready", "restarting", "draining", "dead", "failed", "stopped"]
Loader = Callable[[], Awaitable[tuple[Engine, EngineFacts]]]
_HEALTH_SECONDS = 0.5
_STOP_SECONDS = 30.0
"""An engine that died has this long to give back what it held, before the process is given up."""
_HOUR = 3600.0
_TURNS = 16
"""Turns of the event loop that a streamed token may wait for the next ones. Measured with 64 streams of an engine that
is faster than the server: 16 gave a sixth more tokens for the same processor time than 8, 32 nothing certain over 16."""


class Supervisor:
    """Owns the engine and every open request of one served model."""

    def __init__(
        self, manifest: Manifest, loader: Loader, metrics: Metrics, release: Callable[[], None] = lambda: None
    ) -> None:
        self.manifest = manifest
        self.metrics = metrics
        self.state: State = "loading"
        self.error: PackagerError | None = None
        self.failed = asyncio.Event()
        self.facts: EngineFacts | None = None
        self._loader = loader
        self._release = release  # of what was loaded
        self._engine: Engine | None = None
        self._admission = Admission(0, 0)
        self._turns = Turns(_TURNS)
        self._open: set[Generation] = set()
        self._life: asyncio.Task[None] | None = None
        self._burial: asyncio.Task[None] | None = None  # its own, so that a stop signal ends the restart and not this
        self._settled = asyncio.Event()  # the first load has ended
        self._look = asyncio.Event()
        self._restarts: deque[float] = deque()
        serving = manifest.serving
        self._limits = Limits(serving.first_token_seconds, serving.token_gap_seconds, serving.total_seconds)

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
        self._life = asyncio.create_task(self._live())

    async def loaded(self) -> None:
        """Wait until loading has ended. Raises what it failed with."""
        await self._settled.wait()
        if self.error is not None:
            raise self.error

    def submit(self, request: GenerationRequest, by: Streams | None = None) -> Generation:
        """Take a request; its stream begins when a slot is free. `by` answers it instead of the engine itself.

        Raises UnavailableError when none is taken now, OverloadedError when too many are, RequestError
        when it asks what the engine has not.
        """
        try:
            engine, ticket = self._admit(request)
        except (RequestError, UnavailableError):
            self.metrics.outcomes["refused"] += 1
            raise
        source = Source(by or engine, self.metrics, self._turns, self._ended)
        generation = Generation(request, ticket, source)
        self._open.add(generation)
        self._gauge()
        return generation

    def _admit(self, request: GenerationRequest) -> tuple[Engine, Ticket]:
        if self.state != "ready" or self._engine is None or self.facts is None:
            raise UnavailableError(f"the model is {self.state}", mend="ask again when it is ready")
        refuse_unsupported(request, self.facts.features, self.facts.engine)
        return self._engine, self._admission.enter()

    async def drain(self, seconds: float) -> None:
        """Take no more requests, let the open ones end, and fail what is left after `seconds`.

        A dead engine that is giving back what it held has these seconds too.
        """
        if self.alive:
            self._become("draining")
        if self._engine is None and self._life is not None:
            self._life.cancel()
        await asyncio.gather(self._closed(seconds), self._buried(seconds))
        for generation in list(self._open):
            generation.fail(UnavailableError("the server is stopping; the answer is not complete", mend="ask again"))
        await self._closed(ABORT_GRACE)

    async def stop(self) -> None:
        """Give the engine back. Requests still open fail. Idempotent."""
        if self.state == "stopped":
            return
        await self.drain(0)
        if self._life is not None:
            self._life.cancel()
        await self._buried(ABORT_GRACE)
        if self._burial is not None:
            self._burial.cancel()
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                await engine.stop()
        finally:
            self._release()
        if self.alive:
            self._become("stopped")

    async def _live(self) -> None:
        """Load, watch, and after a death load again."""
        try:
            while engine := await self._load():
                await self._watch(engine)
                await self._buried()
                if self.state != "restarting":
                    break
            if not self.alive:
                self.failed.set()
        finally:
            self._settled.set()

    async def _load(self) -> Engine | None:
        try:
            engine, self.facts = await self._loader()
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
            self._become("ready", **({"backend": self.facts.backend} if self.facts.backend else {}))
            self._settled.set()
            return engine
        return None

    async def _watch(self, engine: Engine) -> None:
        """Look after the engine and its requests, until it has died."""
        while self._check(engine):
            now = monotonic()
            for generation in list(self._open):
                if why := generation.overdue(self._limits, now):
                    generation.fail(DeadlineError(why))
            self._look.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEALTH_SECONDS):  # an engine cannot tell us that it died: it is asked
                    await self._look.wait()

    def _check(self, engine: Engine) -> bool:
        """Whether the engine lives; if not, everything it was doing has failed afterwards."""
        if self._engine is not engine:
            return False
        health = engine.health()
        if not health.alive:
            self._died(engine, health.reason)
        return health.alive

    def _died(self, engine: Engine, reason: str) -> None:
        self._engine = None
        error = EngineError(f"the engine died: {reason}", mend="ask again when /readyz answers 200")
        if self.state == "ready":
            again = self._may_restart()
            self.error = None if again else error
            self._become("restarting" if again else "dead", reason=reason)
        for generation in list(self._open):
            generation.fail(error, engine_gone=True)
        self._burial = asyncio.create_task(self._bury(engine))
        self._look.set()

    def _may_restart(self) -> bool:
        """Whether the budget has a restart left; takes it."""
        now = monotonic()
        while self._restarts and now - self._restarts[0] > _HOUR:
            self._restarts.popleft()
        if len(self._restarts) >= self.manifest.serving.engine_restarts:
            return False
        self._restarts.append(now)
        self.metrics.engine_restarts += 1
        return True

    async def _bury(self, engine: Engine) -> None:
        """Have a dead engine give back what it held, so that another can start in its place."""
        await self._closed(ABORT_GRACE)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await engine.stop()
        except Exception as error:  # noqa: BLE001 - a dead engine's adapter may fail in any way: then no other is started
            self._fail(EngineError(f"the engine died and cannot be stopped: {type(error).__name__}: {error}"))

    async def _buried(self, seconds: float | None = None) -> None:
        """Wait until the engine that died last is buried, but no longer than `seconds`."""
        if self._burial is not None:
            await asyncio.wait({self._burial}, timeout=seconds)

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

    def _become(self, state: State, **fields: str) -> None:
        if state != self.state:
            self.state = state
            self.metrics.ready = state == "ready"
            level = logging.ERROR if state in ("dead", "failed") else logging.INFO
            event(state, level, model=self.manifest.name, **fields)

    def _gauge(self) -> None:
        self.metrics.running = self._admission.running
        self.metrics.waiting = self._admission.waiting
