"""An inner ASGI app behind our admission: what passes through, what breaks off, who is told that a client left."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn

from packager.errors import EngineError, PackagerError, RequestError, UnavailableError
from packager.runtime.admission import Admission
from packager.runtime.engine import GenerationRequest
from packager.runtime.generation import Generation, Source
from packager.runtime.metrics import Metrics
from packager.runtime.serve import quiet_broken_streams
from packager.runtime.server.bounds import Bounds
from packager.runtime.server.http import ClientGoneError, Exchange
from packager.runtime.server.native import NativeCall, pass_on
from packager.runtime.turns import Turns

USAGE = b'{"usage": {"prompt_tokens": 3, "total_tokens": 10, "completion_tokens": 7}, "text": "\\"prompt_tokens\\": 9"}'


class Outer:
    """The wrapper as the app will use it, with its own slots, over an inner app that the test gives."""

    def __init__(self, inner: Callable[..., Awaitable[None]], slots: int = 4) -> None:
        self.inner = inner
        self.admission = Admission(slots, 10)
        self.metrics = Metrics()
        self.turns = Turns(16)
        self.generations: list[Generation] = []
        self.came = asyncio.Condition()

    async def __call__(self, scope, receive, send) -> None:
        exchange = Exchange(scope, receive, send, "r", Bounds())
        try:
            call = NativeCall(self.inner, scope, await exchange.body())
            source = Source(call, self.metrics, self.turns, lambda _: None)
            generation = Generation(GenerationRequest("r", prompt=""), self.admission.enter(), source)
            self.generations.append(generation)
            async with self.came:
                self.came.notify_all()
            await pass_on(exchange, generation, call)
        except ClientGoneError:
            await exchange.answer_nobody()
        except PackagerError as error:
            await exchange.answer_error(error)

    async def arrived(self, count: int) -> None:
        async with self.came:
            await self.came.wait_for(lambda: len(self.generations) >= count)


@asynccontextmanager
async def serving(outer: Outer) -> AsyncIterator[httpx.AsyncClient]:
    quiet_broken_streams()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(outer, lifespan="off", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=base, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        await task


async def start(send, status: int = 200, kind: bytes = b"text/event-stream") -> None:
    headers = [(b"content-type", kind), (b"x-theirs", b"1"), (b"x-request-id", b"theirs")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def piece(send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


def whole(status: int, data: bytes):
    async def inner(_scope, receive, send) -> None:
        message = await receive()
        assert (message["body"], message["more_body"]) == (b'{"a":1}', False)
        await start(send, status, b"application/json")
        await piece(send, data, more=False)

    return inner


class Held:
    """Sends an event at once, then waits for the test's word or its client's departure."""

    def __init__(self, *, heeds: bool = True) -> None:
        self.go = asyncio.Event()
        self.ended = asyncio.Event()
        self.how = ""
        self.runs = 0
        self._heeds = heeds

    async def __call__(self, _scope, receive, send) -> None:
        self.runs += 1
        await receive()
        await start(send)
        await piece(send, b'data: {"n": 1}\n\n')
        going = asyncio.create_task(self.go.wait())
        leaving = asyncio.create_task(receive() if self._heeds else asyncio.Event().wait())
        try:
            await asyncio.wait({going, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.how = "cancelled"
            raise
        else:
            self.how = "told" if leaving.done() else "went on"
            await piece(send, b'data: {"n": 2}\n\ndata: [DONE]\n\n')
            await piece(send, b"", more=False)
        finally:
            going.cancel()
            leaving.cancel()
            self.ended.set()


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/x", json={"a": 1})


async def broken(client: httpx.AsyncClient) -> str:
    """What came before the connection broke off, as it must."""
    text = ""
    try:
        async with client.stream("POST", "/v1/x", json={"a": 1}) as answer:
            async for chunk in answer.aiter_text():
                text += chunk
    except httpx.RemoteProtocolError:
        return text
    pytest.fail("the stream ended as if it were complete")


async def test_a_whole_answer_passes_as_it_is():
    outer = Outer(whole(200, USAGE))
    async with serving(outer) as client:
        answer = await ask(client)
    assert (answer.status_code, answer.content) == (200, USAGE)
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["x-theirs"], answer.headers["x-request-id"]) == ("1", "r")
    (generation,) = outer.generations
    assert generation.outcome == "stop"
    assert generation.usage == (3, 7)
    assert (outer.metrics.prompt_tokens, outer.metrics.generated_tokens) == (3, 7)
    assert outer.admission.running == 0


async def test_events_pass_as_they_come_and_are_counted():
    held = Held()
    outer = Outer(held)
    async with serving(outer) as client, client.stream("POST", "/v1/x", json={"a": 1}) as answer:
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b'data: {"n": 1}\n\n'
        assert outer.admission.running == 1
        held.go.set()
        assert b"".join([one async for one in pieces]) == b'data: {"n": 2}\n\ndata: [DONE]\n\n'
    assert outer.generations[0].outcome == "stop"
    assert outer.metrics.generated_tokens == 2
    assert outer.admission.running == 0


@pytest.mark.parametrize(("status", "kind"), [(400, RequestError), (404, RequestError), (503, EngineError)])
async def test_an_answer_that_refuses_passes_and_is_counted_as_what_it_is(status, kind):
    outer = Outer(whole(status, b'{"error": {"message": "no"}}'))
    async with serving(outer) as client:
        answer = await ask(client)
    assert (answer.status_code, answer.json()) == (status, {"error": {"message": "no"}})
    assert type(outer.generations[0].error) is kind


async def test_a_stream_that_tells_of_an_error_breaks_off():
    async def inner(_scope, _receive, send) -> None:
        await start(send)
        await piece(send, b'data: {"n": 1}\n\n')
        await piece(send, b'data: {"error": {"message": "the secret reason"}}\n\n')
        await piece(send, b"data: [DONE]\n\n", more=False)

    outer = Outer(inner)
    async with serving(outer) as client:
        events = (await broken(client)).split("\n\n")
    assert events[0] == 'data: {"n": 1}'
    assert json.loads(events[1].removeprefix("data: "))["error"]["type"] == "engine_error"
    assert events[2:] == [""]
    assert isinstance(outer.generations[0].error, EngineError)


async def test_an_error_before_anything_else_is_an_error_answer():
    async def inner(_scope, _receive, send) -> None:
        await start(send)
        await piece(send, b'data: {"error": {"message": "no"}}\n\n')
        await piece(send, b"data: [DONE]\n\n", more=False)

    async with serving(Outer(inner)) as client:
        answer = await ask(client)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "engine_error")


@pytest.mark.parametrize("raises", [True, False], ids=["raises", "returns"])
async def test_an_app_that_stops_in_the_middle_breaks_the_stream(raises):
    async def inner(_scope, _receive, send) -> None:
        await start(send)
        await piece(send, b'data: {"n": 1}\n\n')
        if raises:
            raise ValueError("unforeseen")

    async with serving(Outer(inner)) as client:
        assert '"type":"engine_error"' in await broken(client)


async def test_the_app_is_told_that_its_client_left():
    held = Held()
    outer = Outer(held)
    async with serving(outer) as client:
        async with client.stream("POST", "/v1/x", json={"a": 1}) as answer:
            await anext(answer.aiter_bytes())
        await held.ended.wait()
        await outer.generations[0].closed()
    assert held.how == "told"
    assert outer.generations[0].outcome == "abort"
    assert outer.admission.running == 0


async def test_an_app_that_does_not_heed_it_is_cancelled():
    held = Held(heeds=False)
    outer = Outer(held)
    async with serving(outer) as client:
        async with client.stream("POST", "/v1/x", json={"a": 1}) as answer:
            await anext(answer.aiter_bytes())
        await held.ended.wait()
        await outer.generations[0].closed()
    assert held.how == "cancelled"
    assert outer.admission.running == 0


async def test_what_fails_a_generation_breaks_its_stream():
    """As a drain does it, and an engine that died."""
    held = Held()
    outer = Outer(held)
    async with serving(outer) as client, client.stream("POST", "/v1/x", json={"a": 1}) as answer:
        pieces = answer.aiter_text()
        await anext(pieces)
        outer.generations[0].fail(UnavailableError("the server is stopping"))
        assert '"type":"unavailable_error"' in await anext(pieces)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
        await held.ended.wait()
    assert held.how == "told"


async def test_a_request_without_a_slot_waits_outside():
    held = Held()
    outer = Outer(held, slots=1)
    async with serving(outer) as client:
        both = [asyncio.create_task(ask(client)) for _ in range(2)]
        await outer.arrived(2)
        assert (outer.admission.running, outer.admission.waiting) == (1, 1)
        assert held.runs <= 1
        held.go.set()
        answers = await asyncio.gather(*both)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert held.runs == 2


async def test_a_slow_reader_holds_the_app_back():
    sent, done = 0, asyncio.Event()
    data, count = b"x" * 65536, 20_000

    async def inner(_scope, _receive, send) -> None:
        nonlocal sent
        await start(send)
        try:
            for _ in range(count):
                await piece(send, data)
                sent += 1
        finally:
            done.set()

    outer = Outer(inner)
    async with serving(outer) as client:
        async with client.stream("POST", "/v1/x", json={"a": 1}) as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            before = -1
            while sent > before:  # until it stands still for a while
                before = sent
                await asyncio.sleep(0.2)
        await done.wait()
    assert 0 < before < 1000
