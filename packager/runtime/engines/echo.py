"""The echo engine: answers with the prompt's own words, one word a token.

Deterministic and without weights: the stand-in for a real engine in tests, and an engine that
needs no library for trying a base, a server or a cluster.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import orjson

from ...errors import ContextLengthError, EngineError
from ..engine import (
    SAMPLING,
    Delta,
    EngineFacts,
    EngineHealth,
    EngineSetup,
    Features,
    FinishReason,
    GenerationRequest,
    Likely,
    TokenLogprob,
    Usage,
)
from ..stops import HeldLogprobs, StopText
from ..structured import forced
from . import read_options

_WORD = re.compile(r"\s*\S+\s*$|\s*\S+")
_FEATURES = Features(sampling=SAMPLING, logprobs=20, outputs=frozenset({"json_object"}), tools=True)


@dataclass(frozen=True, slots=True)
class EchoOptions:
    """`delay_ms` milliseconds before each token; each stream fails after `fail_after` tokens."""

    delay_ms: float = 0
    fail_after: int | None = None
    context_length: int = 4096


class EchoEngine:
    """Streams the prompt, or the last message, word by word, each word as probable as can be.

    A JSON object is `{"text": ...}`; a tool that must be called gets the same as its arguments. Of sampling only
    `max_tokens`, `stop` and `ignore_eos` (the words again and again) have an effect.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._options = read_options(EchoOptions, setup)
        self._open: dict[str, asyncio.Event] = {}
        self._reason = "the engine has not started"

    async def start(self) -> EngineFacts:
        self._reason = ""
        setup = self._setup
        return EngineFacts("echo", setup.version, setup.model, self._options.context_length, setup.slots, _FEATURES)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        read, words = self._read(request)
        sampling, tools = request.sampling, forced(request.tools)
        room = self._options.context_length - read
        limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        aborted = self._open[request.id] = asyncio.Event()
        reason: FinishReason = "tool_calls" if tools else "stop"
        try:
            stop, logprobs, written = StopText(sampling.stop), HeldLogprobs(), 0
            for word in words:
                if written == limit:
                    reason = "length"
                    break
                await (self._delay(aborted) if self._options.delay_ms else asyncio.sleep(0))
                self._check(written)
                if aborted.is_set():
                    reason = "abort"
                    break
                written += 1
                if tools:
                    yield Delta("", 1, None, None, (), (_call(request.id, tools[0]["name"], word, written),))
                    continue
                text, met = stop.feed(word)
                likely = (
                    () if sampling.logprobs is None else logprobs.feed(_certain(word, sampling.logprobs), word, text)
                )
                if met:
                    yield Delta(text, 1, "stop", Usage(read, written), likely)
                    return
                yield Delta(text, 1, None, None, likely)
            if reason != "abort":
                self._check(written)
            yield Delta(stop.rest(), 0, reason, Usage(read, written), logprobs.rest())
        finally:
            del self._open[request.id]

    def _read(self, request: GenerationRequest) -> tuple[int, Iterator[str]]:
        """How many tokens the prompt has, and the words of the answer. Raises ContextLengthError."""
        text = request.messages[-1].content if request.messages else request.prompt or ""
        words = _WORD.findall(text)
        if len(words) >= self._options.context_length:
            raise ContextLengthError(
                f"the prompt has {len(words)} tokens; the context holds {self._options.context_length}, "
                "with at least one for the answer",
                where="prompt" if request.messages is None else "messages",
                mend="shorten it",
            )
        answer = words
        if request.output is not None or forced(request.tools):
            answer = _WORD.findall(orjson.dumps({"text": text}).decode())
        endless = request.sampling.ignore_eos and answer
        return len(words), chain.from_iterable(repeat(answer)) if endless else iter(answer)

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


def _certain(word: str, alternatives: int) -> tuple[TokenLogprob, ...]:
    token = Likely(word.encode(), 0.0)
    return (TokenLogprob(token, (token,) if alternatives else ()),)


def _call(request_id: str, name: str, word: str, number: int) -> Mapping[str, Any]:
    """A piece of the call; the first one has its id and the function's name."""
    if number == 1:
        return {"index": 0, "id": f"call_{request_id}", "function": {"name": name, "arguments": word}}
    return {"index": 0, "function": {"arguments": word}}
