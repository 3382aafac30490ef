"""Requests of either of TensorRT-LLM's engines: its LLM API streams token ids, and text is made of them here.

A request ends early by `RequestOutput.abort()` alone: dropping the iterator leaves it running.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from ...errors import EngineError, RequestError
from ...weights.compiled import explain
from ..engine import Delta, GenerationRequest, SamplingParams
from ..threads import in_daemon_thread
from .answer import Answer
from .calls import Call
from .tensorrt_llm_folder import Words
from .tensorrt_llm_options import sampling_words

_SHORT = 2000
"""Characters of a prompt that are tokenized on the event loop: the way to a thread and back takes longer."""
_REFUSAL = "RequestError"
"""What TensorRT-LLM raises for one request that its executor refuses (executor/utils.py); all else ends the engine."""


class Streams:
    """The open requests of one started LLM."""

    def __init__(self, llm: Any, make_sampling: Callable[..., Any], words: Words, can: frozenset[str]) -> None:
        """`make_sampling` is TensorRT-LLM's SamplingParams, `can` what is honoured of ours."""
        self._llm = llm
        self._make_sampling = make_sampling
        self._words = words
        self._can = can
        self._open: dict[str, _Run] = {}
        self.reason = ""

    async def prove(self) -> None:
        """Have the model write a token. Raises whatever TensorRT-LLM raises."""
        words = sampling_words(SamplingParams(max_tokens=1, ignore_eos=True), 1, self._words.ends, self._can)
        first = [self._words.ends[0]]
        async for _ in self._llm.generate_async(first, self._make_sampling(**words), streaming=True):
            pass

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        run = self._open[request.id] = _Run()
        pump: asyncio.Task[None] | None = None
        try:
            ids = await self._prompt(request)
            if self.reason:
                raise EngineError(self.reason)
            writer = _Writer(self._words, request, len(ids))
            if run.aborted:
                yield writer.answer.unbegun()
                return
            run.result = self._begin(request, ids)
            pump = asyncio.create_task(self._pump(run))
            async for tokens, reason in run.call.items():
                if reason == "cancelled" and not run.aborted:
                    raise EngineError(self.reason or "TensorRT-LLM ended the request by itself")
                delta = writer.delta(tokens, reason)
                yield delta
                if delta.finish_reason is not None:
                    return
            raise EngineError("TensorRT-LLM ended the stream without a reason")
        finally:
            del self._open[request.id]
            run.abort()
            if pump is not None:
                pump.cancel()

    async def abort(self, request_id: str) -> None:
        if run := self._open.get(request_id):
            run.aborted = True
            run.abort()

    def end(self, reason: str, *, gone: bool = False) -> None:
        """Fail the open requests, and every later one. Nothing is said to an executor that is `gone`: it would block."""
        self.reason = self.reason or reason
        for run in self._open.values():
            run.call.failure = EngineError(self.reason)
            run.call.put(None)
            run.finished = run.finished or gone
            run.abort()

    def look(self) -> None:
        """End them when one of the executor's processes has ended: TensorRT-LLM tells that to the next request alone."""
        executor = self._llm._executor  # noqa: SLF001 -- there is no other way to see it
        ended = next((one for one in getattr(executor, "mpi_futures", ()) if one.done()), None)
        if ended is not None and not self.reason:
            error = None if ended.cancelled() else ended.exception()
            self.end("TensorRT-LLM's executor has ended" + (f": {said(error)}" if error else ""), gone=True)

    async def _prompt(self, request: GenerationRequest) -> list[int]:
        size = len(request.prompt or "") + sum(len(message.content) for message in request.messages or ())
        if size < _SHORT:
            return self._words.prompt(request)
        return await in_daemon_thread(lambda: self._words.prompt(request))

    def _begin(self, request: GenerationRequest, ids: list[int]) -> Any:
        words = sampling_words(request.sampling, self._words.context - len(ids), self._words.ends, self._can)
        try:
            return self._llm.generate_async(ids, self._make_sampling(**words), streaming=True)
        except ValueError as error:
            raise RequestError(f"TensorRT-LLM refuses the request: {said(error)}") from error
        except Exception as error:
            self.end(f"TensorRT-LLM takes no requests: {said(error)}")
            raise EngineError(self.reason) from error

    async def _pump(self, run: "_Run") -> None:
        """What TensorRT-LLM gives, to the stream: which thus never waits for an engine that gives no more."""
        try:
            async for step in run.result:
                output = step.outputs[0]
                run.call.put((list(output.token_ids_diff), output.finish_reason))
                run.finished = output.finish_reason is not None
        except Exception as error:  # noqa: BLE001 - the stream raises it, or all streams do
            failure = EngineError(f"TensorRT-LLM failed: {said(error)}")
            run.finished, run.call.failure = True, failure
            if type(error).__name__ != _REFUSAL:
                self.end(str(failure))
        run.call.put(None)


class _Run:
    """One open request: TensorRT-LLM's RequestOutput, once it has begun, and what it gave."""

    __slots__ = ("aborted", "call", "finished", "result")

    def __init__(self) -> None:
        self.call = Call[tuple[list[int], str | None]](asyncio.get_running_loop())
        self.result: Any = None
        self.aborted = False
        self.finished = False

    def abort(self) -> None:
        """End it in the engine, unless it has not begun or has ended."""
        if self.result is not None and not self.finished:
            self.finished = True
            with suppress(AttributeError, RuntimeError):  # the executor is gone, and the request with it
                self.result.abort()


class _Writer:
    """Deltas of the steps of one request."""

    __slots__ = ("_ends", "_text", "answer")

    def __init__(self, words: Words, request: GenerationRequest, prompt_tokens: int) -> None:
        self._text = words.detokenizer.stream()
        self._ends = frozenset[int]() if request.sampling.ignore_eos else frozenset(words.ends)
        self.answer = Answer("TensorRT-LLM", request.sampling.stop, prompt_tokens)

    def delta(self, tokens: list[int], reason: str | None) -> Delta:
        """What a step of TensorRT-LLM's added."""
        text = "".join(self._text.feed(token) for token in tokens if token not in self._ends)
        if reason is not None:
            text += self._text.rest()
        return self.answer.delta(text, len(tokens), "abort" if reason == "cancelled" else reason)


def said(error: BaseException) -> str:
    """What TensorRT-LLM's own message means, or its first line that says something, and that of its causes.

    What the executor's process met is the cause of an error that says no more than that it met something (1.2, proxy.py).
    """
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__
    meant = next(filter(None, (explain(str(one)) for one in chain)), None)
    return meant or ": ".join(dict.fromkeys(map(_first_line, chain)))


def _first_line(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
