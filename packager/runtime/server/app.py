"""The ASGI app: routes, lifespan, and the last word on errors.

It stands on ASGI alone: no framework, no middleware.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import EngineError, PackagerError
from ...manifest import Manifest
from ..inputs import new_id
from ..logs import LOG
from ..metrics import CONTENT_TYPE
from ..supervise import Supervisor
from .answer import answer
from .describe import describe
from .http import ClientGoneError, Exchange, HttpError, Receive, Scope, Send
from .openai import models, parse_chat, parse_completion
from .predict import parse_predict
from .sse import BrokenStreamError, Reply

ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Exchange], Awaitable[None]]
Parse = Callable[[Any, str], Reply]
_CHAT_PAGE = Path(__file__).with_name("chat.html")


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
            "/chat": {"GET": self._chat},
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
        await answer(exchange, self._supervisor, parse(await exchange.json(), exchange.id))

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

    async def _chat(self, exchange: Exchange) -> None:
        await exchange.answer(200, _CHAT_PAGE.read_bytes(), b"text/html; charset=utf-8")
