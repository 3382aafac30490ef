"""Answers of several choices, or with more in them than text: log probabilities, tool calls.

What is only text goes the way of sse.py, where a token costs its own escaping. Here each piece of an answer is a
JSON object that its route's Form makes.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import PackagerError
from ..engine import Delta, GenerationRequest, Usage
from ..generation import Generation
from .http import Exchange
from .sse import DONE, break_off, encode_event, leave_off, start_events

Json = dict[str, Any]


class Form(Protocol):
    """How a route writes the choice `index`."""

    def opening(self, index: int) -> Json | None:
        """What a stream of it begins with."""
        ...

    def piece(self, index: int, delta: Delta) -> Json | None:
        """What a Delta adds to the stream; None when that is nothing."""
        ...

    def finish(self, index: int, last: Delta) -> Json:
        """What its stream ends with."""
        ...

    def whole(self, index: int, deltas: Sequence[Delta]) -> Json:
        """The whole choice."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around choices: the head of a whole answer, that of an event, and whether events end with the usage."""

    answer: Json
    event: Json
    usage: bool

    def chunk(self, *choices: Json) -> Json:
        """An event's value; where usage was asked for every event has the field."""
        return self.event | {"choices": choices} | ({"usage": None} if self.usage else {})

    def ending(self, usage: Usage) -> bytes:
        """The last event, if usage was asked for."""
        return encode_event(self.chunk() | {"usage": _usage(usage)}) if self.usage else b""

    def whole(self, choices: Sequence[Json], usage: Usage) -> Json:
        """A whole answer."""
        return self.answer | {"choices": choices, "usage": _usage(usage)}


@dataclass(frozen=True, slots=True)
class Choices:
    """A parsed request of which each choice is a generation of its own; `each` are those of one prompt, in a row."""

    requests: tuple[GenerationRequest, ...]
    each: int
    stream: bool
    envelope: Envelope
    form: Form

    def usage(self, lasts: Sequence[Delta]) -> Usage:
        """Tokens of all choices, each prompt counted once, by the last Delta of each."""
        usages = [last.usage or Usage(0, 0) for last in lasts]
        prompts = sum(usage.prompt_tokens for usage in usages[:: self.each])
        return Usage(prompts, sum(usage.completion_tokens for usage in usages))

    def events(self, index: int, batch: Sequence[Delta], *, first: bool) -> bytes:
        """The events of a choice's Deltas."""
        parts = [self.form.opening(index)] if first else []
        parts += [self.form.piece(index, delta) for delta in batch]
        if batch[-1].finish_reason is not None:
            parts.append(self.form.finish(index, batch[-1]))
        return b"".join(encode_event(self.envelope.chunk(part)) for part in parts if part is not None)


async def stream_choices(exchange: Exchange, generations: Sequence[Generation], choices: Choices) -> None:
    """Answer with the events of all choices as they come. What fails one of them fails the whole answer."""
    lasts: dict[int, Delta] = {}
    try:
        async with aclosing(_arrivals(generations)) as arrivals:
            async for arrived in arrivals:
                if any(batch[-1].finish_reason == "abort" for _, batch in arrived):
                    await leave_off(exchange)
                    return
                if not exchange.status:
                    await start_events(exchange)
                events = b"".join(choices.events(at, batch, first=at not in lasts) for at, batch in arrived)
                lasts |= {at: batch[-1] for at, batch in arrived}
                await exchange.write(events, more=True)
    except PackagerError as error:
        await break_off(exchange, error)
    usage = choices.usage([lasts[at] for at in range(len(generations))])
    await exchange.write(choices.envelope.ending(usage) + DONE, more=False)


async def whole_choices(generations: Sequence[Generation], choices: Choices) -> Json | None:
    """All choices as one answer; None when the client has left. Raises what fails one of them."""
    deltas: list[list[Delta]] = [[] for _ in generations]
    async with aclosing(_arrivals(generations)) as arrivals:
        async for arrived in arrivals:
            for at, batch in arrived:
                if batch[-1].finish_reason == "abort":
                    return None
                deltas[at] += batch
    written = [choices.form.whole(at, one) for at, one in enumerate(deltas)]
    return choices.envelope.whole(written, choices.usage([one[-1] for one in deltas]))


async def _arrivals(generations: Sequence[Generation]) -> AsyncGenerator[list[tuple[int, list[Delta]]], None]:
    """What has come of which generation, until all have ended. Raises the first failure, after what came before it."""
    reading = {asyncio.create_task(one.batch()): at for at, one in enumerate(generations)}
    try:
        while reading:
            done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            failures = [failure for task in done if (failure := task.exception())]
            arrived = sorted((reading.pop(task), task.result()) for task in done if not task.exception())
            if arrived:
                yield arrived
            if failures:
                raise failures[0]
            for at, batch in arrived:
                if batch[-1].finish_reason is None:
                    reading[asyncio.create_task(generations[at].batch())] = at
    finally:
        for task in reading:
            if not task.cancel() and not task.cancelled():
                task.exception()  # asyncio logs what nobody has looked at; another failure was told


def _usage(usage: Usage) -> dict[str, int]:
    prompt, completion = usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
