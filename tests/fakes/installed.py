"""Packages served by what their requirements.txt installs, and by nothing else: environments, processes, one question.

Environments are kept in the shared cache by the digest of what is in them.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from uv import find_uv_bin

from .machine import wait_for_port

PROMPT = "The quick brown fox"
SECONDS = 300
"""Patience for a model to become ready on a busy machine."""
HUNG = 900
"""Seconds after which a program is taken to hang: less than the Makefile gives a test, so that what it said is shown."""


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """What the program wrote; fails the test with what it said when it failed."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=HUNG)
    assert done.returncode == 0, f"{argv}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def environment(requirements: Path, cache: Path) -> Path:
    """The Python of a venv that holds exactly `requirements`, by hash."""
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / "venvs" / key
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder])
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
        run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", requirements])
        ready.touch()
    return python


def bare_env(home: Path) -> dict[str, str]:
    """What a served process finds: no PYTHONPATH, no configuration, stores of its own."""
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # see the Makefile
    return libraries | {
        "PATH": f"{Path(find_uv_bin()).parent}:/usr/bin:/bin",  # `bentoml build` looks for uv there
        "HOME": str(home),
        "PACKAGER_CACHE": str(home / "cache"),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "LC_ALL": "C.UTF-8",
    }


@contextmanager
def served(
    argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], port: int, ready: str = "/readyz"
) -> Iterator[tuple[httpx.Client, "subprocess.Popen[bytes]"]]:
    """A server that answers `ready`; killed with its children when it was not stopped."""
    log = cwd.parent / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in argv], cwd=cwd, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for_port(port, process, SECONDS)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS, trust_env=False) as client:
            until_ready(client, ready, process, log)
            yield client, process
    finally:
        if process.poll() is None:
            # By its own means: BentoML's workers are in sessions of their own, and are started anew when killed.
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def until_ready(client: httpx.Client, path: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(SECONDS * 5):
        assert process.poll() is None, log.read_text()[-4000:]
        if client.get(path).status_code == httpx.codes.OK:
            return
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail(f"never ready: {log.read_text()[-4000:]}")


def chat(client: httpx.Client, model: str) -> str:
    """The text of a streamed chat completion that ended as it should; greedy, as drawn text may be empty."""
    body = {
        "model": model,
        "stream": True,
        "max_tokens": 8,
        "temperature": 0,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == httpx.codes.OK, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert choices[-1]["finish_reason"] in ("stop", "length")
    return "".join(choice["delta"].get("content") or "" for choice in choices)
