"""The echo engine: answers with the prompt's own words, one word a token.

Deterministic and without weights: the stand-in for a real engine in tests, and an engine that
needs no library for trying a base, a server or a cluster.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from ...errors import ContextLengthError, EngineError
from ..engine import Delta, EngineFacts, EngineHealth, EngineSetup, FinishReason, GenerationRequest, Usage
from ..stops import StopText
from . import read_options

_WORD = re.compile(r"\s*\S+\s*$|\s*\S+")


@dataclass(frozen=True, slots=True)
class EchoOptions:
    """`delay_ms` milliseconds before each token; each stream fails after `fail_after` tokens."""

    delay_ms: float = 0
    fail_after: int | None = None
    context_length: int = 4096


class EchoEngine:
    """Streams the prompt, or the last message, word by word. Sampling has no effect but for `max_tokens` and `stop`."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._options = read_options(EchoOptions, setup)
        self._open: dict[str, asyncio.Event] = {}
        self._reason = "the engine has not started"

    async def start(self) -> EngineFacts:
        self._reason = ""
        setup = self._setup
        return EngineFacts("echo", setup.version, setup.model, self._options.context_length, setup.slots)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        words = _WORD.findall(_text(request))
        room = self._options.context_length - len(words)
        if room <= 0:
            raise ContextLengthError(
                f"the prompt has {len(words)} tokens; the context holds {self._options.context_length}, "
                "with at least one for the answer",
                where="prompt" if request.messages is None else "messages",
                mend="shorten it",
            )
        wanted = request.sampling.max_tokens
        limit = min(len(words), room if wanted is None else wanted, room)
        aborted = self._open[request.id] = asyncio.Event()
        try:
            stop, written = StopText(request.sampling.stop), 0
            reason: FinishReason = "length" if limit < len(words) else "stop"
            for word in words[:limit]:
                await (self._delay(aborted) if self._options.delay_ms else asyncio.sleep(0))
                self._check(written)
                if aborted.is_set():
                    reason = "abort"
                    break
                written += 1
                text, met = stop.feed(word)
                if met:
                    yield Delta(text, 1, "stop", Usage(len(words), written))
                    return
                yield Delta(text)
            yield Delta(stop.rest(), 0, reason, Usage(len(words), written))
        finally:
            del self._open[request.id]

    async def _delay(self, aborted: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(aborted.wait(), self._options.delay_ms / 1000)

    def _check(self, written: int) -> None:
        """Fail when it must."""
        if self._reason:
            raise EngineError(self._reason)
        if written == self._options.fail_after:
            raise EngineError(f"the echo engine failed after {written} tokens, as it was told to (fail_after)")

    async def abort(self, request_id: str) -> None:
        if aborted := self._open.get(request_id):
            aborted.set()

    async def stop(self) -> None:
        self._reason = "the engine was stopped"

    def health(self) -> EngineHealth:
        return EngineHealth(not self._reason, self._reason)


def _text(request: GenerationRequest) -> str:
    return request.messages[-1].content if request.messages else request.prompt or ""
