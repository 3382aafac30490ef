"""The client against a server on a real socket. Time is the test's: it moves only when the server says so.

The server writes a piece, and goes on when the client has taken the time of it; so every measured time is exact.
benchmarks/client.py shows how near to that a real clock comes.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from packager.bench.client import Client, Target, run_load
from packager.bench.connection import Origin
from packager.bench.outcome import Outcome
from packager.bench.workload import Question

RECORDED = json.loads(Path(__file__).with_name("vllm.json").read_text())["answers"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
QUESTION = Question("what?", 5)
Pieces = Sequence[tuple[float, bytes]]
"""When each is sent, in seconds after the request came, and its bytes."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.taken = asyncio.Event()

    def __call__(self) -> float:
        self.taken.set()
        return self.now


@asynccontextmanager
async def listening(handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    """The address of a server with this handler; its connections end with it."""
    tasks: set[asyncio.Task] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield Origin.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, dict]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    return head, json.loads(await reader.readexactly(int(length.partition(b":")[2])))


LEAVE, RESET = b"", b"RST"
"""Instead of a piece: the server closes the connection, or ends it as a machine that has crashed does."""


class Server:
    """Answers each request with the pieces as they are; `requests` are what came."""

    def __init__(self, clock: Clock, pieces: Pieces) -> None:
        self.clock = clock
        self.pieces = pieces
        self.requests: list[tuple[bytes, dict]] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            self.requests.append(await read_request(reader))
            came = self.clock.now
            for after, data in self.pieces:
                self.clock.now = came + after
                self.clock.taken.clear()
                if data in (LEAVE, RESET):
                    if data == RESET:
                        linger = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    return
                writer.write(data)
                await self.clock.taken.wait()


@asynccontextmanager
async def serving(pieces: Pieces, api: str = "completions", **options: object):
    clock = Clock()
    server = Server(clock, pieces)
    async with listening(server) as origin:
        client = Client(Target(origin, api, None if api == "predict" else "m", **options), clock)
        try:
            yield client, server
        finally:
            client.close()


async def measured(pieces: Pieces, api: str = "completions", **options: object) -> Outcome:
    async with serving(pieces, api, **options) as (client, _):
        return await client.ask(0, QUESTION)


def chunk(*events: bytes) -> bytes:
    data = b"".join(events)
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def text(value: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"text": value, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
DONE = b"data: [DONE]\n\n"
END = chunk(text("", "stop"), USAGE, DONE) + b"0\r\n\r\n"


class TestTimes:
    async def test_first_token_gaps_and_total(self):
        found = await measured([(0.5, HEAD), (1.0, chunk(text("a"))), (1.25, chunk(text("b"))), (2.0, END)])
        assert found == Outcome(
            0, 100.0, 100.0, ttft=1.0, itl=(0.25, 0.75), latency=2.0,
            prompt_tokens=7, output_tokens=9, texts=2, text="ab",
        )  # fmt: skip

    async def test_events_that_come_together_have_no_gap(self):
        together = chunk(text("a"), text("b")) + chunk(text("c"))
        found = await measured([(0.5, HEAD), (1.0, together), (3.0, END)])
        assert (found.ttft, found.itl, found.text) == (1.0, (0.0, 0.0, 2.0), "abc")

    async def test_an_event_counts_when_its_last_byte_is_there(self):
        data = chunk(text("日"))
        cut = data.index("日".encode()) + 1  # in the middle of a character
        found = await measured([(0.5, HEAD), (1.0, data[:cut]), (4.0, data[cut:]), (5.0, END)])
        assert (found.ttft, found.itl, found.text) == (4.0, (1.0,), "日")

    async def test_what_ends_the_stream_is_no_part_of_its_latency(self):
        late = [(0.5, HEAD), (1.0, chunk(text("a", "stop"))), (7.0, chunk(USAGE)), (8.0, chunk(DONE) + b"0\r\n\r\n")]
        found = await measured(late)
        assert (found.latency, found.output_tokens, found.failure) == (1.0, 9, None)

    async def test_waiting_before_the_request_is_sent_is_its_own_time(self):
        async with serving([(1.0, HEAD + chunk(text("a", "stop"), DONE) + b"0\r\n\r\n")]) as (client, _):
            found = await client.ask(3, QUESTION, arrived=97.0)
        assert (found.number, found.arrived, found.started, found.ttft) == (3, 97.0, 100.0, 1.0)


def pieces_of(name: str) -> Pieces:
    whole = [chunk(bytes.fromhex(piece)) for piece in RECORDED[name]["pieces"]]
    return [(0.0, HEAD), *((float(at), piece) for at, piece in enumerate(whole)), (99.0, b"0\r\n\r\n")]


MISREAD = {"characters and events cut anywhere": ("naïve 日本", 2), "comments between": ("a", 1)}
"""vLLM 0.32 strips the blank line between two events when a read ends there: these streams fail in its client."""


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_streams_are_read_as_vllm_reads_them(name):
    theirs = RECORDED[name]["vllm"]
    found = await measured(pieces_of(name), RECORDED[name]["api"])
    assert found.failure is None
    if name in MISREAD:
        assert not theirs["success"]
        assert (found.text, len(found.itl)) == MISREAD[name]
        return
    assert theirs["success"]
    assert (found.text, len(found.itl)) == (theirs["generated_text"], theirs["gaps"])
    assert (found.output_tokens or 0) == theirs["output_tokens"]
    assert (found.prompt_tokens or 1) == theirs["prompt_len"]  # theirs starts as what was asked, which was 1


def status(line: bytes, body: bytes, more: bytes = b"") -> Pieces:
    return [(1.0, b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (line, len(body), more, body))]


async def test_lines_may_end_as_in_http():
    events = (text("a") + text("b", "stop") + DONE).replace(b"\n", b"\r\n")
    found = await measured([(0.5, HEAD), (1.0, chunk(events) + b"0\r\n\r\n")])
    assert (found.text, found.failure) == ("ab", None)


async def test_usage_may_come_with_every_event():
    told = event({"choices": [{"text": "a"}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    found = await measured([(0.5, HEAD), (1.0, chunk(told, text("", "stop"), DONE) + b"0\r\n\r\n")])
    assert (found.prompt_tokens, found.output_tokens, found.failure) == (7, 3, None)


class TestFailures:
    @pytest.mark.parametrize(
        ("pieces", "kind", "said"),
        [
            (status(b"429 Too Many Requests", b"busy", b"Retry-After: 3\r\n"), "overloaded", "429 (Retry-After: 3): busy"),
            (status(b"503 Service Unavailable", b"draining"), "status", "503: draining"),
            ([(1.0, LEAVE)], "connection", "the server closed the connection before"),
            ([(1.0, b"not HTTP\r\n\r\n")], "connection", "illegal status line"),
            ([(1.0, HEAD + chunk(text("a"))), (2.0, LEAVE)], "broken", "the server closed the connection before"),
            ([(1.0, HEAD + chunk(text("a"))), (2.0, RESET)], "broken", "the server closed the connection before"),
            ([(1.0, HEAD + chunk(text("a", "stop"), DONE)), (2.0, LEAVE)], "broken", "the server closed the connection before"),
            ([(1.0, HEAD + chunk(text("a", "stop")) + b"0\r\n\r\n")], "broken", "after 1 events without [DONE]"),
            ([(1.0, HEAD + chunk(text("a"), DONE) + b"0\r\n\r\n")], "broken", "without a finish reason"),
            ([(1.0, HEAD + b"0\r\n\r\n")], "broken", "after 0 events without a finish reason"),
            ([(1.0, HEAD + chunk(text("a", "abort"), DONE) + b"0\r\n\r\n")], "broken", "the finish reason 'abort'"),
            ([(1.0, HEAD + chunk(b"data: {oops\n\n") + END)], "broken", "an event of another form"),
            ([(1.0, HEAD + chunk(event([1])) + END)], "broken", "an event of another form"),
            ([(1.0, HEAD + chunk(event({"error": {"code": "engine"}}))), (2.0, LEAVE)], "broken", '{"code": "engine"}'),
        ],
    )  # fmt: skip
    async def test_each_has_its_kind_and_says_why(self, pieces, kind, said):
        found = await measured(pieces)
        assert found.failure is not None
        assert (found.failure.kind, said in found.failure.text) == (kind, True), found.failure

    async def test_nobody_listens(self):
        async with listening(read_request) as origin:
            pass
        found = await Client(Target(origin, "completions", "m")).ask(0, QUESTION)
        assert found.failure is not None
        assert found.failure.kind == "connection"

    async def test_an_answer_that_never_ends_is_ended(self):
        async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()
            await asyncio.Event().wait()

        async with listening(silent) as origin:
            found = await Client(Target(origin, "completions", "m", timeout=0.05)).ask(0, QUESTION)
        assert found.failure is not None
        assert (found.failure.kind, found.failure.text) == ("timeout", "no end after 0.05 s")


class TestRequests:
    @pytest.mark.parametrize(
        ("api", "path", "body"),
        [
            ("completions", b"/v1/completions", {"model": "m", "prompt": "what?", "max_tokens": 5}),
            (
                "chat",
                b"/v1/chat/completions",
                {"model": "m", "messages": [{"role": "user", "content": "what?"}], "max_completion_tokens": 5},
            ),
            ("predict", b"/predict", {"prompt": "what?", "max_tokens": 5}),
        ],
    )
    async def test_each_api_is_asked_its_own_way(self, api, path, body):
        async with serving([(0.0, HEAD + END)], api, extra={"ignore_eos": True}, api_key="k") as (client, server):
            await client.ask(0, QUESTION)
        head, asked = server.requests[0]
        usage = {} if api == "predict" else {"stream_options": {"include_usage": True}}
        assert asked == body | {"stream": True, "ignore_eos": True} | usage
        assert head.startswith(b"POST " + path + b" HTTP/1.1\r\n")
        assert b"authorization: bearer k\r\n" in head.lower()
        assert b"host: 127.0.0.1:" in head.lower()

    async def test_predict_streams_are_read_too(self):
        closing = event({"text": "", "finish_reason": "stop", "usage": {"prompt_tokens": 2, "completion_tokens": 4}})
        pieces = [(1.0, HEAD + chunk(event({"text": "a"}))), (3.0, chunk(closing, DONE) + b"0\r\n\r\n")]
        found = await measured(pieces, "predict")
        assert (found.ttft, found.itl, found.output_tokens, found.failure) == (1.0, (2.0,), 4, None)

    async def test_a_connection_is_used_again(self):
        async with serving([(0.0, HEAD + END)]) as (client, server):
            assert [(await client.ask(number, QUESTION)).failure for number in range(3)] == [None] * 3
            assert server.connections == 1

    async def test_a_connection_that_the_server_ends_is_not(self):
        closing = HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        async with serving([(0.0, closing + END)]) as (client, server):
            assert [(await client.ask(number, QUESTION)).failure for number in range(2)] == [None] * 2
            assert server.connections == 2

    async def test_nor_one_that_it_has_ended_since(self):
        leave, left = asyncio.Event(), asyncio.Event()

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(HEAD + END)
            await leave.wait()
            writer.write_eof()
            await reader.read()  # until the client has closed it too
            left.set()

        async with listening(once) as origin:
            client = Client(Target(origin, "completions", "m"))
            assert (await client.ask(0, QUESTION)).failure is None
            leave.set()
            await left.wait()
            assert (await client.ask(1, QUESTION)).failure is None
            client.close()

    @pytest.mark.parametrize(
        "url",
        ["127.0.0.1:80", "ftp://x", "http://", "http://a/?q", "http://u@a", "http://a:b", "http://a/b c", "http://a/é"],
    )
    def test_what_is_no_address_is_refused(self, url):
        with pytest.raises(ValueError, match=r"."):
            Origin.parse(url)

    def test_an_address_may_have_a_path_and_no_port(self):
        assert Origin.parse("https://a.example/team/") == Origin("a.example", 443, True, "/team")
        assert Origin.parse("https://a.example").authority == "a.example"
        assert Origin.parse("http://[::1]:81").authority == "[::1]:81"


class Gate:
    """A server that answers nobody while it is closed; `most` is how many it held at once, `full` that it holds `want`."""

    def __init__(self, want: int) -> None:
        self.held = 0
        self.most = 0
        self.want = want
        self.full = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            self.held += 1
            self.most = max(self.most, self.held)
            if self.held == self.want:
                self.full.set()
            await self.opened.wait()
            self.held -= 1
            writer.write(HEAD + END)


class TestLoad:
    async def test_no_more_than_concurrency_run_at_once_and_all_are_answered(self):
        gate, found = Gate(4), []
        async with listening(gate) as origin:
            client = Client(Target(origin, "completions", "m"))
            running = asyncio.create_task(run_load(client, [QUESTION] * 20, [0.0] * 20, 4, found.append))
            await gate.full.wait()
            gate.opened.set()
            await running
        assert gate.most == 4
        assert sorted(one.number for one in found) == list(range(20))
        assert {one.failure for one in found} == {None}
        assert all(one.started >= one.arrived for one in found)

    async def test_without_a_bound_all_that_are_due_run_and_none_before_it_is_due(self):
        gate, found = Gate(12), []
        async with listening(gate) as origin:
            client = Client(Target(origin, "completions", "m"))
            begun = client.clock()
            due = [number / 1000 for number in range(12)]
            running = asyncio.create_task(run_load(client, [QUESTION] * 12, due, None, found.append))
            await gate.full.wait()
            gate.opened.set()
            await running
        assert gate.most == 12
        assert all(one.arrived >= begun + due[one.number] for one in found)

    async def test_what_ended_before_a_cancel_is_kept(self):
        """Three are answered, the next two are held when the run is cancelled."""
        gate, found = Gate(2), []
        gate.opened.set()

        def on_outcome(outcome: Outcome) -> None:
            found.append(outcome)
            if len(found) == 3:
                gate.opened.clear()

        async with listening(gate) as origin:
            client = Client(Target(origin, "completions", "m"))
            running = asyncio.create_task(run_load(client, [QUESTION] * 9, [0.0] * 9, 2, on_outcome))
            await gate.full.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert [one.failure for one in found] == [None] * len(found)
        assert 3 <= len(found) < 9
