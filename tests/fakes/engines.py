"""Engines that misbehave, each in one way: small real implementations of the Engine Protocol."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from packager.runtime.engine import Delta, EngineFacts, EngineHealth, EngineSetup, GenerationRequest, Usage


def make_setup(
    weights: Path | None = None, slots: int = 2, *, quantization: str = "none", **options: object
) -> EngineSetup:
    return EngineSetup("tiny", "1", options, weights, slots, quantization=quantization)


class HeldEngine:
    """Gives tokens only when told to; aborts as an engine should. The base of the others."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.dead = ""
        self.stopped = False
        self.tokens: dict[str, asyncio.Queue[Delta | Exception | None]] = {}
        self.aborted: list[str] = []

    async def start(self) -> EngineFacts:
        return EngineFacts("held", "1", "tiny", 100, self.slots)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        queue = self.tokens.setdefault(request.id, asyncio.Queue())
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def give(self, request_id: str, *items: Delta | Exception | None) -> None:
        """The next things that the request's stream does; None ends it."""
        for item in items:
            self.tokens.setdefault(request_id, asyncio.Queue()).put_nowait(item)

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self.give(request_id, Delta("", 0, "abort", Usage(1, 0)), None)

    async def stop(self) -> None:
        self.stopped = True

    def health(self) -> EngineHealth:
        return EngineHealth(not self.dead, self.dead)


class StubbornEngine(HeldEngine):
    """Does not end an aborted stream."""

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)


class EagerEngine(HeldEngine):
    """Gives `count` tokens without ever waiting; `given` says how many were taken from it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.given = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        for _ in range(self.count):
            self.given += 1
            yield Delta("x")
        yield Delta("", 0, "stop", Usage(1, self.count))
