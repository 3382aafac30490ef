"""uvicorn's HTTP protocol, for clients that are slow, endless or hostile.

An app sees a request when its head is complete. Until then, and around what the app reads, this holds: a head has a
size and a time, a request that gets nowhere (endless chunk extensions or trailers) ends, a client that reads nothing is
left, and a client that sends its next request before it has its answer is not heard any further. (uvicorn queues such
requests without a bound, and while it does it cannot see that the client has left.)
"""

import asyncio
import re
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..inputs import new_id
from ..logs import event
from .bounds import Bounds
from .http import HttpError, error_body

_UPGRADE = re.compile(rb"\r\n(upgrade)[ \t]*:", re.IGNORECASE)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, bounds: Bounds, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds = bounds
        self._idle_bytes = 0  # since the request last got anywhere
        self._in_body = False
        self._deaf = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._head_came()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._idle_bytes += len(data)
        if not self._in_body:
            self._await_head()
            data = _without_upgrade(data)
        super().data_received(data)
        if self._idle_bytes > self._bounds.head and not self.transport.is_closing():
            self._refuse(431, "the request's head is too large")

    def on_headers_complete(self) -> None:
        self._head_came()
        if self._answering:
            self._listen_no_more()
            return
        self._in_body, self._idle_bytes = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            self._idle_bytes = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf:
            self._in_body, self._idle_bytes = False, 0
            super().on_message_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else it is a trailer, which nobody asks for
            super().on_header(name, value)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._bounds.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says to bytes that are no HTTP."""
        self._refuse(400, msg)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._bounds.head_seconds, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._idle_bytes:
            self._refuse(408, "the request's head did not come in time")
        else:
            self.transport.close()

    def _listen_no_more(self) -> None:
        """Finish the answer that is being given, then close. What comes meanwhile is dropped, but the departure seen."""
        self._deaf = True
        self.cycle.keep_alive = False

    def _refuse(self, status: int, what: str) -> None:
        """Answer in the app's place, and close; an answer that is being given is left to end."""
        if self._answering and not self._in_body:
            self._listen_no_more()
            return
        if not (self._answering and self.cycle.response_started):
            request = new_id()
            self.transport.write(_answer(request, status, what))
            event("request", request=request, status=status, reason=what)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """The beginning of a request, its wish for another protocol made unreadable.

    A server may ignore it (RFC 9110, 7.8), but httptools would take the body for that protocol's. Java's HttpClient
    wishes for h2c with every request.
    """
    end = data.find(b"\r\n\r\n")
    found = _UPGRADE.search(data, 0, len(data) if end < 0 else end)
    return data if found is None else data[: found.start(1)] + b"ignored" + data[found.end(1) :]


def _answer(request: str, status: int, what: str) -> bytes:
    body = orjson.dumps(error_body(HttpError(status, what)))
    head = f"content-type: application/json\r\nx-request-id: {request}\r\nconnection: close\r\n"
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINE[status], head.encode(), len(body), body)
