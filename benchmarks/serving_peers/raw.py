"""The ASGI app that does the least: no routes, no admission, no departures, one send a token."""

import json
from collections.abc import Callable
from typing import Any

import orjson
from source import tokens


async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    head = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    async for delta in await tokens(json.loads(body)["prompt"]):
        if delta.text:
            event = b'data: {"text":' + orjson.dumps(delta.text) + b"}\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
