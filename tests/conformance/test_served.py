"""Every engine behind our own server, in a process of its own: what a client and an operator see."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from cases import CASES, Case, make_weights
from fakes.packages import make_package
from fakes.serving import ProcessServer

WHOLE = [case for case in CASES if case.whole]
STARTING = 600.0
"""Seconds that a real engine may take to start on a slow machine."""
LONG = {"prompt": "w " * 40, "max_tokens": 3500, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=WHOLE, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def room_of(case: Case) -> int:
    """Tokens of its context: room for an answer that takes longer than a test is kept from the processor."""
    return 1024 if case.weights == "hello" else 4096  # as many as that one was trained for


def package_of(case: Case, folder: Path, models: Path, *, broken: bool = False, **serving: int | str) -> Path:
    weights = make_weights(case.weights, case.kind, models, room_of(case))
    if broken and weights is not None:
        weights = _broken(weights, folder / "broken")
    options = case.options | case.slow | ({"warp": 9} if broken and weights is None else {})
    options |= {"context_length": room_of(case)} if "context_length" in options else {}
    return make_package(folder / "package", engine=case.kind, options=options, weights=weights, **serving)


def _broken(weights: Path, folder: Path) -> Path:
    """Weights of the right names that no engine can open."""
    folder.mkdir(parents=True)
    if weights.is_file():
        (folder / weights.name).write_bytes(b"not a model " * 1000)
        return folder / weights.name
    for path in weights.iterdir():
        data = b"not a model " * 1000 if path.suffix in (".safetensors", ".bin", ".engine") else path.read_bytes()
        (folder / path.name).write_bytes(data)
    return folder


def wait(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + STARTING
    while not holds():
        assert time.monotonic() < end, f"still waiting: {what}"
        time.sleep(0.02)


def start(case: Case, package: Path) -> ProcessServer:
    server = ProcessServer(package, **case.environment(package))
    wait(lambda: server.status("/readyz") == 200 or server.process.poll() is not None, "the server is ready")
    assert server.process.poll() is None, server.output()
    return server


@pytest.fixture(scope="module")
def server(case: Case, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessServer]:
    # vLLM answers /v1 with its own server, and /predict is ours everywhere: both are seen.
    api = "native" if case.kind == "vllm" else "packager"
    package = package_of(case, tmp_path_factory.mktemp("served"), models, engine_restarts=1, api=api)
    with start(case, package) as server:
        yield server


def events(lines: Iterator[str]) -> list[dict]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


def test_stream_and_whole_answer_are_the_same(server: ProcessServer) -> None:
    body = {"model": "hello", "prompt": "one two three", "max_tokens": 24, "temperature": 0}
    whole = httpx.post(server.url + "/v1/completions", json=body, timeout=60).json()
    with httpx.stream("POST", server.url + "/v1/completions", json=body | {"stream": True}, timeout=60) as answer:
        pieces = events(answer.iter_lines())
    assert "".join(event["choices"][0]["text"] for event in pieces) == whole["choices"][0]["text"]
    assert pieces[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_the_log_says_which_engine_computes_where_a_library_has_several(server: ProcessServer, case: Case) -> None:
    wait(lambda: bool(server.events("ready")), "the log is read")
    (ready,) = server.events("ready")
    assert ready.get("backend") == case.options.get("backend")


def test_what_the_model_cannot_do_is_a_400(server: ProcessServer, case: Case) -> None:
    answer = httpx.post(server.url + "/predict", json={"prompt": "word " * (room_of(case) + 1)}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert str(room_of(case)) in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_leaving_frees_the_slot(server: ProcessServer, stream: bool) -> None:
    for _ in range(8):
        with httpx.Client(timeout=0.2 if not stream else 60) as client:
            try:
                with client.stream("POST", server.url + "/predict", json=LONG | {"stream": stream}) as answer:
                    next(answer.iter_bytes())
            except httpx.TimeoutException:
                assert not stream
    wait(lambda: server.metric("packager_requests_running ") == 0, "all slots are free")
    wait(lambda: server.metric("packager_requests_waiting ") == 0, "nobody waits")
    answer = httpx.post(server.url + "/predict", json={"prompt": "a b", "max_tokens": 2}, timeout=60)
    assert answer.status_code == 200


def test_sigterm_ends_it_and_leaves_no_process(case: Case, models: Path, tmp_path: Path) -> None:
    with start(case, package_of(case, tmp_path, models)) as server:
        family = psutil.Process(server.process.pid).children(recursive=True)
        server.terminate()
        assert server.wait_exit() == 0
        wait(lambda: not any(map(_runs, family)), "every process has ended")


def test_a_load_that_fails_says_why_once_and_exits(case: Case, models: Path, tmp_path: Path) -> None:
    package = package_of(case, tmp_path, models, broken=True)
    with ProcessServer(package, **case.environment(package)) as server:
        wait(lambda: server.process.poll() is not None, "the process ends")
        assert server.wait_exit() == 1
        (failure,) = server.events("failed")
        assert failure["reason"]
        assert not server.events("ready")


def read_to_the_break(pieces: Iterator[str]) -> str:
    """What came before the connection broke off, as it must."""
    text = ""
    try:
        for piece in pieces:
            text += piece
    except httpx.RemoteProtocolError:
        return text
    pytest.fail("the stream ended as if it were complete")


def test_a_killed_engine(server: ProcessServer, case: Case) -> None:
    """Last: it ends the server. An engine without a process of its own dies with the server's."""
    parent = psutil.Process(server.process.pid)
    workers = _workers(parent)
    assert bool(workers) == case.process
    with httpx.stream("POST", server.url + "/predict", json=LONG | {"stream": True}, timeout=60) as answer:
        pieces = answer.iter_text()
        text = next(pieces)
        os.kill((workers or [parent])[0].pid, signal.SIGKILL)
        text += read_to_the_break(pieces)
    if not workers:
        return
    assert '"type":"engine_error"' in text.splitlines()[-2]
    wait(lambda: bool(server.events("restarting")), "the death is noticed")
    wait(lambda: server.status("/readyz") == 200, "the engine is started again")
    answer = httpx.post(server.url + "/predict", json={"prompt": "a b", "max_tokens": 2}, timeout=60)
    assert answer.status_code == 200
    assert server.metric("packager_engine_restarts_total") == 1
    # The budget of one restart is spent: the next death ends the process, and nothing of it stays.
    family = parent.children(recursive=True)
    os.kill(_workers(parent)[0].pid, signal.SIGKILL)
    assert server.wait_exit() == 1
    assert server.events("dead")
    wait(lambda: not any(map(_runs, family)), "every process has ended")


def _workers(parent: psutil.Process) -> list[psutil.Process]:
    """The engine's own processes: not the one in which multiprocessing keeps its books, nor torch's compilers."""
    others = ("resource_tracker", "compile_worker")
    return [one for one in parent.children(recursive=True) if not any(word in _command(one) for word in others)]


def _command(process: psutil.Process) -> str:
    """Its words; empty when it has ended since it was listed."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
