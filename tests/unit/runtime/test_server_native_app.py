"""`serving.api: native`: /v1 is the engine's own server, with our admission, keys, drain and metrics around it."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fakes.packages import make_package
from fakes.serving import ThreadServer, wait_until

from packager.manifest import read_manifest
from packager.runtime.engine import EngineFacts, EngineSetup
from packager.runtime.engines.echo import EchoEngine
from packager.runtime.load import open_package
from packager.runtime.metrics import Metrics
from packager.runtime.supervise import Supervisor


class OwnServer:
    """Stands for an engine's own OpenAI server: says where it was asked, then ticks until its client leaves."""

    def __init__(self) -> None:
        self.left = 0

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"]
        kind = b"text/event-stream" if b"stream" in body else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if kind == b"application/json":
            await send({"type": "http.response.body", "body": b'{"path": "%s"}' % scope["path"].encode()})
            return
        leaving = asyncio.ensure_future(receive())
        while not leaving.done():
            await send({"type": "http.response.body", "body": b'data: {"tick": 1}\n\n', "more_body": True})
            await asyncio.wait({leaving}, timeout=0.01)
        self.left += 1


@pytest.fixture
def own() -> OwnServer:
    return OwnServer()


@pytest.fixture
def server(own: OwnServer, tmp_path: Path) -> Iterator[ThreadServer]:
    package = make_package(tmp_path / "package", vendored=False, api="native", max_concurrency=1, max_queue=0)
    manifest = read_manifest(package)

    async def loader() -> tuple[EchoEngine, EngineFacts]:
        engine = EchoEngine(EngineSetup("hello", "1", {}, None, 1))
        return engine, replace(await engine.start(), native=own)

    with ThreadServer(Supervisor(manifest, loader, Metrics())) as server:
        yield server.wait_ready()


def test_v1_is_the_engines_own_and_the_rest_is_ours(server: ThreadServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for path in ("/v1/chat/completions", "/v1/responses", "/v1/anything"):
            answer = client.post(path, json={})
            assert (answer.json(), answer.status_code) == ({"path": path}, 200)
            assert answer.headers["x-request-id"]
            # Its slot is free when the app has returned, which may be after its last byte.
            wait_until(lambda: server.supervisor.metrics.running == 0, "the slot is free")
        assert client.get("/v1/models").json()["data"][0]["id"] == "hello"
        assert client.post("/predict", json={"prompt": "ours"}).json()["text"] == "ours"
        assert client.get("/readyz").status_code == 200


def test_its_requests_take_slots_and_give_them_back(server: ThreadServer, own: OwnServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        with client.stream("POST", "/v1/chat/completions", json={"stream": True}) as answer:
            pieces = answer.iter_bytes()  # closed with its last reference
            next(pieces)
            refused = httpx.post(server.url + "/v1/chat/completions", json={}, timeout=60)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            assert httpx.post(server.url + "/predict", json={"prompt": "x"}, timeout=60).status_code == 429
        wait_until(lambda: server.supervisor.metrics.running == 0, "the slot is free")
    assert own.left == 1
    wait_until(lambda: server.supervisor.metrics.outcomes["abort"] == 1, "it is counted")


def test_a_drain_ends_what_is_left(server: ThreadServer) -> None:
    with (
        httpx.Client(base_url=server.url, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json={"stream": True}) as answer,
    ):
        pieces = answer.iter_bytes()
        next(pieces)
        server.stop_supervisor()
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
    assert httpx.post(server.url + "/v1/chat/completions", json={}, timeout=60).status_code == 503


def test_an_engine_without_one_is_a_load_that_fails(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", vendored=False, api="native")
    with ThreadServer(open_package(package)) as server:
        wait_until(server.supervisor.failed.is_set, "the load fails")
        assert "has no OpenAI server of its own" in str(server.supervisor.error)
