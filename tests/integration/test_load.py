"""Many clients at once, under both hosts: none fails, none leaks, and a stop loses nothing in silence."""

import asyncio
import json
import random
import resource
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
import uvloop
from fakes.packages import make_package
from fakes.serving import PATIENCE, ProcessServer, thread_server, wait_until

pytestmark = pytest.mark.slow
DONE, LAST = b"data: [DONE]\n\n", b"0\r\n\r\n"


@pytest.fixture(params=["packager", "bentoml"])
def host(request) -> str:
    return request.param


def request(body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


async def ask(port: int, body: object, begun: Callable[[], None] = lambda: None) -> bytes:
    """All that the server answers; `begun` is called at its first byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(body))
        received = await reader.read(65536)
        begun()
        while not received.endswith(LAST) and (piece := await reader.read(65536)):
            received += piece
        return received
    finally:
        writer.close()


def together(work: Coroutine[object, object, list]) -> list:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def files(count: int) -> Iterator[None]:
    """This process, and what it starts, has so many file descriptors, and may take more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HELD = """

from pathlib import Path

_GO = Path(__file__).with_name("go")


class EchoEngine(EchoEngine):
    # After the first word of a stream the others come when the test has made the file.
    async def stream(self, request):
        held = True
        async for delta in super().stream(request):
            yield delta
            while held := held and not _GO.exists():
                await asyncio.sleep(0.2)
"""


def test_1000_streams_at_once(host, tmp_path):
    """All are open before one may end: the engine goes on when each of them has its first token."""
    package = make_package(tmp_path / "package", max_concurrency=1000, token_gap_seconds=600)
    module = package / "packages/packager_runtime/runtime/engines/echo.py"
    with module.open("a") as file:
        file.write(HELD)
    words = " ".join(f"w{number}" for number in range(60))
    with files(512):  # as in many containers
        server = ProcessServer(package, host)
    with server, files(4096):
        server.wait_ready()
        began = 0

        def begin() -> None:
            nonlocal began
            began += 1
            if began == 1000:
                module.with_name("go").touch()

        async def all_of_them() -> list[bytes]:
            async with asyncio.timeout(300):  # were one refused, the others would be held for ever
                asked = (ask(server.port, {"prompt": words, "stream": True}, begin) for _ in range(1000))
                return await asyncio.gather(*asked)

        for received in together(all_of_them()):
            assert received.startswith(b"HTTP/1.1 200 ")
            assert received.endswith(DONE + b"\r\n" + LAST)
            assert "".join(texts(received)) == words
        assert server.metric('packager_requests_total{outcome="stop"}') == 1000
        assert server.metric("packager_requests_running ") == 0


def texts(received: bytes) -> Iterator[str]:
    for line in received.splitlines():
        if line.startswith(b'data: {"text"'):
            yield json.loads(line[6:])["text"]


async def leave(port: int, chance: random.Random) -> bool:
    """One client that leaves at some moment, in some way. Whether it left a stream that had begun to come."""
    stream, whole, begun = chance.random() < 0.7, chance.random() < 0.9, False
    sent = request({"prompt": "w " * 3000, "stream": stream})
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if chance.random() < 0.5:  # a reset instead of a goodbye
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.write(sent if whole else sent[: chance.randrange(1, len(sent))])
        moment = chance.random()
        if moment < 0.3:  # before the first byte
            await asyncio.sleep(chance.random() / 100)
        elif stream:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE if whole else 1):
                    for _ in range(chance.randrange(1, 10)):
                        begun = bool(await reader.read(chance.randrange(1, 2000))) and whole
        else:
            await asyncio.sleep(chance.random() / 10)
        writer.transport.abort() if chance.random() < 0.5 else writer.close()
    return begun


async def leave_all(port: int, count: int) -> list[bool]:
    turn = asyncio.Semaphore(50)

    async def one(number: int) -> bool:
        async with turn:
            return await leave(port, random.Random(number))

    return await asyncio.gather(*(one(number) for number in range(count)))


def test_1000_disconnects_leak_nothing(host, tmp_path):
    package = make_package(tmp_path / "package", options={"delay_ms": 5}, max_concurrency=32, max_queue=128)
    with ProcessServer(package, host) as server:
        server.wait_ready()
        together(leave_all(server.port, 50))  # what is made once is made
        settle(lambda: server.metric("packager_requests_running "))
        wait_until(lambda: no_more(server), "connections are closed")
        before = server.files()
        left = sum(together(leave_all(server.port, 1000)))
        wait_until(lambda: server.metric('packager_requests_total{outcome="abort"}') >= left, "all are seen to leave")
        settle(lambda: server.metric("packager_requests_running "))
        settle(lambda: server.metric("packager_requests_waiting "))
        wait_until(lambda: server.files() <= before, "no file descriptor is left")
        assert left > 300
        assert server.metric('packager_requests_total{outcome="error"}') == 0
        assert httpx.post(server.url + "/predict", json={"prompt": "still here"}, timeout=60).status_code == 200


def settle(value: Callable[[], float]) -> None:
    wait_until(lambda: value() == 0, "all slots are free")


def no_more(server: ProcessServer) -> bool:
    """Whether the number of open files has come to rest."""
    before = server.files()
    return all(server.files() == before for _ in range(20))


def test_1000_disconnects_leave_no_task(tmp_path):
    with thread_server(tmp_path, delay_ms=5, max_concurrency=32, max_queue=128) as server:
        metrics = server.wait_ready().supervisor.metrics
        before = server.tasks()
        left = sum(together(leave_all(server.port, 1000)))
        wait_until(lambda: metrics.outcomes["abort"] >= left > 300, "all are seen to leave")
        settle(lambda: metrics.running + metrics.waiting)
        wait_until(lambda: server.tasks() <= before, "no task is left")
        assert metrics.outcomes["error"] == 0


def test_sigterm_under_load(host, tmp_path):
    """Of the streams half end within the drain, half cannot: each is complete, or told and broken off. New ones: 503."""
    package = make_package(tmp_path / "package", options={"delay_ms": 20}, max_concurrency=200, drain_seconds=15)
    with ProcessServer(package, host) as server:
        server.wait_ready()
        began = asyncio.Event()
        count = 0

        async def all_of_them() -> list[bytes]:
            def begin() -> None:
                nonlocal count
                count += 1
                if count == 200:
                    began.set()

            async def stop() -> bytes:
                await began.wait()
                server.terminate()
                await asyncio.to_thread(wait_until, lambda: bool(server.events("draining")), "it drains")
                return await ask(server.port, {"prompt": "late"})

            asked = [{"prompt": "w " * words, "stream": True} for words in (50, 3000) for _ in range(100)]
            return await asyncio.gather(*(ask(server.port, body, begin) for body in asked), stop())

        *results, late = together(all_of_them())
        assert late.startswith(b"HTTP/1.1 503 ")
        assert server.wait_exit() == 0
        complete = [one for one in results if one.endswith(DONE + b"\r\n" + LAST)]
        told = [one for one in results if b"the server is stopping; the answer is not complete" in one]
        assert (len(complete), len(told)) == (100, 100)
        assert not [one for one in told if one.endswith(LAST)]
