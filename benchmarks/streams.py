"""The client of serving.py: streams over keep-alive connections, one thread, sockets and nothing else.

It counts events (`data: `) and parses no JSON, so that it costs far less than any server: serving.py
shows how busy it was, and a server that only sends shows how fast it can be.
"""

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

_EVENT = b"data: "
_END = b"\r\n0\r\n\r\n"
"""The end of a chunked answer, after the last chunk's own bytes."""
_STATUS = b"HTTP/1.1 200 "
_RECEIVE = 1 << 18


class StreamError(Exception):
    """A stream that was not what it had to be: the number of events, or its end."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of streams: complete answers, seconds by the clock, and this process's own processor seconds."""

    answers: int
    wall: float
    cpu: float


def request(path: str, body: bytes) -> bytes:
    """A POST of JSON, as bytes on the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class _Stream:
    """One connection: asks, counts the answer's events to its end, and asks again."""

    def __init__(self, port: int, question: bytes, events: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._question = question
        self._events = events
        self._seen = 0
        self._tail = b""

    def ask(self) -> None:
        self._seen, self._tail = 0, b""
        self.socket.sendall(self._question)

    def take(self) -> bool:
        """Read what is there; whether the answer is complete."""
        piece = self.socket.recv(_RECEIVE)
        if not piece:
            raise StreamError(f"the answer broke off after {self._seen} events")
        data = self._tail + piece
        self._tail = data[-len(_END) :]
        # What was kept is shorter than two events, and is taken off again if it has a whole one.
        self._seen += data.count(_EVENT)
        if not data.endswith(_END):
            self._seen -= self._tail.count(_EVENT)
            return False
        if self._seen != self._events:
            raise StreamError(f"{self._seen} events came where {self._events} are right: {data[-300:]!r}")
        return True


def run_streams(port: int, question: bytes, events: int, streams: int, seconds: float) -> Ran:
    """Keep `streams` streams open for `seconds`, then let them end. Raises StreamError at an answer that is wrong."""
    wall, cpu, answers = time.perf_counter(), time.process_time(), 0
    poll = select.epoll()
    open_streams: dict[int, _Stream] = {}
    for _ in range(streams):
        stream = _Stream(port, question, events)
        open_streams[stream.socket.fileno()] = stream
        poll.register(stream.socket, select.EPOLLIN)
        stream.ask()
    deadline = wall + seconds
    while open_streams:
        for number, _ in poll.poll():
            stream = open_streams[number]
            if not stream.take():
                continue
            answers += 1
            if time.perf_counter() < deadline:
                stream.ask()
            else:
                poll.unregister(stream.socket)
                stream.socket.close()
                del open_streams[number]
    poll.close()
    return Ran(answers, time.perf_counter() - wall, time.process_time() - cpu)


def first_tokens(port: int, question: bytes, events: int, count: int) -> Sequence[float]:
    """Seconds to the first event of `count` answers, one after another on one connection."""
    stream = _Stream(port, question, events)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        stream.ask()
        select.select([stream.socket], [], [])
        while _EVENT not in (seen := stream.socket.recv(_RECEIVE, socket.MSG_PEEK)):
            if not seen.startswith(_STATUS):
                raise StreamError(f"no stream but {seen[:300]!r}")
            time.sleep(0)  # the head alone is there
        times.append(time.perf_counter() - begun)
        while not stream.take():
            pass
    stream.socket.close()
    return times
