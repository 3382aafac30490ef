"""Truss's own streaming, as its documentation shows it: `predict` returns a generator."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from source import tokens


class Model:
    async def predict(self, inputs: dict[str, Any]) -> AsyncIterator[str]:
        return _events(inputs["prompt"])


async def _events(prompt: str) -> AsyncIterator[str]:
    async for delta in await tokens(prompt):
        if delta.text:
            yield 'data: {"text":' + orjson.dumps(delta.text).decode() + "}\n\n"
    yield "data: [DONE]\n\n"
