"""One model, three faces over one async core.

`AsyncModel` is the core: it lives on the event loop that loads it. `LocalModel` is its synchronous
face for a REPL, `Model` the face that Truss asks for. Both run the core on a loop in a thread of
its own, because the engine has one owner, and their callers' loops come and go.
"""

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import LoadError
from ..store import Store
from .engine import Delta
from .generation import Generation
from .inputs import parse_inputs
from .load import open_package

Result = TypeVar("Result")
Answer = dict[str, Any]
"""`{"text", "finish_reason", "usage": {"prompt_tokens", "completion_tokens", "total_tokens"}}`."""


class AsyncModel:
    """A model on the running event loop.

    `predict(inputs)` takes `prompt` or `messages` and sampling parameters. It gives an Answer, or with
    `stream: true` an async generator of text. A failure is raised, mid-stream too: what ended
    without an exception is complete.
    """

    def __init__(self, package: Path, store: Store | None = None) -> None:
        self._supervisor = open_package(package, store)

    @property
    def ready(self) -> bool:
        """Whether a request would be taken now."""
        return self._supervisor.ready

    async def load(self) -> None:
        """Verify the weights and start the engine. Raises LoadError or IntegrityError."""
        self._supervisor.start()
        await self._supervisor.loaded()

    async def predict(self, inputs: Any) -> Answer | AsyncIterator[str]:
        """One request. Raises RequestError, UnavailableError or EngineError."""
        generation, stream = self.open(inputs)
        return _texts(generation) if stream else await collect(generation)

    def open(self, inputs: Any) -> tuple[Generation, bool]:
        """The request as a Generation, and whether its inputs ask for a stream."""
        request, stream = parse_inputs(inputs)
        return self._supervisor.submit(request), stream

    async def stop(self) -> None:
        """End what runs and give the engine back."""
        await self._supervisor.stop()


async def collect(generation: Generation) -> Answer:
    """The whole answer. Cancelling the wait aborts the request."""
    try:
        deltas = [delta async for delta in generation]
    finally:
        generation.abort()
    return answer("".join(delta.text for delta in deltas), deltas[-1])


def answer(text: str, last: Delta) -> Answer:
    """An Answer from the text and the stream's last Delta."""
    prompt, completion = last.usage or (0, 0)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"text": text, "finish_reason": last.finish_reason, "usage": usage}


async def _texts(generation: Generation) -> AsyncIterator[str]:
    try:
        async for delta in generation:
            if delta.text:
                yield delta.text
    finally:
        generation.abort()


class _Owner:
    """A loaded model on an event loop of its own, in a thread of its own."""

    def __init__(self, package: Path, store: Store | None = None) -> None:
        self.model = AsyncModel(package, store)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="packager-model")
        self._thread.start()
        try:
            self.submit(self.model.load()).result()
        except BaseException:
            self.close()
            raise

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on the loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def begin(self, inputs: Any, begun: list[Generation]) -> Answer | None:
        """On the loop: a whole Answer, or None for a stream. `begun` gets the request either way.

        (A caller that is interrupted loses what a coroutine returns, but not what it has put there.)
        """
        generation, stream = self.model.open(inputs)
        begun.append(generation)
        return None if stream else await collect(generation)

    def abort(self, begun: list[Generation]) -> None:
        """Abort requests, from another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_abort_all, begun)  # after what may yet fill `begun`

    def close(self) -> None:
        """Stop the model and the loop. Idempotent."""
        if not self._loop.is_closed():
            self.submit(self.model.stop()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


def _abort_all(begun: list[Generation]) -> None:
    for generation in begun:
        generation.abort()


class LocalModel:
    """A loaded model for synchronous code: `with load("dist/NAME") as model: model.predict({...})`."""

    def __init__(self, package: Path, store: Store | None = None) -> None:
        self._owner = _Owner(package, store)

    def predict(self, inputs: Any) -> Answer | Iterator[str]:
        """An Answer, or with `stream: true` an iterator of text; its failure is raised from it."""
        begun: list[Generation] = []
        try:
            whole = self._owner.submit(self._owner.begin(inputs, begun)).result()
        except BaseException:
            self._owner.abort(begun)
            raise
        return self._stream(begun) if whole is None else whole

    def close(self) -> None:
        """End what runs and give the engine back. Idempotent."""
        self._owner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, begun: list[Generation]) -> Iterator[str]:
        texts = self._texts(begun[0])
        # A generator that is dropped before its first step runs no `finally`.
        weakref.finalize(texts, self._owner.abort, begun)
        return texts

    def _texts(self, generation: Generation) -> Iterator[str]:
        try:
            while batch := self._owner.submit(generation.batch()).result():
                for delta in batch:
                    if delta.text:
                        yield delta.text
        finally:
            self._owner.abort([generation])


def load(package: str | Path) -> LocalModel:
    """Load the package folder that `packager build` wrote, for synchronous use in this process.

    Raises PackageError when it is no package, LoadError or IntegrityError when it cannot be loaded.
    """
    return LocalModel(Path(package))


class Model:
    """The model as Truss wants it: made without work, `load()` in a thread, `predict()` on Truss's loop."""

    def __init__(self, package: Path, store: Store | None = None) -> None:
        self._package = package
        self._store = store
        self._owner: _Owner | None = None

    def load(self) -> None:
        """Verify the weights and start the engine. Raises LoadError or IntegrityError. May be tried again."""
        self._owner = _Owner(self._package, self._store)

    async def predict(self, inputs: Any) -> Answer | AsyncIterator[str]:
        """An Answer, or with `stream: true` a native async generator of text that raises when it fails."""
        owner, begun = self._loaded(), list[Generation]()
        try:
            whole = await asyncio.wrap_future(owner.submit(owner.begin(inputs, begun)))
        except asyncio.CancelledError:
            owner.abort(begun)
            raise
        if whole is not None:
            return whole
        texts = _bridged(owner, begun[0])
        weakref.finalize(texts, owner.abort, begun)
        return texts

    def is_healthy(self) -> bool:
        """Whether a request would be taken."""
        return self._owner is not None and self._owner.model.ready

    def close(self) -> None:
        """End what runs and give the engine back. Idempotent."""
        if self._owner is not None:
            self._owner.close()

    def _loaded(self) -> _Owner:
        if self._owner is None:
            raise LoadError("the model is not loaded", mend="call load() first")
        return self._owner


async def _bridged(owner: _Owner, generation: Generation) -> AsyncIterator[str]:
    """A generation's text on the caller's loop; one hop between the loops for all that waits."""
    try:
        while batch := await asyncio.wrap_future(owner.submit(generation.batch())):
            for delta in batch:
                if delta.text:
                    yield delta.text
    finally:
        owner.abort([generation])
