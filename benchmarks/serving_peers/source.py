"""The mock engine, the same for every server of serving.py: packager's echo, which gives a word for a token."""

import itertools
from collections.abc import AsyncIterator

from packager.runtime.engine import Delta, EngineSetup, GenerationRequest
from packager.runtime.engines.echo import EchoEngine

ENGINE = EchoEngine(EngineSetup(model="echo", version="1", options={}, weights=None, slots=64))
_numbers = itertools.count()


async def tokens(prompt: str) -> AsyncIterator[Delta]:
    """The engine's own stream: nothing stands between it and who reads it."""
    if not ENGINE.health().alive:
        await ENGINE.start()
    return ENGINE.stream(GenerationRequest(str(next(_numbers)), prompt=prompt))
