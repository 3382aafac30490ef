"""One HTTP request over ASGI: its body, its answer, and its client's departure."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from ...errors import ContextLengthError, OverloadedError, PackagerError, RequestError, UnavailableError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

BODY_LIMIT = 2 * 1024 * 1024
"""Bytes of a request's body; a context of 100,000 tokens is about 500 kB of text."""


class HttpError(RequestError):
    """A request refused by what HTTP itself says: no such route or model, body too large."""

    def __init__(self, status: int, what: str, *, where: str = "", headers: Headers = ()) -> None:
        super().__init__(what, where=where)
        self.status = status
        self.headers = tuple(headers)


class ClientGoneError(Exception):
    """The client left before its request was read; there is nobody to answer."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.id = request_id
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.status = 0
        self._scope = scope
        self._receive = receive
        self._send = send

    async def json(self) -> Any:
        """The body as JSON, read strictly. Raises HttpError (413) or RequestError."""
        return parse_json(await self._body())

    async def start(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        """Send the head of the answer."""
        self.status = status
        head = [(b"content-type", content_type), (b"x-request-id", self.id.encode()), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send a piece of the answer. Waits while the client is slow to read: nothing piles up here."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, status: int, data: bytes, content_type: bytes, headers: Headers = ()) -> None:
        """Send a whole answer."""
        await self.start(status, content_type, [(b"content-length", str(len(data)).encode()), *headers])
        await self.write(data, more=False)

    async def answer_json(self, status: int, value: Any, headers: Headers = ()) -> None:
        """Send a JSON answer."""
        await self.answer(status, orjson.dumps(value), b"application/json", headers)

    async def answer_nobody(self) -> None:
        """Answer a client that has left (499, as nginx logs it).

        Nobody gets it, but a host may wait for it: BentoML's timeout holds the request until the first byte.
        """
        await self.answer(499, b"", b"text/plain")

    async def answer_error(self, error: PackagerError) -> None:
        """Send an error in OpenAI's shape, with the status that fits it."""
        status, headers = _status(error)
        await self.answer_json(status, error_body(error), headers)

    @asynccontextmanager
    async def watching(self, on_departure: Callable[[], None]) -> AsyncIterator[None]:
        """Call `on_departure` when the client leaves while the block runs. The body must have been read."""
        watcher = asyncio.create_task(self._watch(on_departure))
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _watch(self, on_departure: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        on_departure()

    async def _body(self) -> bytes:
        if _declared_length(self._scope) > BODY_LIMIT:
            raise _too_large()
        pieces, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            piece = message.get("body", b"")
            size += len(piece)
            if size > BODY_LIMIT:
                raise _too_large()
            pieces.append(piece)
            more = message.get("more_body", False)
        return b"".join(pieces)


def parse_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, no duplicate keys, no NaN, no nesting beyond the interpreter's. Raises RequestError."""
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise RequestError("the body is nested too deep") from None
    except ValueError as error:
        raise RequestError(f"the body is not strict JSON: {error}") from None


def error_body(error: PackagerError) -> dict[str, Any]:
    """The error as OpenAI's clients read it. An engine's own failure is not told in detail: logs have it."""
    problem = error.problems[0]
    message = f"{problem.what}; {problem.mend}" if problem.mend else problem.what
    if not isinstance(error, RequestError | UnavailableError):
        message = "the engine failed; the answer is not complete"
    code = "invalid_request" if isinstance(error, HttpError) else error.code
    parameter = problem.where if isinstance(error, RequestError) and problem.where else None
    return {"error": {"message": message, "type": _type(error), "param": parameter, "code": code}}


def _type(error: PackagerError) -> str:
    if isinstance(error, RequestError):
        return "invalid_request_error"
    if isinstance(error, OverloadedError):
        return "rate_limit_error"
    return "unavailable_error" if isinstance(error, UnavailableError) else "engine_error"


def _status(error: PackagerError) -> tuple[int, Headers]:
    if isinstance(error, HttpError):
        return error.status, error.headers
    if isinstance(error, ContextLengthError | RequestError):
        return 400, ()
    if isinstance(error, OverloadedError):
        return 429, [(b"retry-after", str(error.retry_after).encode())]
    return (503 if isinstance(error, UnavailableError) else 500), ()


def _too_large() -> HttpError:
    # The rest of the body is not read, so the connection cannot be used again.
    return HttpError(413, f"the body is larger than {BODY_LIMIT} bytes", headers=[(b"connection", b"close")])


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
