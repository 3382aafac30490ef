"""BentoML's own streaming API, as its documentation shows it; `TRACED=no` leaves its spans out."""

import os
from collections.abc import AsyncGenerator

import bentoml
import orjson
from source import tokens

_TRACING = {} if os.environ["TRACED"] == "yes" else {"tracing": {"excluded_urls": "generate"}}


@bentoml.service(workers=1, traffic={"timeout": 3600}, **_TRACING)
class Service:
    @bentoml.api
    async def generate(self, prompt: str) -> AsyncGenerator[str, None]:
        async for delta in await tokens(prompt):
            if delta.text:
                yield 'data: {"text":' + orjson.dumps(delta.text).decode() + "}\n\n"
        yield "data: [DONE]\n\n"
