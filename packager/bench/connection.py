"""HTTP/1.1 connections that say when each piece of an answer came.

The time is taken where the bytes leave the socket, before anything is parsed; h11 reads the protocol. Through httpx
an event costs this process three times as much, and 64 streams that send at once would be seen 2 to 5 ms late
where this sees them 0.3 to 1 ms late (benchmarks/client.py).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

import h11

_TOO_EARLY = "the server closed the connection before the answer was whole"
Headers = Sequence[tuple[str, str]]
Clock = Callable[[], float]


class Sink(Protocol):
    """Who is told of an answer as it comes."""

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def piece(self, data: bytes, at: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server is: `path` is what stands before its routes, without a slash at the end."""

    host: str
    port: int
    tls: bool
    path: str

    @classmethod
    def parse(cls, url: str) -> "Origin":
        """From `http://HOST[:PORT][/PATH]` or https. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http://HOST:PORT, or https")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("must have no query, fragment or user")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("must be printable ASCII without spaces; write others as %XX")
        try:
            parts.hostname.encode("idna")  # as the system's look-up does
        except UnicodeError:
            raise ValueError(f"{parts.hostname!r} is no name of a host") from None
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Connection(asyncio.Protocol):
    """One connection, one question at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport
        self._sink: Sink
        self._ended: asyncio.Future[None] | None = None
        self._unread: list[tuple[bytes, float]] = []
        self.usable = True

    async def post(self, path: str, headers: Headers, body: bytes, sink: Sink) -> None:
        """Send, and tell `sink` of the answer until it is whole. Raises OSError when it does not become whole."""
        self._sink = sink
        self._ended = asyncio.get_running_loop().create_future()
        try:
            head = self._http.send(h11.Request(method="POST", target=path, headers=list(headers)))
            data = self._http.send(h11.Data(body))
            end = self._http.send(h11.EndOfMessage())
            self._transport.write((head or b"") + (data or b"") + (end or b""))
            await self._ended
        except BaseException:
            self.close()
            raise
        finally:
            self._ended = None

    def close(self) -> None:
        """End the connection, whatever it is doing."""
        self.usable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came. They are read in the loop's next turn, when the time of all that came in this one is taken."""
        if not self._unread:
            asyncio.get_running_loop().call_soon(self._read_all)
        self._unread.append((data, self._clock()))

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has left; an answer without a length ends in this way."""
        self.usable = False
        if exc is None:
            self._unread.append((b"", self._clock()))
            self._read_all()
        self._fail(ConnectionResetError(_TOO_EARLY))

    def _read_all(self) -> None:
        pieces, self._unread = self._unread, []
        try:
            for data, at in pieces:
                self._http.receive_data(data)
                self._read(at)
        except h11.RemoteProtocolError as error:
            self._fail(ConnectionResetError(str(error) if data else _TOO_EARLY))

    def _read(self, at: float) -> None:
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Data):
                self._sink.piece(bytes(event.data), at)
            elif isinstance(event, h11.Response):
                self._sink.head(event.status_code, dict(event.headers))
            elif isinstance(event, h11.EndOfMessage):
                self._whole()
                return
            elif isinstance(event, h11.ConnectionClosed):
                return

    def _whole(self) -> None:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.usable = False
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, error: OSError) -> None:
        self.usable = False
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)


class Connections:
    """Connections to one server: taken when idle, opened when none is."""

    def __init__(self, origin: Origin, clock: Clock) -> None:
        self._origin = origin
        self._clock = clock
        self._idle: list[Connection] = []

    async def take(self) -> Connection:
        """One that is ready. Raises OSError."""
        while self._idle:
            if (found := self._idle.pop()).usable:
                return found
        loop, origin = asyncio.get_running_loop(), self._origin
        tls = True if origin.tls else None
        _, made = await loop.create_connection(lambda: Connection(self._clock), origin.host, origin.port, ssl=tls)
        return made

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next question, if it can take one."""
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """End those that are idle."""
        while self._idle:
            self._idle.pop().close()
