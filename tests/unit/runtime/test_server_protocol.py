"""Clients that are slow, endless or hostile, byte by byte on a real socket."""

import json
import socket
import time
from contextlib import contextmanager

import httpx
import pytest
from fakes.engines import HeldEngine
from fakes.serving import ThreadServer, make_manifest, thread_server, wait_until

from packager.runtime.engine import Delta, Usage
from packager.runtime.metrics import Metrics
from packager.runtime.server.bounds import Bounds
from packager.runtime.supervise import Supervisor

GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
LONG = json.dumps({"prompt": "w " * 3000, "stream": True}).encode()
STREAM = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(LONG), LONG)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Patient: what ends here was ended by its size."""
    bounds = Bounds(head_seconds=600, body_seconds=600, idle_seconds=600)
    with thread_server(tmp_path_factory.mktemp("server"), bounds=bounds, delay_ms=5) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    bounds = Bounds(head_seconds=1, body_seconds=1, idle_seconds=1)
    with thread_server(tmp_path_factory.mktemp("hasty"), bounds=bounds, delay_ms=5) as server:
        yield server.wait_ready()


@contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        yield connection


def rest(connection) -> bytes:
    """All that comes until the server closes."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:  # it closed on bytes that it had not read
        pass
    return received


def send_endlessly(connection, piece: bytes) -> int:
    """Send until the server closes; how many bytes it let through."""
    sent = 0
    try:
        while sent < 200_000_000:
            connection.sendall(piece)
            sent += len(piece)
    except (ConnectionResetError, BrokenPipeError):
        return sent
    raise AssertionError("it took 200 MB")


def body_of(received: bytes):
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\nx-request-id: " in head
    return json.loads(body)


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"GET /", b"a" * 4096),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 700),
        (b"GET / HTTP/1.1\r\na: ", b"b" * 4096),
        (b"GET / HTTP/1.1\r\n", b"a" * 4096),
        (b"", b"\r\n" * 2048),
    ],
)
def test_a_head_without_an_end(server, begun, piece):
    """Sockets hold some megabytes; the server itself takes 32 KiB."""
    with connected(server) as connection:
        connection.sendall(begun)
        assert send_endlessly(connection, piece) < 20_000_000
    with connected(server) as connection:
        connection.sendall(begun + piece * 9)
        received = rest(connection)
        assert received.startswith(b"HTTP/1.1 431 ")
        assert body_of(received)["error"]["message"] == "the request's head is too large"


@pytest.mark.parametrize(
    "begun",
    [
        CHUNKED + b"1;",
        CHUNKED + b"0\r\na: ",
        CHUNKED + b"0\r\n",
    ],
)
def test_chunk_extensions_and_trailers_without_an_end(server, begun):
    piece = b"a: b\r\n" * 700 if begun.endswith(b"\r\n") else b"a" * 4096
    with connected(server) as connection:
        connection.sendall(begun)
        assert send_endlessly(connection, piece) < 20_000_000


def test_trailers_are_not_headers(server):
    body = b'{"prompt": "a"}'
    with connected(server) as connection:
        connection.sendall(CHUNKED + b"%x\r\n%b\r\n0\r\nx-request-id: of-a-trailer\r\n\r\n" % (len(body), body))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"of-a-trailer" not in answer


def test_a_body_in_chunks_of_one_byte(server):
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode().ljust(50_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with connected(server) as connection:
        connection.sendall(CHUNKED + chunks + b"0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("size", "first"), [(40, b"HTTP/1.1 100 "), (300_000_000, b"HTTP/1.1 413 ")])
def test_a_client_that_asks_whether_to_send_its_body(server, size, first):
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % size
    with connected(server) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(first)
        if size == 40:
            connection.sendall(b'{"prompt": "a"}'.ljust(40))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_would_rather_speak_http_2(server):
    """As Java's HttpClient and `curl --http2` do; it is answered in HTTP/1.1."""
    body = json.dumps({"prompt": "a"}).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: %d\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(head % len(body) + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"GET /livez HTTP/1.1\r\nhost", b"GE", b"GET /livez HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_come(hasty, sent):
    with connected(hasty) as connection:
        connection.sendall(sent)
        received = rest(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert body_of(received)["error"]["message"] == "the request's head did not come in time"


def test_the_head_of_a_second_request_that_does_not_come(hasty):
    with connected(hasty) as connection:
        connection.sendall(GET)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(GET[:-2])
        assert rest(connection).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_drips(hasty):
    """Each byte comes in time, the head does not."""
    with connected(hasty) as connection:
        connection.settimeout(0.05)
        received = b""
        for byte in b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 1000:
            try:
                connection.sendall(bytes([byte]))
                received += connection.recv(65536)
                break
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", GET])
def test_a_connection_without_a_request_is_closed(hasty, sent):
    with connected(hasty) as connection:
        connection.sendall(sent)
        received = rest(connection)
    assert received.count(b"HTTP/1.1") == received.count(b"HTTP/1.1 200") == bool(sent)


def test_a_stream_outlives_the_times_of_a_head(hasty):
    """500 tokens at 5 ms: none of the timers is the answer's."""
    answer = httpx.post(hasty.url + "/predict", json={"prompt": "w " * 500, "stream": True}, timeout=60)
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\na: b\x00c\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{",
        b"POST /predict HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        CHUNKED + b"xyz\r\n",
        CHUNKED + b"ffffffffffffffffff\r\n",
    ],
)
def test_what_is_no_http(server, sent):
    """Also what two servers could read differently."""
    with connected(server) as connection:
        connection.sendall(sent)
        received = rest(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert body_of(received)["error"]["type"] == "invalid_request_error"
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_second_request_before_the_first_answer_is_not_heard(server):
    with connected(server) as connection:
        connection.sendall(GET * 3)
        received = rest(connection)
    assert received.count(b"HTTP/1.1 200 ") == 1
    assert b"connection: close" in received


@pytest.mark.parametrize("junk", [GET, b"\x00garbage", b"a" * 100_000, b"POST /predict HTTP/1.1\r\nhost"])
def test_what_comes_during_a_stream_does_not_harm_it(junk):
    engine = HeldEngine()

    async def loader():
        return engine, await engine.start()

    supervisor = Supervisor(make_manifest(), loader, Metrics())
    with (
        ThreadServer(supervisor, bounds=Bounds(head_seconds=0.5)) as server,
        connected(server.wait_ready()) as connection,
    ):
        connection.sendall(STREAM)
        wait_until(lambda: len(engine.tokens) == 1, "it runs")
        server.call_soon(lambda: engine.give(*engine.tokens, Delta("one")))
        first = connection.recv(65536)
        connection.sendall(junk)
        time.sleep(0.6)  # what a head may take has passed
        server.call_soon(lambda: engine.give(*engine.tokens, Delta("", 0, "stop", Usage(1, 1)), None))
        received = first + rest(connection)
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") == 1


def test_who_sends_ahead_is_still_seen_to_leave(server):
    """Uvicorn itself stops reading then, and does not notice."""
    metrics = server.supervisor.metrics
    whole = json.dumps({"prompt": "w " * 3000}).encode()
    with connected(server) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(whole), whole))
        wait_until(lambda: metrics.running == 1, "it runs")
        connection.sendall(GET)
    wait_until(lambda: metrics.running == 0, "the slot is free")


def test_a_reader_that_stalls_is_left(tmp_path):
    """Its answer does not fit in the sockets' buffers."""
    body = json.dumps({"model": "hello", "prompt": "w " * 100_000, "stream": True}).encode()
    with thread_server(tmp_path, bounds=Bounds(stall_seconds=0.2), context_length=1_000_000) as server:
        metrics = server.wait_ready().supervisor.metrics
        with connected(server) as connection:
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
            wait_until(lambda: metrics.outcomes["abort"] == 1, "it is left")
            assert metrics.running == 0
            assert not rest(connection).endswith(b"0\r\n\r\n")
