"""One HTTP request over ASGI: its body, its answer, and its client's departure."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple

import orjson

from ...errors import DeadlineError, OverloadedError, PackagerError, RequestError, UnavailableError
from .bounds import Bounds
from .strictjson import parse_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class HttpError(RequestError):
    """A request refused by what HTTP itself says: no such route or model, body too large."""

    def __init__(self, status: int, what: str, *, where: str = "", mend: str = "", headers: Headers = ()) -> None:
        super().__init__(what, where=where, mend=mend)
        self.status = status
        self.headers = tuple(headers)


class Raw(NamedTuple):
    """An answer that is not JSON."""

    data: bytes
    content_type: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class ClientGoneError(Exception):
    """The client left before its request was read; there is nobody to answer."""


class Exchange:
    """One request and its answer.

    `id` is ours; `their_id` the client's own X-Request-Id, which the answer gives back. `headers` are those that every
    answer has beside its own, `notes` what the log will say of the request. With `keeps_texts` its body is among
    the notes, and what was answered in `sent`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, bounds: Bounds) -> None:
        self.id = request_id
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.status = 0
        self.error_shape: Callable[[PackagerError], Any] = error_body
        self.notes: dict[str, Any] = {}
        self.keeps_texts = False
        self.sent: list[bytes] = []
        self.began = monotonic()
        self.scope = scope
        self._fields = dict(reversed(scope["headers"]))  # of one that stands twice the first
        self._receive = receive
        self._send = send
        self._bounds = bounds
        self._unread = b"transfer-encoding" in self._fields or self._fields.get(b"content-length", b"0") != b"0"
        asked = self.header(b"x-request-id") or b""
        self.their_id = asked.decode() if _REQUEST_ID.fullmatch(asked) else ""
        self.headers: list[tuple[bytes, bytes]] = [(b"x-request-id", (self.their_id or self.id).encode())]

    @property
    def head(self) -> list[tuple[bytes, bytes]]:
        """The request's headers as they came, names in lower case."""
        fields: list[tuple[bytes, bytes]] = self.scope["headers"]
        return fields

    @property
    def url_size(self) -> int:
        """Bytes of the path and the query, as they came."""
        return len(self.scope.get("raw_path") or self.path.encode()) + len(self.scope.get("query_string") or b"")

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name (in lower case)."""
        return self._fields.get(name)

    async def json(self) -> Any:
        """The body as JSON, read strictly. Raises HttpError (408, 413, 415) or RequestError."""
        kind = (self.header(b"content-type") or b"application/json").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise HttpError(415, "the body must be JSON", mend="send it with `Content-Type: application/json`")
        return parse_json(await self.body())

    async def body(self) -> bytes:
        """The body. Raises HttpError when it is too large, compressed, or does not come."""
        if (self.header(b"content-encoding") or b"identity").lower() != b"identity":
            raise HttpError(415, "the body is compressed", mend="send it as it is")
        length = self.header(b"content-length") or b""
        if length.isdigit() and int(length) > self._bounds.body:
            raise self._too_large()
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(begun + self._bounds.body_seconds) as limit:
                return await self._read(begun, limit)
        except TimeoutError:
            raise HttpError(408, "the body did not come in time") from None

    async def _read(self, begun: float, limit: asyncio.Timeout) -> bytes:
        pieces, size, more = list[bytes](), 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._bounds.body:
                raise self._too_large()
            pieces.append(piece)
            if more := message.get("more_body", False):
                limit.reschedule(begun + self._bounds.body_seconds + size / self._bounds.body_rate)
        self._unread = False
        body = b"".join(pieces)
        if self.keeps_texts:
            self.notes["input"] = body.decode(errors="replace")
        return body

    def _too_large(self) -> HttpError:
        return HttpError(413, f"the body is larger than {self._bounds.body} bytes")

    async def start(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        """Send the head of the answer."""
        self.status = status
        head = [(b"content-type", content_type), *self.headers, *headers]
        if self._unread:  # what is left of the body would be taken for the next request, or be read for ever
            head.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send a piece of the answer. Waits while the client is slow to read: nothing piles up here."""
        if self.keeps_texts:
            self.sent.append(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, status: int, data: bytes, content_type: bytes, headers: Headers = ()) -> None:
        """Send a whole answer."""
        await self.start(status, content_type, [(b"content-length", str(len(data)).encode()), *headers])
        await self.write(data, more=False)

    async def answer_json(self, status: int, value: Any, headers: Headers = ()) -> None:
        """Send a JSON answer, or a Raw one as it is."""
        raw = value if isinstance(value, Raw) else Raw(orjson.dumps(value), b"application/json")
        await self.answer(status, raw.data, raw.content_type, [*raw.headers, *headers])

    async def answer_nobody(self) -> None:
        """Answer a client that has left (499, as nginx logs it).

        Nobody gets it, but a host may wait for it: BentoML's timeout holds the request until the first byte.
        """
        await self.answer(499, b"", b"text/plain")

    async def answer_error(self, error: PackagerError) -> None:
        """Send an error in the shape of this route (OpenAI's, unless it is another's), with the status that fits it."""
        status, headers = _status(error)
        await self.answer_json(status, self.error_shape(error), headers)

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


def error_body(error: PackagerError) -> dict[str, Any]:
    """The error as OpenAI's clients read it."""
    parameter = error.problems[0].where if isinstance(error, RequestError) and error.problems[0].where else None
    return {"error": {"message": error_text(error), "type": _type(error), "param": parameter, "code": error.code}}


def error_text(error: PackagerError) -> str:
    """What a client is told. An engine's own failure is not told in detail: logs have it."""
    if not isinstance(error, RequestError | UnavailableError | DeadlineError):
        return "the engine failed; the answer is not complete"
    problem = error.problems[0]
    return f"{problem.what}; {problem.mend}" if problem.mend else problem.what


def _type(error: PackagerError) -> str:
    if isinstance(error, RequestError):
        return "invalid_request_error"
    if isinstance(error, OverloadedError):
        return "rate_limit_error"
    return "unavailable_error" if isinstance(error, UnavailableError) else "engine_error"


def _status(error: PackagerError) -> tuple[int, Headers]:
    if isinstance(error, HttpError):
        return error.status, error.headers
    if isinstance(error, OverloadedError):
        return 429, [(b"retry-after", str(error.retry_after).encode())]
    kinds = ((RequestError, 400), (UnavailableError, 503), (DeadlineError, 504), (PackagerError, 500))
    return next(status for kind, status in kinds if isinstance(error, kind)), ()
