"""The ASGI app: routes, lifespan, and the last word on errors.

It stands on ASGI alone: no framework, no middleware.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ...errors import EngineError, PackagerError
from ...manifest import Manifest
from ..generation import Generation
from ..inputs import new_id
from ..logs import LOG, event
from ..metrics import CONTENT_TYPE
from ..supervise import Supervisor
from .describe import describe
from .http import ClientGoneError, Exchange, HttpError, Receive, Scope, Send
from .openai import models, parse_chat, parse_completion
from .predict import parse_predict
from .sse import BrokenStreamError, Reply, stream_events

ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Exchange], Awaitable[None]]
Parse = Callable[[Any, str], Reply]


def create_app(supervisor: Supervisor, manifest: Manifest) -> ASGI:
    """The app for one served model.

    Its lifespan starts the supervisor (loading goes on in the background, so probes answer)
    and stops it. A host without lifespan does both itself.
    """
    return _App(supervisor, manifest)


class _App:
    def __init__(self, supervisor: Supervisor, manifest: Manifest) -> None:
        self._supervisor = supervisor
        self._manifest = manifest
        self._created = int(time.time())
        name = manifest.name
        self._routes: dict[str, dict[str, Handler]] = {
            "/predict": {"POST": partial(self._generate, parse_predict)},
            "/v1/chat/completions": {"POST": partial(self._generate, partial(parse_chat, model=name))},
            "/v1/completions": {"POST": partial(self._generate, partial(parse_completion, model=name))},
            "/v1/models": {"GET": self._models},
            f"/v1/models/{name}": {"GET": self._model},
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._openapi},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._exchange(Exchange(scope, receive, send, new_id()))
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "lifespan.startup":
            self._supervisor.start()
            await send({"type": "lifespan.startup.complete"})
        if message["type"] == "lifespan.shutdown":
            await self._supervisor.stop()
            await send({"type": "lifespan.shutdown.complete"})

    async def _exchange(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)(exchange)
        except ClientGoneError:
            await exchange.answer_nobody()
        except PackagerError as error:
            await exchange.answer_error(error)
        except BrokenStreamError:
            raise
        except Exception:
            LOG.exception("unexpected failure", extra={"fields": {"request": exchange.id, "path": exchange.path}})
            if exchange.status:
                raise
            await exchange.answer_error(EngineError("unexpected failure"))

    def _route(self, exchange: Exchange) -> Handler:
        methods = self._routes.get(exchange.path)
        if methods is None:
            raise HttpError(404, f"there is no {exchange.path} here; /openapi.json lists what there is")
        handler = methods.get(exchange.method)
        if handler is None:
            allowed = ", ".join(methods)
            raise HttpError(405, f"{exchange.path} takes {allowed} only", headers=[(b"allow", allowed.encode())])
        return handler

    async def _generate(self, parse: Parse, exchange: Exchange) -> None:
        reply = parse(await exchange.json(), exchange.id)
        generation = self._supervisor.submit(reply.request)
        try:
            if reply.stream:
                await stream_events(exchange, generation, reply.shape)
            else:
                await _whole(exchange, generation, reply)
        finally:
            generation.abort()
            _log(exchange, generation, reply)

    async def _models(self, exchange: Exchange) -> None:
        await exchange.answer_json(200, self._listing())

    async def _model(self, exchange: Exchange) -> None:
        await exchange.answer_json(200, self._listing()["data"][0])

    def _listing(self) -> Any:
        facts = self._supervisor.facts
        return models(self._manifest.name, self._created, None if facts is None else facts.context_length)

    async def _livez(self, exchange: Exchange) -> None:
        await exchange.answer_json(200 if self._supervisor.alive else 503, {"status": self._supervisor.state})

    async def _readyz(self, exchange: Exchange) -> None:
        await exchange.answer_json(200 if self._supervisor.ready else 503, {"status": self._supervisor.state})

    async def _metrics(self, exchange: Exchange) -> None:
        await exchange.answer(200, self._supervisor.metrics.text().encode(), CONTENT_TYPE.encode())

    async def _openapi(self, exchange: Exchange) -> None:
        await exchange.answer_json(200, describe(self._manifest.name, self._manifest.packager))


async def _whole(exchange: Exchange, generation: Generation, reply: Reply) -> None:
    async with exchange.watching(generation.abort):
        deltas = [delta async for delta in generation]
    if deltas[-1].finish_reason == "abort":
        await exchange.answer_nobody()
    else:
        await exchange.answer_json(200, reply.whole("".join(delta.text for delta in deltas), deltas[-1]))


def _log(exchange: Exchange, generation: Generation, reply: Reply) -> None:
    usage = generation.usage
    event(
        "request",
        logging.INFO,
        request=exchange.id,
        path=exchange.path,
        status=exchange.status,
        stream=reply.stream,
        outcome=generation.outcome,
        queue_seconds=round(generation.queue_seconds, 4),
        tokens_in=usage.prompt_tokens if usage else None,
        tokens_out=usage.completion_tokens if usage else None,
    )
