"""The ASGI app: routes, lifespan, and the last word on errors.

It stands on ASGI alone: no framework, no middleware.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import monotonic
from traceback import format_tb
from typing import Any

from ...environ import LOG_PROMPTS
from ...errors import EngineError, PackagerError
from ...manifest import Manifest
from ..engine import ASGI
from ..inputs import new_id
from ..logs import event
from ..metrics import CONTENT_TYPE
from ..supervise import Supervisor
from . import tensors, triton
from .answer import answer
from .bounds import Bounds
from .choices import Choices
from .describe import describe
from .guard import Guard
from .http import ClientGoneError, Exchange, HttpError, Receive, Scope, Send
from .keys import ApiKeys
from .native import answer_natively
from .openai import models
from .openai_chat import parse_chat
from .openai_completion import parse_completion
from .predict import parse_predict
from .sse import BrokenStreamError, Reply

Handler = Callable[[Exchange], Awaitable[None]]
Parse = Callable[[Any, str], Reply | Choices]
_CHAT_PAGE = Path(__file__).with_name("chat.html")
_MODEL = "/v1/models/"
_PROBES = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def create_app(
    supervisor: Supervisor, manifest: Manifest, keys: ApiKeys | None = None, bounds: Bounds | None = None
) -> ASGI:
    """The app for one served model. `keys` None lets everybody ask; `bounds` None means the manifest's.

    Its lifespan starts the supervisor (loading goes on in the background, so probes answer)
    and stops it. A host without lifespan does both itself.
    """
    within = bounds or Bounds(body=manifest.serving.max_body)
    return _App(supervisor, manifest, Guard(within, keys, manifest.serving.cors_origins), within)


class _App:
    def __init__(self, supervisor: Supervisor, manifest: Manifest, guard: Guard, bounds: Bounds) -> None:
        self._supervisor = supervisor
        self._manifest = manifest
        self._guard = guard
        self._bounds = bounds
        self._native = manifest.serving.api == "native"
        self._log_texts = LOG_PROMPTS.get() == "1"
        self._created = int(time.time())
        name = manifest.name
        self._routes: dict[str, dict[str, Handler]] = {
            "/predict": {"POST": partial(self._generate, parse_predict)},
            "/v1/chat/completions": {"POST": partial(self._generate, partial(parse_chat, model=name))},
            "/v1/completions": {"POST": partial(self._generate, partial(parse_completion, model=name))},
            "/v1/models": {"GET": self._models},
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._openapi},
            "/chat": {"GET": self._chat},
            "/v2": {"GET": _fixed(triton.server_metadata(manifest.packager))},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
            **self._triton(f"/v2/models/{name}"),
            **self._triton(f"/v2/models/{name}/versions/{triton.VERSION}"),
        }

    def _triton(self, path: str) -> dict[str, dict[str, Handler]]:
        name, engine = self._manifest.name, self._manifest.engine.kind
        return {
            path: {"GET": _fixed(triton.model_metadata(name, engine))},
            f"{path}/config": {"GET": _fixed(triton.model_config(name, engine))},
            f"{path}/ready": {"GET": self._ready},
            f"{path}/infer": {"POST": self._infer},
            f"{path}/generate": {"POST": partial(self._generate, partial(triton.parse_generate, model=name))},
            f"{path}/generate_stream": {
                "POST": partial(self._generate, partial(triton.parse_generate_stream, model=name))
            },
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._exchange(Exchange(scope, receive, send, new_id(), self._bounds))
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
        exchange.keeps_texts = self._log_texts
        if exchange.path.startswith("/v2"):
            exchange.error_shape = triton.error_body
        try:
            self._guard.admit(exchange)
            await self._route(exchange)(exchange)
        except ClientGoneError:
            await exchange.answer_nobody()
        except PackagerError as error:
            await exchange.answer_error(error)
        except BrokenStreamError:
            raise
        except Exception as error:
            _log_unexpected(exchange, error)
            if exchange.status:
                raise BrokenStreamError(exchange.id) from error
            await exchange.answer_error(EngineError("unexpected failure"))
        finally:
            _log(exchange)

    def _route(self, exchange: Exchange) -> Handler:
        if self._native and exchange.path.startswith("/v1/") and not exchange.path.startswith("/v1/models"):
            return self._natively
        methods = self._routes.get(exchange.path)
        if methods is None and exchange.path.startswith(_MODEL):
            methods = {"GET": self._model}
        if methods is None:
            raise HttpError(404, f"there is no {exchange.path[:100]} here; /openapi.json lists what there is")
        allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
        if exchange.method == "OPTIONS":
            return partial(_options, allowed.encode())
        handler = methods.get("GET" if exchange.method == "HEAD" else exchange.method)
        if handler is None:
            raise HttpError(405, f"{exchange.path} takes {allowed} only", headers=[(b"allow", allowed.encode())])
        return handler

    async def _generate(self, parse: Parse, exchange: Exchange) -> None:
        await answer(exchange, self._supervisor, parse(await exchange.json(), exchange.id))

    async def _natively(self, exchange: Exchange) -> None:
        await answer_natively(exchange, self._supervisor)

    async def _infer(self, exchange: Exchange) -> None:
        size = exchange.header(tensors.HEADER)
        reply = tensors.parse_infer(await exchange.body(), size, exchange.id, self._manifest.name)
        await answer(exchange, self._supervisor, reply)

    async def _models(self, exchange: Exchange) -> None:
        await exchange.answer_json(200, self._listing())

    async def _model(self, exchange: Exchange) -> None:
        asked = exchange.path.removeprefix(_MODEL)
        found = [one for one in self._listing()["data"] if one["id"] == asked]
        if not found:
            raise HttpError(404, f"the model {asked[:100]!r} does not exist here", where="model")
        await exchange.answer_json(200, found[0])

    def _listing(self) -> Any:
        return models(self._manifest.name, self._created, self._supervisor.facts)

    async def _livez(self, exchange: Exchange) -> None:
        await exchange.answer_json(200 if self._supervisor.alive else 503, {"status": self._supervisor.state})

    async def _readyz(self, exchange: Exchange) -> None:
        await exchange.answer_json(200 if self._supervisor.ready else 503, {"status": self._supervisor.state})

    async def _live(self, exchange: Exchange) -> None:
        alive = self._supervisor.alive
        await exchange.answer_json(200 if alive else 503, {"live": alive})

    async def _ready(self, exchange: Exchange) -> None:
        ready = self._supervisor.ready
        await exchange.answer_json(200 if ready else 503, {"ready": ready})

    async def _metrics(self, exchange: Exchange) -> None:
        await exchange.answer(200, self._supervisor.metrics.text().encode(), CONTENT_TYPE.encode())

    async def _openapi(self, exchange: Exchange) -> None:
        facts, manifest = self._supervisor.facts, self._manifest
        adapters = facts.features.adapters if facts else ()
        document = describe(manifest.name, manifest.packager, adapters, locked=self._guard.locked)
        await exchange.answer_json(200, document)

    async def _chat(self, exchange: Exchange) -> None:
        await exchange.answer(200, _CHAT_PAGE.read_bytes(), b"text/html; charset=utf-8")


def _fixed(value: Any) -> Handler:
    """Answers the same at all times."""

    async def give(exchange: Exchange) -> None:
        await exchange.answer_json(200, value)

    return give


async def _options(allowed: bytes, exchange: Exchange) -> None:
    await exchange.answer(200, b"", b"text/plain", [(b"allow", allowed)])


def _log(exchange: Exchange) -> None:
    """One line for each request; probes come too often to be told of."""
    trace = exchange.header(b"traceparent") or b""
    event(
        "request",
        logging.DEBUG if exchange.path in _PROBES else logging.INFO,
        request=exchange.id,
        **({"client_request": exchange.their_id} if exchange.their_id else {}),
        **({"traceparent": trace.decode()} if _TRACEPARENT.fullmatch(trace) else {}),
        method=exchange.method,
        path=exchange.path[:200],
        status=exchange.status,
        seconds=round(monotonic() - exchange.began, 4),
        **exchange.notes,
        **({"output": b"".join(exchange.sent).decode(errors="replace")} if exchange.keeps_texts else {}),
    )


def _log_unexpected(exchange: Exchange, error: Exception) -> None:
    """Where it happened, and not the exception's own words: they may quote a prompt."""
    trace = "".join(format_tb(error.__traceback__))
    event("unexpected failure", logging.ERROR, request=exchange.id, error=type(error).__name__, trace=trace)
