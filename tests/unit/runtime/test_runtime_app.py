"""The ASGI app over real sockets, on the echo engine."""

import asyncio
import json
import socket
from contextlib import contextmanager

import httpx
import openai
import pytest
from fakes.engines import HeldEngine
from fakes.serving import ThreadServer, make_manifest, thread_server, wait_until

from packager.runtime.engine import EngineHealth
from packager.runtime.metrics import Metrics
from packager.runtime.server.app import create_app
from packager.runtime.server.bounds import Bounds
from packager.runtime.supervise import Supervisor

WORDS = "one two three four five"
CHAT = {"model": "hello", "messages": [{"role": "user", "content": WORDS}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with thread_server(tmp_path_factory.mktemp("server")) as server:
        yield server.wait_ready()


@pytest.fixture
def slow(tmp_path):
    """One slot, no queue, a token each 20 ms."""
    with thread_server(tmp_path, delay_ms=20, max_concurrency=1, max_queue=0) as server:
        yield server.wait_ready()


@pytest.fixture
def failing(tmp_path):
    with thread_server(tmp_path, fail_after=2) as server:
        yield server.wait_ready()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def running(server):
    return server.supervisor.metrics.running


def read_events(text):
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line]


@contextmanager
def long_stream(server):
    """An open stream whose first token has come; leaving the block leaves the stream."""
    body = {"prompt": "w " * 2000, "stream": True}
    with httpx.stream("POST", server.url + "/predict", json=body, timeout=30) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()  # held: httpx closes the answer with the iterator
        next(pieces)
        yield pieces


def test_openai_chat(client):
    answer = client.chat.completions.create(**CHAT, max_tokens=3)
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)


def test_openai_chat_stream(client):
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == WORDS
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1


def test_openai_completions(client):
    whole = client.completions.create(model="hello", prompt=WORDS)
    assert whole.choices[0].text == WORDS
    chunks = list(client.completions.create(model="hello", prompt=WORDS, stream=True, stop=[" four"]))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_openai_async(server):
    async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        whole, stream = await asyncio.gather(
            client.chat.completions.create(**CHAT), client.chat.completions.create(**CHAT, stream=True)
        )
        assert whole.choices[0].message.content == WORDS
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == WORDS


def test_openai_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == ("hello", 4096)
    assert client.models.retrieve("hello").id == "hello"


def test_openai_errors(client):
    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist here"):
        client.chat.completions.create(**CHAT | {"model": "gpt-9"})
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**CHAT, logit_bias={"5": 1})
    assert caught.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="hello", prompt="w " * 5000, stream=True)
    assert caught.value.code == "context_length_exceeded"


def test_predict(server):
    whole = httpx.post(server.url + "/predict", json={"prompt": WORDS, "max_tokens": 2}, timeout=60).json()
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert whole == {"text": "one two", "finish_reason": "length", "usage": usage}
    streamed = httpx.post(server.url + "/predict", json={"prompt": WORDS, "max_tokens": 2, "stream": True}, timeout=60)
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    *texts, last, done = read_events(streamed.text)
    assert [json.loads(text) for text in texts] == [{"text": "one"}, {"text": " two"}]
    assert json.loads(last) == {"text": "", "finish_reason": "length", "usage": usage}
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/predict", b"{", 400, "the body is not JSON"),
        ("POST", "/v1/completions", b"\xff\xfe", 400, "the body is not UTF-8"),
        ("POST", "/v1/chat/completions", b'{"model": "hello", "model": "x"}', 400, "'model' stands twice"),
        ("POST", "/predict", b'{"prompt": "a", "temperature": NaN}', 400, "NaN is not JSON"),
        ("POST", "/predict", b'{"prompt": "a", "n": 16384}', 400, "n is not supported"),
        ("POST", "/predict", b"[]", 400, "must be a JSON object"),
        ("POST", "/predict", b"[" * 100_000, 400, "nested deeper than 64"),
        ("GET", "/predict", b"", 405, "/predict takes POST, OPTIONS only"),
        ("POST", "/nothing", b"", 404, "there is no /nothing here"),
    ],
)
def test_bad_requests(server, method, path, body, status, message):
    answer = httpx.request(method, server.url + path, content=body, timeout=60)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_declared_body_that_is_too_large_is_refused_unread(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 300000000\r\n\r\n")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 413 ")  # Python 3.13 has other words for it


def test_a_chunked_body_that_is_too_large_is_cut_off(server):
    def endless():
        for _ in range(Bounds().body // 65536 + 2):
            yield b" " * 65536

    assert httpx.post(server.url + "/predict", content=endless(), timeout=60).status_code == 413


def test_the_largest_body_is_read(server):
    body = json.dumps({"prompt": "x", "max_tokens": 1}).encode()
    assert httpx.post(server.url + "/predict", content=body.ljust(Bounds().body), timeout=60).status_code == 200


def test_probes_and_description(server):
    assert httpx.get(server.url + "/livez", timeout=60).json() == {"status": "ready"}
    assert httpx.get(server.url + "/readyz", timeout=60).status_code == 200
    described = httpx.get(server.url + "/openapi.json", timeout=60).json()["paths"]
    assert "get" in described.pop("/v1/models/{model}")
    routes = create_app(server.supervisor, server.supervisor.manifest)._routes
    assert {path: {method.upper() for method in one} for path, one in described.items()} == {
        path: set(one) for path, one in routes.items()
    }


def test_metrics_are_served(tmp_path):
    with thread_server(tmp_path) as server:
        httpx.post(server.wait_ready().url + "/predict", json={"prompt": WORDS}, timeout=60)
        text = httpx.get(server.url + "/metrics", timeout=60).text
    assert 'packager_requests_total{outcome="stop"} 1.0' in text
    assert "packager_generated_tokens_total 5.0" in text


def test_a_stream_that_failed_is_no_clean_end(failing):
    """The bytes on the wire: tokens, a typed error, and then no last chunk."""
    body = json.dumps({"prompt": WORDS, "stream": True}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", failing.port)) as connection:
        connection.sendall(head.encode() + body)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'data: {"text":" two"}\n\n' in received
    assert b'data: {"error":{"message":"the engine failed; the answer is not complete"' in received
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")


def test_clients_see_that_a_stream_failed(failing):
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(failing.url + "/predict", json={"prompt": WORDS, "stream": True}, timeout=60)
    with (
        openai.OpenAI(base_url=failing.url + "/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIError, match="the engine failed"),
    ):
        list(client.chat.completions.create(**CHAT, stream=True))


def test_a_whole_answer_that_failed_is_500(failing):
    answer = httpx.post(failing.url + "/predict", json={"prompt": WORDS}, timeout=60)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "engine_error"


def test_a_failure_before_the_first_token_is_an_ordinary_error(tmp_path):
    with thread_server(tmp_path, fail_after=0) as server:
        server.wait_ready()
        answer = httpx.post(server.url + "/predict", json={"prompt": WORDS, "stream": True}, timeout=60)
        assert answer.status_code == 500


def test_a_request_that_takes_too_long(tmp_path):
    with thread_server(tmp_path, delay_ms=60_000, first_token_seconds=1) as server:
        answer = httpx.post(server.wait_ready().url + "/predict", json={"prompt": WORDS}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    assert answer.json()["error"]["message"] == "the engine gave no token for 1 s"


def test_leaving_mid_stream_frees_the_slot(slow):
    with long_stream(slow):
        assert running(slow) == 1
    wait_until(lambda: running(slow) == 0, "the slot is free")
    wait_until(lambda: slow.supervisor.metrics.outcomes["abort"] == 1, "it is counted")


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_byte_frees_the_slot(tmp_path, stream):
    with thread_server(tmp_path, delay_ms=60_000) as server:
        server.wait_ready()
        body = json.dumps({"prompt": "a", "stream": stream}).encode()
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: running(server) == 1, "it runs")
        wait_until(lambda: running(server) == 0, "the slot is free")
        wait_until(lambda: server.supervisor.metrics.outcomes["abort"] == 1, "it is counted")


def test_leaving_the_queue_frees_the_place(tmp_path):
    with thread_server(tmp_path, delay_ms=20, max_concurrency=1, max_queue=1) as server:
        metrics = server.wait_ready().supervisor.metrics
        with long_stream(server):
            body = b'{"prompt": "a"}'
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n" + body)
                wait_until(lambda: metrics.waiting == 1, "it waits")
            wait_until(lambda: metrics.waiting == 0, "the place is free")
            assert metrics.running == 1


def test_no_slot_leaks(slow):
    for _ in range(30):
        with long_stream(slow):
            pass
        wait_until(lambda: running(slow) == 0, "the slot is free")


def test_more_than_may_run_and_wait_are_refused(slow):
    with long_stream(slow):
        refused = httpx.post(slow.url + "/v1/chat/completions", json=CHAT, timeout=60)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "overloaded"


def test_a_slow_reader_does_not_fill_the_memory(tmp_path):
    """The client reads nothing: the engine is held back after what the sockets and the buffers take."""
    with thread_server(tmp_path, context_length=1_000_000) as server:
        metrics = server.wait_ready().supervisor.metrics
        body = json.dumps({"model": "hello", "prompt": "w " * 100_000, "stream": True}).encode()  # 20 MB of events
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: metrics.generated_tokens > 0, "it streams")
            seen = -1

            def stands_still():
                nonlocal seen
                before, seen = seen, metrics.generated_tokens
                httpx.get(server.url + "/livez", timeout=60)  # others are served meanwhile
                return before == seen

            wait_until(stands_still, "the engine is held back")
            assert metrics.generated_tokens < 100_000
        wait_until(lambda: metrics.running == 0, "the slot is free")


class Gate:
    """Loads when it is told to."""

    def __init__(self):
        self.engine = HeldEngine()
        self.open = asyncio.Event()

    async def __call__(self):
        await self.open.wait()
        return self.engine, await self.engine.start()


def test_probes_while_loading_and_when_dead():
    gate = Gate()
    with ThreadServer(Supervisor(make_manifest(), gate, Metrics())) as server:
        assert httpx.get(server.url + "/livez", timeout=60).status_code == 200
        loading = httpx.get(server.url + "/readyz", timeout=60)
        assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
        refused = httpx.post(server.url + "/predict", json={"prompt": "a"}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert httpx.get(server.url + "/metrics", timeout=60).status_code == 200
        server.call_soon(gate.open.set)
        server.wait_ready()
        assert httpx.get(server.url + "/readyz", timeout=60).status_code == 200
        gate.engine.health = lambda: EngineHealth(alive=False, reason="out of memory")
        wait_until(lambda: not server.supervisor.ready, "the death is seen")
        dead = httpx.get(server.url + "/livez", timeout=60)
        assert (dead.status_code, dead.json()) == (503, {"status": "dead"})
        assert httpx.get(server.url + "/readyz", timeout=60).status_code == 503


def test_stopping_the_host_fails_what_is_open(tmp_path):
    """A host that only knows the lifespan: the stream ends with an error and not in silence."""
    with thread_server(tmp_path, delay_ms=20) as server, long_stream(server.wait_ready()) as pieces:
        server.stop_supervisor()
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
