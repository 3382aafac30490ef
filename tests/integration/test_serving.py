"""The promises of docs/explanation/serving.md, each under both of its columns: our runner and `bentoml serve`.

Real packages, real processes, real sockets. What holds under one of them alone says so.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from fakes.gguf import write_tiny_gguf
from fakes.packages import make_package
from fakes.serving import ProcessServer, wait_until

RUNNERS = ["packager", "bentoml"]
CHAT = {"model": "hello", "messages": [{"role": "user", "content": "one two three"}]}
LONG = {"prompt": "w " * 3000, "stream": True}


@pytest.fixture(params=RUNNERS, scope="module")
def runner(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(runner, tmp_path_factory) -> Iterator[ProcessServer]:
    """One slot, no queue, a token each 10 ms; a stream fails at its 200th."""
    options = {"delay_ms": 10, "fail_after": 200}
    package = make_package(
        tmp_path_factory.mktemp("serving") / "package", options=options, max_concurrency=1, max_queue=0
    )
    if runner == "bentoml":
        (package / "bentofile.yaml").write_text('service: "service:Service"\n')
    with ProcessServer(package, runner) as server:
        yield server.wait_ready()


@contextmanager
def open_stream(server: ProcessServer, body=LONG) -> Iterator[Iterator[bytes]]:
    """A stream whose first token has come; leaving the block leaves it."""
    with httpx.stream("POST", server.url + "/predict", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()
        next(pieces)
        yield pieces


def wait_free(server: ProcessServer) -> None:
    wait_until(lambda: server.metric("packager_requests_running ") == 0, "the slot is free")


def test_openai_client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        assert client.chat.completions.create(**CHAT).choices[0].message.content == "one two three"
        chunks = list(client.chat.completions.create(**CHAT, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
        assert client.models.list().data[0].id == "hello"


def test_leaving_mid_stream_frees_the_slot(server):
    aborted = server.metric('packager_requests_total{outcome="abort"}')
    with open_stream(server):
        assert server.metric("packager_requests_running ") == 1
    wait_free(server)
    assert server.metric('packager_requests_total{outcome="abort"}') == aborted + 1


def test_leaving_a_whole_answer_frees_the_slot(server):
    aborted = server.metric('packager_requests_total{outcome="abort"}')
    body = json.dumps({"prompt": "w " * 150}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: server.metric("packager_requests_running ") == 1, "it runs")
    wait_free(server)
    assert server.metric('packager_requests_total{outcome="abort"}') == aborted + 1


def test_too_many_requests(server):
    with open_stream(server):
        refused = httpx.post(server.url + "/v1/chat/completions", json=CHAT)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "overloaded"
    wait_free(server)


def test_a_stream_that_failed_is_no_clean_end(server):
    with open_stream(server) as pieces:
        received = []
        with pytest.raises(httpx.RemoteProtocolError):
            received.extend(iter(lambda: next(pieces), None))
    wait_free(server)


def test_bad_requests_in_openais_shape(server):
    malformed = httpx.post(server.url + "/v1/chat/completions", content=b"{")
    assert (malformed.status_code, malformed.json()["error"]["type"]) == (400, "invalid_request_error")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 300000000\r\n\r\n")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 413 ")


def test_probes_and_metrics(server):
    assert server.status("/livez") == 200
    assert server.status("/readyz") == 200
    assert server.metric("packager_ready ") == 1
    assert server.status("/openapi.json") == 200


def test_logs_hold_no_prompts(server):
    httpx.post(server.url + "/predict", json={"prompt": "canary-in-a-prompt"})
    wait_until(lambda: bool(server.events("request")), "the request is logged")
    assert "canary" not in server.output()


def test_it_still_stops_after_all_of_that(server):
    """Last of the tests on this server: no request may linger anywhere, in BentoML's middleware neither."""
    server.terminate()
    assert server.wait_exit() == 0


def test_sigterm_lets_open_streams_end(runner, tmp_path):
    """Not ready at once, the stream completes, exit 0; new requests are refused meanwhile."""
    package = make_package(tmp_path / "package", options={"delay_ms": 20})
    with ProcessServer(package, runner) as server:
        server.wait_ready()
        with open_stream(server, LONG | {"prompt": "w " * 150}) as pieces:
            server.terminate()
            wait_until(lambda: server.status("/readyz") == 503, "it is not ready any more")
            assert server.status("/livez") == 200
            assert httpx.post(server.url + "/predict", json={"prompt": "a"}).status_code == 503
            assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
        assert server.wait_exit() == 0


def test_sigterm_fails_what_is_left_after_the_drain(runner, tmp_path):
    package = make_package(tmp_path / "package", options={"delay_ms": 20}, drain_seconds=0)
    with ProcessServer(package, runner) as server:
        server.wait_ready()
        received = []
        with open_stream(server) as pieces:
            server.terminate()
            with pytest.raises(httpx.RemoteProtocolError):
                received.extend(iter(lambda: next(pieces), None))
        assert b"the server is stopping; the answer is not complete" in b"".join(received)
        assert server.wait_exit() == 0


def test_a_load_that_fails(runner, tmp_path):
    """It answers probes while it loads; when the load fails, the process ends with an error and the reason, once."""
    with (
        slow_load(tmp_path) as (package, finish),
        ProcessServer(package, runner, BENTOML_CONTAINERIZED="true") as server,
    ):
        wait_until(lambda: server.status("/livez") == 200, "it answers while it loads")
        assert server.status("/readyz") == 503
        assert httpx.post(server.url + "/predict", json={"prompt": "a"}).status_code == 503
        finish()
        assert server.wait_exit() != 0
        (failed,) = server.events("failed")
        assert "the weights cannot be read" in failed["reason"]


def test_sigterm_while_loading(runner, tmp_path):
    with slow_load(tmp_path) as (package, _), ProcessServer(package, runner) as server:
        wait_until(lambda: server.status("/livez") == 200, "it answers while it loads")
        server.terminate()
        assert server.wait_exit() == 0


def test_outside_a_container_bentoml_stays_up_to_say_that_it_is_dead(tmp_path):
    """BentoML would start a worker that ended again and again."""
    with slow_load(tmp_path) as (package, finish), ProcessServer(package, "bentoml") as server:
        wait_until(lambda: server.status("/livez") == 200, "it answers while it loads")
        finish()
        wait_until(lambda: server.status("/livez") == 503, "it is dead")
        assert server.status("/readyz") == 503


def test_a_second_sigterm_ends_our_runner_at_once(tmp_path):
    package = make_package(tmp_path / "package", options={"delay_ms": 60_000})
    with ProcessServer(package) as server:
        server.wait_ready()
        body = b'{"prompt": "a"}'
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n" + body)
            wait_until(lambda: server.metric("packager_requests_running ") == 1, "it runs")
            server.terminate()
            wait_until(lambda: bool(server.events("draining")), "it drains")
            server.terminate()
            assert server.wait_exit() == -signal.SIGTERM


def test_our_runner_says_why_it_cannot_begin(tmp_path):
    package = make_package(tmp_path / "package")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with ProcessServer(package, port=taken.getsockname()[1]) as server:
            assert server.wait_exit() == 2
        assert "cannot listen: Address already in use" in server.output()
    (package / "model/manifest.json").unlink()
    with ProcessServer(package) as server:
        assert server.wait_exit() == 2
    assert "this folder is not a package" in server.output()


def test_llama_cpp(runner, tmp_path):
    weights = write_tiny_gguf(tmp_path / "tiny.gguf")
    package = make_package(tmp_path / "package", engine="llama_cpp", weights=weights, options={"threads": 1})
    with ProcessServer(package, runner) as server:
        server.wait_ready()
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            chunks = list(client.chat.completions.create(**CHAT, stream=True, max_tokens=5, temperature=0))
            whole = client.chat.completions.create(**CHAT, max_tokens=5, temperature=0)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert whole.usage.completion_tokens == 5
        with open_stream(server, LONG | {"prompt": "long ago"}):
            pass
        wait_free(server)
        server.terminate()
        assert server.wait_exit() == 0


@contextmanager
def slow_load(tmp_path: Path) -> Iterator[tuple[Path, object]]:
    """A package whose weights are a pipe that nobody writes to; calling the second lets the load go on, and fail."""
    source = tmp_path / "source"
    source.mkdir()
    pipe = source / "weights.bin"
    os.mkfifo(pipe)

    def finish() -> None:
        with pipe.open("wb"):
            pass

    yield make_package(tmp_path / "package", source=source), finish
