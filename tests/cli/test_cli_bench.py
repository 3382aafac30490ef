"""`packager bench` against packager's own server and against servers that fail."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import pytest
from fakes.serving import thread_server

from packager.cli.app import main

ROOT = Path(__file__).parents[2]
EVENTS = b'data: {"text": "a", "finish_reason": "stop", "usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(EVENTS), EVENTS)


@pytest.fixture
def server(tmp_path: Path):
    with thread_server(tmp_path) as running:
        yield running.wait_ready()


class Canned:
    """A server that gives the requests on one connection these answers, then holds the one after: `held` says so."""

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[bytes] = []
        self.held = threading.Event()
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            for answer in self._answers:
                self.requests.append(connection.recv(65536))
                connection.sendall(answer)
            if connection.recv(65536):
                self.held.set()
                connection.recv(1)


@pytest.mark.parametrize("api", ["completions", "chat", "predict"])
def test_a_run_prints_a_table_and_writes_vllms_keys(server, api, tmp_path, capsys):
    target = tmp_path / "result.json"
    model = [] if api == "predict" else ["--model", "hello"]
    load = ["--prompts", "20", "--concurrency", "4", "--max-tokens", "8", "--input-words", "16"]
    assert main(["bench", server.url, "--api", api, *model, *load, "--output", str(target)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("requests      20 done, 0 failed\n")
    assert "first token (TTFT)" in said.out
    found = json.loads(target.read_text())
    assert (found["completed"], found["failed"], found["max_concurrency"], found["num_prompts"]) == (20, 0, 4, 20)
    assert found["output_lens"] == [8] * 20
    assert found["input_lens"] == [16] * 20
    assert found["packager"]["output_tokens_from"] == "usage"
    assert (found["packager"]["unfinished"], found["packager"]["failures"]) == (0, {})
    assert all(len(gaps) >= 7 for gaps in found["itls"])


def test_prompts_come_from_a_file_at_a_rate(server, tmp_path, capsys):
    file, target = tmp_path / "prompts.jsonl", tmp_path / "result.json"
    file.write_text('{"prompt": "one two"}\n{"prompt": "three", "output_tokens": 1}\n')
    load = ["--prompts", "4", "--rate", "400", "--burstiness", "2", "--data", str(file)]
    assert main(["bench", server.url, "--model", "hello", *load, "--output", str(target), "--quiet"]) == 0
    found = json.loads(target.read_text())
    assert found["generated_texts"] == ["one two", "three"] * 2
    assert (found["request_rate"], found["burstiness"], found["max_concurrency"]) == (400, 2, None)
    assert capsys.readouterr().err == ""


def test_requests_that_fail_are_told_and_exit_1(server, capsys):
    assert main(["bench", server.url, "--model", "other", "--prompts", "3", "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("requests      0 done, 3 failed (3 status)\n")
    assert said.err.startswith(f"error: {server.url}: 3 of 3 requests failed; the first: 404: ")


def test_the_key_is_sent_from_its_file(tmp_path, capsys):
    key = tmp_path / "key"
    key.write_text("secret\nanother\n")
    refused = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno"
    with Canned(refused) as server:
        assert main(["bench", server.url, "--api", "predict", "--prompts", "1", "--api-key-file", str(key)]) == 1
    assert b"authorization: bearer secret\r\n" in server.requests[0].lower()
    assert "secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["localhost:80"], "must be http://HOST:PORT"),
        (["http://a..b", "--model", "m"], "'a..b' is no name of a host"),
        (["http://a/\x01", "--model", "m"], "must be printable ASCII without spaces"),
        (["http://a"], "--api completions needs the model's name"),
        (["http://a", "--api", "predict", "--model", "m"], "/predict takes no model"),
        (["http://a", "--model", "m", "--burstiness", "2"], "--burstiness needs --rate"),
        (["http://a", "--model", "m", "--prompts", "0"], "'--prompts': 0 is not in the range"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said, capsys):
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_file_without_a_key_is_refused(tmp_path, capsys):
    key = tmp_path / "key"
    key.write_text("\nsecret\n")
    assert main(["bench", "http://a", "--model", "m", "--api-key-file", str(key)]) == 2
    assert "its first line is no key" in capsys.readouterr().err


@pytest.mark.parametrize("first", [b"\xff\xfe\n", "clé\n".encode()])
def test_a_file_that_is_no_text_is_refused(tmp_path, first, capsys):
    key = tmp_path / "key"
    key.write_bytes(first)
    assert main(["bench", "http://a", "--model", "m", "--api-key-file", str(key)]) == 2
    assert "its first line is no key" in capsys.readouterr().err


def test_the_key_of_the_environment_is_sent(monkeypatch):
    refused = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno"
    monkeypatch.setenv("PACKAGER_API_KEY", "secret")
    with Canned(refused) as server:
        assert main(["bench", server.url, "--api", "predict", "--prompts", "1"]) == 1
    assert b"authorization: bearer secret\r\n" in server.requests[0].lower()


def test_a_key_that_no_header_holds_is_refused_and_not_shown(monkeypatch, capsys):
    monkeypatch.setenv("PACKAGER_API_KEY", "clé\nabc")
    assert main(["bench", "http://127.0.0.1:9", "--model", "m"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: PACKAGER_API_KEY: this is no API key\n  mend: ")
    assert "abc" not in said


def test_a_result_that_could_not_be_written_is_refused_before_anything_is_asked(server, tmp_path, capsys):
    target = tmp_path / "nowhere" / "result.json"
    assert main(["bench", server.url, "--model", "hello", "--prompts", "2", "--output", str(target)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {target}: the result cannot be written: no such file or directory\n  mend: ")


def test_a_file_of_something_else_is_refused(tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text("{}\n")
    given = ["bench", "http://a", "--model", "m", "--data", str(file)]
    assert main(given) == 2
    assert 'line 1 is not {"prompt": TEXT}' in capsys.readouterr().err
    assert main([*given, "--input-words", "9"]) == 2
    assert "--input-words needs drawn prompts" in capsys.readouterr().err


def test_an_interrupt_reports_what_there_is():
    with Canned(STREAM, STREAM) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "packager", "bench", server.url, "--api", "predict", "--prompts", "9"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert server.held.wait(120)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out.startswith("requests      2 done, 0 failed, 7 not finished\n")
    assert "Traceback" not in err
