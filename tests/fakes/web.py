"""A real HTTP/1.1 server on loopback, in threads of its own, that does wrong on demand.

    with Web({"a/model.gguf": data, "big.bin": Path("big.bin")}) as web:
        web.faults = lambda request: Reset(after=1000) if request.number == 0 else None
        fetch(f"{web.url}/a/model.gguf")

It keeps connections, answers HEAD, single ranges and 416, gives an ETag, and sends paths with sendfile. Leaving the
`with` block ends every connection, whatever it is in the middle of, and waits for the threads.
"""

import gzip
import os
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.client import responses
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

STEP = 1 << 20
"""Bytes handed to the kernel at once."""
LONGEST_LINE = 1 << 16
BOUNDARY = "it-is-cut-here"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: `path` with its query (absolute for a proxy's), header names in lower case.

    `number` counts the requests of all connections from 0, `connection` the connections. `start` and `stop`
    (exclusive) are the Range that was asked, None where there was none or no end.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    start: int | None = None
    stop: int | None = None
    connection: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """Another answer altogether."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Redirect:
    to: str
    code: int = 302


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is closed without an answer."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """The connection is closed after that many bytes of the body. As many as it has: closed after a whole answer."""

    after: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset (RST) after that many bytes of the body; None: before the answer's head."""

    after: int | None


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing more comes after that many bytes of the body, until the client leaves; None: not even the head."""

    after: int | None


@dataclass(frozen=True, slots=True)
class Drip:
    """The body comes in portions of `bytes`, one every `seconds`."""

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Slow:
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Flip:
    """The lowest bit of the byte at `offset` of the file is another one (where the answer holds that byte)."""

    offset: int


@dataclass(frozen=True, slots=True)
class Serve:
    """Bytes of `data` under the head that the file's would have; a wrong length ends with the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """200 and the whole file, whatever was asked."""


@dataclass(frozen=True, slots=True)
class WrongRange:
    """The Content-Range is off by `shift`; the body is the one that was asked."""

    shift: int


@dataclass(frozen=True, slots=True)
class WrongTotal:
    """The file's size is said to be another: in the Content-Range, or as Content-Length of a whole file."""

    by: int


@dataclass(frozen=True, slots=True)
class WrongLength:
    """The Content-Length is off by `by`; the body is right and the connection ends with it."""

    by: int


@dataclass(frozen=True, slots=True)
class Gzip:
    """The body is compressed, and the head says so."""


@dataclass(frozen=True, slots=True)
class Multipart:
    """A 206 whose body is multipart/byteranges of one part."""


@dataclass(frozen=True, slots=True)
class NoLength:
    """No Content-Length: the body ends with the connection."""


Fault = (
    Status | Redirect | Close | Truncate | Reset | Stall | Drip | Slow | Flip | Serve | IgnoreRange | WrongRange
    | WrongTotal | WrongLength | Gzip | Multipart | NoLength
)  # fmt: skip
Content = bytes | Path


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of a file or of bytes, not read yet."""

    content: Content
    start: int
    stop: int

    def read(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[self.start : self.stop]
        with self.content.open("rb") as file:
            return os.pread(file.fileno(), self.stop - self.start, self.start)


@dataclass(frozen=True, slots=True)
class _Answer:
    """`keep` is False where the connection must end after it; `after` bytes of the body it ends as `end` says."""

    status: int
    headers: Mapping[str, str]
    body: tuple[_Span, ...] = ()
    keep: bool = True
    after: int | None = None
    end: str = "close"
    pace: "_Pace | None" = None


class _Left(Exception):  # noqa: N818
    """The client is gone, or the server stops."""


class _Pace:
    """Portions of `step` bytes, `seconds` apart on the whole: what is late is not made up for at once."""

    def __init__(self, step: int, seconds: float) -> None:
        self.step, self._seconds, self._due = max(1, step), seconds, 0.0

    @classmethod
    def rate(cls, bytes_per_second: float) -> Self:
        step = min(STEP, max(1, int(bytes_per_second / 50)))
        return cls(step, step / bytes_per_second)

    def spend(self, count: int) -> float:
        """Seconds to wait before so many more bytes may go."""
        now = time.monotonic()
        self._due = max(self._due, now) + self._seconds * count / self.step
        return self._due - now


class Web:
    """`files` are the paths below the root and what lies there; `url` has no slash at its end.

    `headers` by path are more of a file's, or others. `faults` is asked at each request, in the connection's thread. `bytes_per_second` limits each connection.
    With `tls`, the context of a server, it speaks https.
    """

    def __init__(
        self,
        files: Mapping[str, Content] | None = None,
        *,
        bytes_per_second: float | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.files: dict[str, Content] = dict(files or {})
        self.headers: dict[str, Mapping[str, str]] = {}
        self.faults: Callable[[Request], Fault | None] = lambda _: None
        self.bytes_per_second, self.tls = bytes_per_second, tls
        self._requests: list[Request] = []
        self._sent = self._accepted = 0
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopped = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """What was asked so far, in the order of `number`."""
        with self._lock:
            return list(self._requests)

    @property
    def sent(self) -> int:
        """Bytes of bodies given to the kernel so far; a client that has read them finds them counted."""
        with self._lock:
            return self._sent

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopped = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._listener.close()
        self.disconnect()

    def disconnect(self) -> None:
        """End all connections now, as a server that restarts does, and wait until they are gone."""
        with self._lock:
            threads = list(self._open.values())
            for connection in self._open:
                _shut(connection)
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                raise RuntimeError(f"a connection does not end: does {self.faults} wait for something?")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._stopped:
                    connection.close()
                    return
                number, self._accepted = self._accepted, self._accepted + 1
                thread = threading.Thread(target=self._serve, args=(connection, number), daemon=True)
                self._open[connection] = thread
                thread.start()

    def _serve(self, raw: socket.socket, number: int) -> None:
        connection = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                connection = self.tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open[connection] = self._open.pop(raw)
                    if self._stopped:
                        return
                connection.do_handshake()
            _Connection(self, connection, number).serve()
        except (OSError, _Left):
            pass  # clients that leave are part of the tests
        finally:
            with self._lock:
                self._open.pop(raw, None)
                self._open.pop(connection, None)
            connection.close()

    def _record(self, request: Request) -> Request:
        with self._lock:
            request = replace(request, number=len(self._requests))
            self._requests.append(request)
        return request

    def _count(self, sent: int) -> None:
        with self._lock:
            self._sent += sent


class _Connection:
    def __init__(self, web: Web, connection: socket.socket, number: int) -> None:
        self.web, self.connection, self.number = web, connection, number
        self.pace = _Pace.rate(web.bytes_per_second) if web.bytes_per_second else None

    def serve(self) -> None:
        with self.connection.makefile("rb") as lines:
            while (request := self.receive(lines.readline, lines.read)) is not None:
                fault = self.web.faults(request)
                if isinstance(fault, Close) or not self.send(request, _answer(self.web, request, fault)):
                    return

    def receive(self, readline: Callable[[int], bytes], read: Callable[[int], bytes]) -> Request | None:
        words = readline(LONGEST_LINE).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers: dict[str, str] = {}
        while line := readline(LONGEST_LINE).decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        read(int(headers.get("content-length", "0")))
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        start = int(match[1]) if match else None
        stop = int(match[2]) + 1 if match and match[2] else None
        return self.web._record(Request(0, words[0], words[1], headers, start, stop, self.number))

    def send(self, request: Request, answer: _Answer) -> bool:
        """Whether the connection goes on after the answer."""
        if answer.after is None and answer.end != "close":
            return self.end(answer)
        headers = {"Date": formatdate(usegmt=True), **answer.headers}
        if not answer.keep:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {answer.status} {responses.get(answer.status, 'Odd')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if request.method != "HEAD":
            self.body(_cut(answer.body, answer.after), answer.pace or self.pace)
        if answer.after is not None:
            return self.end(answer)
        return answer.keep and request.headers.get("connection", "").lower() != "close"

    def end(self, answer: _Answer) -> bool:
        if answer.end == "stall":
            while self.connection.recv(LONGEST_LINE):
                pass
        elif answer.end == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def body(self, spans: Iterable[_Span], pace: _Pace | None) -> None:
        for span in spans:
            if isinstance(span.content, bytes) or self.web.tls:
                whole = span.content if isinstance(span.content, bytes) else span.content.read_bytes()
                view = memoryview(whole)
                self.portions(span, pace, lambda at, count, view=view: self.connection.send(view[at : at + count]))
            else:
                with span.content.open("rb") as file:
                    out, into = self.connection.fileno(), file.fileno()
                    self.portions(span, pace, lambda at, count, out=out, into=into: os.sendfile(out, into, at, count))

    def portions(self, span: _Span, pace: _Pace | None, send: Callable[[int, int], int]) -> None:
        at = span.start
        while at < span.stop:
            count = min(span.stop - at, pace.step if pace else STEP)
            if pace:
                self.pause(pace.spend(count))
            # Counted first, so that whoever has read the bytes finds them counted.
            self.web._count(count)
            done = 0
            try:
                done = send(at, count)
            finally:
                self.web._count(done - count)
            if not done:
                raise _Left  # the file is shorter than it was
            at += done

    def pause(self, seconds: float) -> None:
        """Wait so long, or leave at once when the other side does."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN | select.POLLRDHUP)
        if poll.poll(seconds * 1000):
            raise _Left


def _answer(web: Web, request: Request, fault: Fault | None) -> _Answer:
    if isinstance(fault, Status):
        body = (_Span(fault.body, 0, len(fault.body)),)
        return _Answer(fault.code, {"Content-Length": str(len(fault.body)), **fault.headers}, body)
    if isinstance(fault, Redirect):
        return _Answer(fault.code, {"Location": fault.to, "Content-Length": "0"})
    if request.method not in ("GET", "HEAD"):
        return _Answer(405, {"Content-Length": "0", "Allow": "GET, HEAD"})
    path = unquote(urlsplit(request.path).path).lstrip("/")
    content = web.files.get(path)
    if content is None:
        return _Answer(404, {"Content-Length": "0"})
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    ranged = request.start is not None and not isinstance(fault, IgnoreRange)
    start, stop = (request.start or 0, min(size, request.stop or size)) if ranged else (0, size)
    if ranged and start >= stop:
        return _Answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
    headers = {"Accept-Ranges": "bytes", "ETag": _etag(content), "Content-Length": str(stop - start)}
    headers |= web.headers.get(path, {})
    if ranged:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    answer = _Answer(206 if ranged else 200, headers, (_Span(content, start, stop),))
    return answer if fault is None else _faulty(answer, fault)


def _faulty(answer: _Answer, fault: Fault) -> _Answer:
    match fault:
        case Truncate(after):
            return replace(answer, after=after)
        case Reset(after):
            return replace(answer, after=after, end="reset")
        case Stall(after):
            return replace(answer, after=after, end="stall")
        case Drip(count, seconds):
            return replace(answer, pace=_Pace(count, seconds))
        case Slow(rate):
            return replace(answer, pace=_Pace.rate(rate))
        case Gzip():
            return _with_body(answer, gzip.compress(answer.body[0].read(), 1), {"Content-Encoding": "gzip"})
        case Multipart():
            return _multipart(answer)
        case NoLength():
            headers = {name: value for name, value in answer.headers.items() if name != "Content-Length"}
            return replace(answer, headers=headers, keep=False)
        case Flip(offset):
            return replace(answer, body=_flipped(answer.body[0], offset))
        case Serve(data):
            (span,) = answer.body
            other = _Span(data, min(span.start, len(data)), min(span.stop, len(data)))
            return replace(answer, body=(other,), keep=other.stop - other.start == span.stop - span.start)
    return _misstated(answer, fault)


def _misstated(answer: _Answer, fault: Fault) -> _Answer:
    """The right bytes under a head that says something else."""
    length, place = int(answer.headers["Content-Length"]), answer.headers.get("Content-Range", "")
    match fault:
        case WrongLength(by):
            return replace(answer, headers={**answer.headers, "Content-Length": str(max(0, length + by))}, keep=False)
        case WrongTotal(by) if not place:
            return replace(answer, headers={**answer.headers, "Content-Length": str(max(0, length + by))}, keep=False)
        case WrongTotal(by):
            known, _, total = place.partition("/")
            return replace(answer, headers={**answer.headers, "Content-Range": f"{known}/{int(total) + by}"})
        case WrongRange(shift) if place:
            first, last, total = (int(one) for one in re.findall(r"\d+", place))
            shifted = f"bytes {max(0, first + shift)}-{max(0, last + shift)}/{total}"
            return replace(answer, headers={**answer.headers, "Content-Range": shifted})
    return answer


def _with_body(answer: _Answer, body: bytes, headers: Mapping[str, str]) -> _Answer:
    headers = {**answer.headers, **headers, "Content-Length": str(len(body))}
    return replace(answer, headers=headers, body=(_Span(body, 0, len(body)),))


def _multipart(answer: _Answer) -> _Answer:
    (span,) = answer.body
    place = answer.headers.get("Content-Range", f"bytes 0-{span.stop - 1}/{span.stop}")
    part = f"--{BOUNDARY}\r\nContent-Range: {place}\r\n\r\n".encode() + span.read() + f"\r\n--{BOUNDARY}--\r\n".encode()
    kept = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
    kind = {"Content-Type": f"multipart/byteranges; boundary={BOUNDARY}"}
    return _with_body(replace(answer, status=206, headers=kept), part, kind)


def _flipped(span: _Span, offset: int) -> tuple[_Span, ...]:
    if not span.start <= offset < span.stop:
        return (span,)
    (byte,) = replace(span, start=offset, stop=offset + 1).read()
    return (replace(span, stop=offset), _Span(bytes([byte ^ 1]), 0, 1), replace(span, start=offset + 1))


def _cut(spans: tuple[_Span, ...], after: int | None) -> Iterable[_Span]:
    """The first `after` bytes of what the spans hold."""
    for span in spans:
        length = span.stop - span.start
        if after is None or length <= after:
            yield span
            after = None if after is None else after - length
        else:
            yield replace(span, stop=span.start + after)
            return


def _etag(content: Content) -> str:
    if isinstance(content, bytes):
        return f'"{len(content):x}-{hash(content) & 0xFFFFFFFFFFFFFFFF:x}"'
    status = content.stat()
    return f'"{status.st_size:x}-{status.st_mtime_ns:x}"'


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it may have ended meanwhile
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # the plain one: TLS must not be taken apart meanwhile
