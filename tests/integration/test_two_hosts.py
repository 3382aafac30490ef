"""The promises of docs/explanation/serving.md: each row of its table is a test here, run under both hosts.

Real packages, real processes, real sockets. Where a promise holds under one host alone, the test says what the
other one does instead.
"""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from fakes.packages import make_package, slow_load
from fakes.serving import ProcessServer, wait_until

KEY = "a-key-of-decent-length"
LOCKED = {"Authorization": f"Bearer {KEY}"}
OURS, BENTO = "packager", "bentoml"
CHAT = {"model": "hello", "messages": [{"role": "user", "content": "one two three"}]}
LONG = {"prompt": "w " * 3000, "stream": True}
PROBES = ["/livez", "/readyz", "/metrics"]
ROUTES = ["/predict", "/v1/chat/completions", "/v1/completions", "/v1/models", "/openapi.json", "/chat", "/v2"]
ROUTES += ["/v2/models/hello/generate", "/v2/models/hello/generate_stream", "/v2/models/hello/infer"]


@pytest.fixture(params=[OURS, BENTO], scope="module")
def host(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(host, tmp_path_factory) -> Iterator[ProcessServer]:
    """With a key; one slot, no queue, no time to drain, a token each 10 ms."""
    origins = ("https://app.example.com",)
    serving = {"max_concurrency": 1, "max_queue": 0, "drain_seconds": 0, "cors_origins": origins}
    package = make_package(tmp_path_factory.mktemp("slow") / "package", options={"delay_ms": 10}, **serving)
    with serving_package(package, host, PACKAGER_API_KEYS=KEY) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def fast(host, tmp_path_factory) -> Iterator[ProcessServer]:
    """Without a key; as fast as it can. For what is measured in bytes."""
    options = {"context_length": 10_000_000}
    package = make_package(tmp_path_factory.mktemp("fast") / "package", options=options, drain_seconds=120)
    with serving_package(package, host) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def failing(host, tmp_path_factory) -> Iterator[ProcessServer]:
    """A stream fails at its 200th token."""
    package = make_package(tmp_path_factory.mktemp("failing") / "package", options={"fail_after": 200})
    with serving_package(package, host) as server:
        yield server.wait_ready()


LEFT_OPEN = {OURS: {"an idle connection"}, BENTO: {"silence", "half a head"}}
"""Which clients that let the server wait still have their connection after twelve seconds."""


@pytest.fixture(scope="module")
def waiting(fast, host) -> Iterator[dict[str, Future[bytes | None]]]:
    """Clients that let the server wait, for as long as its defaults are: they begin early and are looked at late.

    The result is what each had received when its connection ended, None when that was open for longer than it is
    waited for: twelve seconds for those that stay, a minute for those that end.
    """
    whole = request("/predict", b'{"prompt": "a"}')
    cases = {"silence": b"", "half a head": whole[:40], "half a body": whole[:-5], "an idle connection": whole}
    with ThreadPoolExecutor(len(cases)) as pool:
        yield {
            name: pool.submit(_wait, fast, sent, 12 if name in LEFT_OPEN[host] else 60) for name, sent in cases.items()
        }


def _wait(server: ProcessServer, sent: bytes, seconds: float) -> bytes | None:
    received = b""
    with connected(server) as connection:
        connection.sendall(sent)
        connection.settimeout(seconds)
        try:
            while piece := connection.recv(65536):
                received += piece
        except TimeoutError:
            return None
    return received


def serving_package(package: Path, host: str, **environ: str) -> ProcessServer:
    if host == BENTO:
        (package / "bentofile.yaml").write_text('service: "service:Service"\n')
    return ProcessServer(package, host, **environ)


def post(server: ProcessServer, path: str, **options: object) -> httpx.Response:
    return httpx.post(server.url + path, **{"headers": LOCKED, "timeout": 60} | options)


@contextmanager
def open_stream(server: ProcessServer, body=LONG) -> Iterator[Iterator[bytes]]:
    """A stream whose first token has come; leaving the block leaves it."""
    with httpx.stream("POST", server.url + "/predict", json=body, headers=LOCKED, timeout=60) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()
        next(pieces)
        yield pieces


@contextmanager
def connected(server: ProcessServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as connection:
        yield connection


def request(path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", *headers]
    if not any(line.startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def running(server: ProcessServer) -> float:
    return server.metric("packager_requests_running ")


def wait_free(server: ProcessServer) -> None:
    wait_until(lambda: running(server) == 0, "the slot is free")


def growth(server: ProcessServer, before: int) -> float:
    """Megabytes that the processes hold more than before."""
    return (server.memory() - before) / 1e6


# What it speaks


def test_openai_client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0) as client:
        assert client.chat.completions.create(**CHAT).choices[0].message.content == "one two three"
        chunks = list(client.chat.completions.create(**CHAT, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
        assert client.models.list().data[0].id == "hello"


def test_triton_client(server):
    text = triton.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"one two"], dtype=object))
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("hello", headers=LOCKED)
        result = client.infer("hello", [text], headers=dict(LOCKED))  # the client adds to it
    assert result.as_numpy("text_output")[0] == b"one twoone two"
    streamed = post(server, "/v2/models/hello/generate_stream", json={"text_input": "one two"})
    events = [json.loads(event[6:]) for event in streamed.text.split("\n\n") if event]
    assert [event["text_output"] for event in events] == ["one", " two"]


def test_chat_page(server):
    page = httpx.get(server.url + "/chat", timeout=60)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<html" in page.text


# Streams and slots


def test_leaving_mid_stream_frees_the_slot(server):
    aborted = server.metric('packager_requests_total{outcome="abort"}')
    with open_stream(server):
        assert running(server) == 1
    wait_free(server)
    assert server.metric('packager_requests_total{outcome="abort"}') == aborted + 1


@pytest.mark.parametrize("path", ["/predict", "/v2/models/hello/generate"])
def test_leaving_before_the_first_byte_frees_the_slot(server, path):
    aborted = server.metric('packager_requests_total{outcome="abort"}')
    text = "prompt" if path == "/predict" else "text_input"
    with connected(server) as connection:
        connection.sendall(request(path, json.dumps({text: "w " * 3000}).encode()))
        wait_until(lambda: running(server) == 1, "it runs")
    wait_free(server)
    assert server.metric('packager_requests_total{outcome="abort"}') == aborted + 1


@pytest.mark.parametrize("path", ["/predict", "/v2/models/hello/generate_stream"])
def test_a_stream_that_failed_is_no_clean_end(failing, path):
    body = {"prompt": "w " * 300, "stream": True} if path == "/predict" else {"text_input": "w " * 300}
    with connected(failing) as connection:
        connection.sendall(request(path, json.dumps(body).encode()))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"the engine failed; the answer is not complete" in received
    assert not received.endswith(b"0\r\n\r\n")
    wait_free(failing)


def test_too_many_requests(server):
    with open_stream(server):
        refused = post(server, "/v1/chat/completions", json=CHAT)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "overloaded"
    wait_free(server)


@pytest.mark.usefixtures("waiting")
def test_a_reader_that_stalls(fast):
    """It reads 5 of 160 MB and then nothing more: the rest is not made, let alone kept."""
    body = json.dumps({"model": "hello", "prompt": "w " * 900_000, "stream": True}).encode()
    with connected(fast) as connection:
        connection.sendall(request("/v1/completions", body))
        received = 0
        while received < 5_000_000:
            piece = connection.recv(65536)
            assert piece, "the answer ended"
            received += len(piece)
        before = fast.memory()  # the engine's own share, the prompt's words, is in it
        wait_until(lambda: stands_still(lambda: fast.metric("packager_generated_tokens_total")), "it is held back")
        assert growth(fast, before) < 10
        assert fast.metric("packager_generated_tokens_total") < 200_000
        assert post(fast, "/predict", json={"prompt": "others"}).status_code == 200
        assert running(fast) == 1
    wait_free(fast)


def stands_still(value: Callable[[], float]) -> bool:
    before = value()
    time.sleep(0.2)
    return 0 < before == value()


# Who may ask, and what


def test_api_keys(server, host):
    """BentoML has routes of its own beside ours, which tell nothing of a request."""
    theirs = ["/healthz", "/schema.json"] if host == BENTO else []
    for path in ROUTES:
        expected = 200 if path == "/chat" else 401
        assert httpx.get(server.url + path, timeout=60).status_code == expected, path
    for path in [*PROBES, "/v2/health/live", "/v2/health/ready", *theirs]:
        assert httpx.get(server.url + path, timeout=60).status_code == 200, path
    for path in {"/healthz", "/schema.json", "/docs.json", "/"} - set(theirs):
        assert httpx.get(server.url + path, timeout=60).status_code == 401, path
    refused = httpx.post(server.url + "/predict", json={"prompt": "a"}, headers={"X-API-Key": KEY + "x"}, timeout=60)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] == "invalid_api_key"


def test_a_secret_that_was_not_filled_in(host, tmp_path):
    package = make_package(tmp_path / "package")
    with serving_package(package, host, PACKAGER_API_KEYS="") as server:
        assert server.wait_exit() != 0
        assert "there is no API key in it" in server.output()


def test_bad_requests_in_openais_shape(server):
    for path, content, status in [
        ("/v1/chat/completions", b"{", 400),
        ("/predict", b'{"prompt": NaN}', 400),
        ("/predict", b"[" * 100_000, 400),
        ("/predict", b"", 400),
        ("/predict", b"\xff", 400),
        ("/nothing", b"{}", 404),
        ("/chat", b"{}", 405),
    ]:
        answer = post(server, path, content=content)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), content[:20]
    assert post(server, "/predict", content=b"{}", headers=LOCKED | {"content-type": "text/plain"}).status_code == 415


def test_a_large_body_is_not_read(fast):
    """300 MB: refused by its declared size, and where none is declared as soon as it is too much."""
    before, piece = fast.memory(), b" " * 65536

    def endless() -> Iterator[bytes]:
        for _ in range(300_000_000 // len(piece)):
            yield piece

    for declared in ({"content-length": "300000000"}, {}):
        answer = httpx.post(fast.url + "/predict", content=endless(), headers=declared, timeout=60)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert growth(fast, before) < 10


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
        (b"GET /v1/models HTTP/1.1\r\n" + b"a: b\r\n" * 200, 431),
        (b"GET /v1/models HTTP/1.1\r\na: " + b"b" * 33_000 + b"\r\n", 431),
    ],
)
def test_the_size_of_a_head(server, head, status):
    with connected(server) as connection:
        connection.sendall(head + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 %d " % status)


def test_a_head_without_an_end(fast, host):
    """BentoML's uvicorn takes it all: our app sees a head when it is there."""
    sent = 0
    with connected(fast) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\na: ")
            while sent < 20_000_000:
                connection.sendall(b"b" * 65536)
                sent += 65536
        except (BrokenPipeError, ConnectionResetError):
            assert host == OURS
        else:
            assert host == BENTO


def test_a_client_that_would_rather_speak_http_2(fast, host):
    """As Java's HttpClient does. BentoML's uvicorn takes the body for HTTP/2's."""
    body = b'{"prompt": "a"}'
    with connected(fast) as connection:
        connection.sendall(request("/predict", body, "connection: upgrade", "upgrade: h2c"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 " if host == OURS else b"HTTP/1.1 400 ")


def test_cors(server):
    for origin, allowed in (("https://app.example.com", "https://app.example.com"), ("https://evil.example", None)):
        headers = LOCKED | {"Origin": origin}
        for answer in (
            post(server, "/predict", json={"prompt": "a", "stream": True}, headers=headers),
            post(server, "/predict", json={}, headers=headers),
            httpx.options(
                server.url + "/predict", headers=headers | {"Access-Control-Request-Method": "POST"}, timeout=60
            ),
        ):
            assert answer.headers.get("access-control-allow-origin") == allowed


def test_request_ids(server):
    assert (
        post(server, "/predict", json={}, headers=LOCKED | {"X-Request-Id": "of-the-client"}).headers["x-request-id"]
        == "of-the-client"
    )
    assert len(post(server, "/predict", json={}).headers["x-request-id"]) == 32
    wait_until(
        lambda: any(line.get("client_request") == "of-the-client" for line in server.events("request")), "logged"
    )


def test_a_head_that_does_not_come(waiting, host):
    if host == OURS:
        assert waiting["silence"].result() == b""
        assert waiting["half a head"].result().startswith(b"HTTP/1.1 408 ")
    else:
        assert waiting["silence"].result() is waiting["half a head"].result() is None


def test_a_body_that_does_not_come(waiting):
    assert waiting["half a body"].result().startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection(waiting, host):
    """Ours waits 75 s for the next request, BentoML 5 (its own `--timeout-keep-alive`)."""
    if host == OURS:
        assert waiting["an idle connection"].result() is None
    else:
        assert waiting["an idle connection"].result().startswith(b"HTTP/1.1 200 ")


def test_a_second_request_before_the_first_answer(fast, host):
    """Our runner answers the first one and closes; BentoML's uvicorn queues, and does not see who leaves then."""
    with connected(fast) as connection:
        connection.sendall(request("/predict", b'{"prompt": "a"}') * 2)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 2 and (piece := connection.recv(65536)):
            received += piece
    assert received.count(b"HTTP/1.1 200 ") == (1 if host == OURS else 2)


# What it tells


def test_probes_and_metrics(server):
    assert [server.status(path) for path in PROBES] == [200, 200, 200]
    assert server.metric("packager_ready ") == 1
    assert post(server, "/predict", json={"prompt": "a"}).status_code == 200
    assert server.metric('packager_requests_total{outcome="stop"}') > 0


def test_logs_hold_no_prompts(server):
    post(server, "/predict", json={"prompt": "canary-in-a-prompt"})
    wait_until(lambda: bool(server.events("request")), "the request is logged")
    assert "canary" not in server.output()
    assert KEY not in server.output()


def test_logs_are_json(server, host):
    """Whatever clients send. Under BentoML its own lines stand between ours."""
    for sent in (
        b"\x16\x03\x01 no http",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ):
        with connected(server) as connection:
            connection.sendall(sent)
            connection.recv(65536)
    known = len(server.events("request"))
    post(server, "/predict", json={})
    wait_until(lambda: len(server.events("request")) > known, "the last one is logged")
    others = [line for line in server.output().splitlines() if not line.startswith("{")]
    assert bool(others) == (host == BENTO)


def test_one_line_for_each_request(server):
    answer = post(server, "/predict?canary=1", json={"prompt": "a b", "max_tokens": 1})
    identity = answer.headers["x-request-id"]
    wait_until(lambda: any(line["request"] == identity for line in server.events("request")), "it is logged")
    (line,) = [line for line in server.events("request") if line["request"] == identity]
    assert (line["path"], line["status"], line["outcome"], line["tokens_in"]) == ("/predict", 200, "length", 2)
    assert {"seconds", "queue_seconds", "first_token_seconds", "tokens_out", "stream", "time"} <= line.keys()


# How it begins and ends


def test_sigterm_lets_open_streams_end(fast):
    """Not ready at once, the stream completes, exit 0; new requests are refused meanwhile.

    Last of the tests on this server: no request may linger anywhere, in BentoML's middleware neither.
    """
    with open_stream(fast, LONG | {"prompt": "w " * 300_000}) as pieces:  # it waits for us to read
        fast.terminate()
        wait_until(lambda: fast.status("/readyz") == 503, "it is not ready any more")
        assert fast.status("/livez") == 200
        assert post(fast, "/predict", json={"prompt": "a"}).status_code == 503
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
    assert fast.wait_exit() == 0


def test_sigterm_fails_what_is_left_after_the_drain(server):
    """Last of the tests on this server, too."""
    received = []
    with open_stream(server) as pieces:
        server.terminate()
        with pytest.raises(httpx.RemoteProtocolError):
            received.extend(iter(lambda: next(pieces), None))
    assert b"the server is stopping; the answer is not complete" in b"".join(received)
    assert server.wait_exit() == 0


def test_a_load_that_fails(host, tmp_path):
    """It answers probes while it loads; when the load fails, the process ends with an error and the reason, once."""
    with slow_load(tmp_path) as (package, finish), serving_package(package, host, BENTOML_CONTAINERIZED="1") as server:
        wait_until(lambda: server.status("/livez") == 200, "it answers while it loads")
        assert server.status("/readyz") == 503
        assert post(server, "/predict", json={"prompt": "a"}).status_code == 503
        finish()
        assert server.wait_exit() != 0
        (failed,) = server.events("failed")
        assert "weights.bin" in failed["reason"]


MORTAL = """

import os
import subprocess
from pathlib import Path

_AGAIN = Path(__file__).with_name("again")


class EchoEngine(EchoEngine):
    # Lives as long as a process of its own; another one starts when the test has made the file.
    async def start(self):
        while "LIVED" in os.environ and not _AGAIN.exists():
            await asyncio.sleep(0.01)
        os.environ["LIVED"] = "yes"
        self._process = subprocess.Popen(["sleep", "600"])
        return await super().start()

    async def stop(self):
        self._process.kill()
        await super().stop()

    def health(self):
        return EngineHealth(False, "killed") if self._process.poll() is not None else super().health()
"""


def mortal(folder: Path, **serving: int) -> tuple[Path, Path]:
    """A package whose engine can be killed, and the file without which it does not start again."""
    package = make_package(folder, options={"delay_ms": 10}, **serving)
    module = package / "packages/packager_runtime/runtime/engines/echo.py"
    with module.open("a") as file:
        file.write(MORTAL)
    return package, module.with_name("again")


def kill_engine(server: ProcessServer) -> None:
    (engine,) = [one for one in server.family() if one.name() == "sleep"]
    engine.kill()


def test_an_engine_that_dies(host, tmp_path):
    """Open streams are told, the server is not ready until it has another engine, and beyond the budget it ends."""
    package, again = mortal(tmp_path / "package", engine_restarts=1)
    with serving_package(package, host, BENTOML_CONTAINERIZED="1") as server:
        server.wait_ready()
        received = []
        with open_stream(server) as pieces:
            kill_engine(server)
            with pytest.raises(httpx.RemoteProtocolError):
                received.extend(iter(lambda: next(pieces), None))
        assert b'"type":"engine_error"' in b"".join(received)
        assert (server.status("/readyz"), server.status("/livez")) == (503, 200)
        assert post(server, "/predict", json={"prompt": "a"}).status_code == 503
        again.touch()
        server.wait_ready()
        assert post(server, "/predict", json={"prompt": "a"}).status_code == 200
        assert server.metric("packager_engine_restarts_total") == 1
        kill_engine(server)
        assert server.wait_exit() != 0
        assert [line["reason"] for line in server.events("dead")] == ["killed"]


def test_an_engine_that_dies_outside_a_container(host, tmp_path):
    """Our runner ends as ever; BentoML would start its worker again for ever, so that one stays and is not alive."""
    package, _ = mortal(tmp_path / "package", engine_restarts=0)
    with serving_package(package, host) as server:
        server.wait_ready()
        kill_engine(server)
        if host == OURS:
            assert server.wait_exit() == 1
        else:
            wait_until(lambda: server.status("/livez") == 503, "it is not alive")
            assert server.status("/readyz") == 503
            assert server.process.poll() is None


def test_sigterm_while_loading(host, tmp_path):
    with slow_load(tmp_path) as (package, _), serving_package(package, host) as server:
        wait_until(lambda: server.status("/livez") == 200, "it answers while it loads")
        server.terminate()
        assert server.wait_exit() == 0


def test_a_second_sigterm(host, tmp_path):
    """Our runner ends at once; BentoML's parent waits for its worker, which drains."""
    package = make_package(tmp_path / "package", options={"delay_ms": 60_000}, drain_seconds=3)
    with serving_package(package, host) as server:
        server.wait_ready()
        with connected(server) as connection:
            connection.sendall(request("/predict", b'{"prompt": "a"}'))
            wait_until(lambda: running(server) == 1, "it runs")
            server.terminate()
            wait_until(lambda: bool(server.events("draining")), "it drains")
            server.terminate()
            assert server.wait_exit() == (-15 if host == OURS else 0)


PROBE = """
import asyncio
from opentelemetry.trace import get_current_span


class Probe:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def telling(message):
            if message["type"] == "http.response.start":
                loop = type(asyncio.get_running_loop()).__module__.encode()
                traced = b"yes" if get_current_span().get_span_context().is_valid else b"no"
                message["headers"] = [*message["headers"], (b"x-loop", loop), (b"x-traced", traced)]
            await send(message)

        await self.app(scope, receive, telling if scope["type"] == "http" else send)


Service.add_asgi_middleware(Probe)
"""


def test_no_spans_and_uvloop(host, tmp_path):
    """BentoML opens a span for each chunk, and leaves uvloop to chance; our runner has neither question."""
    package = make_package(tmp_path / "package")
    with (package / "service.py").open("a") as file:
        file.write(PROBE)
    with serving_package(package, host) as server:
        server.wait_ready()
        if host == OURS:
            maps = Path(f"/proc/{server.process.pid}/maps").read_text()
            assert "uvloop/loop." in maps
        else:
            answers = {path: httpx.get(server.url + path, timeout=60) for path in [*ROUTES, "/healthz"]}
            assert {answer.headers["x-loop"] for answer in answers.values()} == {"uvloop"}
            traced = {path for path, answer in answers.items() if answer.headers["x-traced"] == "yes"}
            assert traced == {"/healthz"}


def test_the_table_has_these_tests():
    """Each row names its test, and each test has its row."""
    page = Path(__file__).resolve().parents[2] / "docs/explanation/serving.md"
    named = re.findall(r"\| `(test_\w+)` \|$", page.read_text("utf-8"), re.MULTILINE)
    assert sorted([*named, "test_the_table_has_these_tests"]) == sorted(n for n in globals() if n.startswith("test_"))
