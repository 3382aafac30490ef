"""`make demo`: build examples/hello, serve it with bentoml from inside its folder, stream an answer.

What a user would type, in order; the package is served from an environment that holds nothing but the
package's own requirements.txt, so packager itself is not there.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from packager.cli.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "dist"
PACKAGE = OUTPUT / "hello"
VENV = ROOT / ".venv-hello"
PACKAGER = (sys.executable, "-m", "packager")
QUESTION = "What is the with statement?"
READY_SECONDS = 180
STOP_SECONDS = 60
READY, FAILED = 200, 503
"""What /readyz answers when requests are taken, and /livez when the model will never be loaded."""
LOG_LINES = 15

LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy that is configured for the outside has no part in this."""

console = Console(stderr=True, soft_wrap=True)


def main() -> None:
    heading("1. build the package and the image (no Docker, no root)")
    run("packager build", *PACKAGER, "build", "hello", "--output", str(OUTPUT), "--json")
    heading("2. an environment with the package's requirements.txt and nothing else")
    make_environment()
    heading("3. cd dist/hello && bentoml serve")
    port = free_port()
    server = start_server(port)
    try:
        wait_until_ready(server, port)
        heading(f"4. ask: {QUESTION}")
        speed = stream_answer(port)
    finally:
        code = stop(server)
    say(f"{speed}; the server stopped with exit code {code}")
    heading("5. what was built")
    report()
    if code != 0:
        sys.exit(f"bentoml serve ended with {code}; its log is {log_path()}")


def make_environment() -> None:
    """A venv with the package's pinned requirements; kept between runs."""
    stamp, wanted = VENV / ".requirements", (PACKAGE / "requirements.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        say("already there")
        return
    with Progress.start() as progress:
        progress.stage("venv")
        run("making a venv", sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV))
        progress.stage("pip install, every wheel checked against its sha256")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(VENV / "bin/python"))
        run("pip install", *pip, "install", "-qq", "--require-hashes", "-r", str(PACKAGE / "requirements.txt"))
    stamp.write_text(wanted)


def start_server(port: int) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(VENV / "bentoml")}
    env["PATH"] = f"{VENV / 'bin'}:{env.get('PATH', os.defpath)}"
    with log_path().open("wb") as log:
        return subprocess.Popen(
            [VENV / "bin/bentoml", "serve", "--port", str(port)], cwd=PACKAGE, env=env, stdout=log, stderr=log
        )


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with Progress.start() as progress:
        progress.stage("waiting for a port that listens")
        listens = False
        while time.monotonic() < deadline:
            if server.poll() is not None:
                fail(f"bentoml serve ended with {server.returncode} before it was ready")
            answer = probe(port, "/readyz")
            if answer == READY:
                return
            if answer is not None and not listens:
                listens = True
                progress.stage("waiting for /readyz")
            if listens and probe(port, "/livez") == FAILED:
                fail("the model could not be loaded")
            time.sleep(0.1)
    fail(f"not ready after {READY_SECONDS} s")


def probe(port: int, path: str) -> int | None:
    """The status of `path`, None while nothing listens."""
    try:
        with LOCAL.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def stream_answer(port: int) -> str:
    """Print the answer as it comes; how many tokens it had, and how fast they came."""
    body = {"model": "hello", "stream": True, "max_tokens": 120, "temperature": 0.7, "seed": 7}
    body |= {"messages": [{"role": "user", "content": QUESTION}], "stream_options": {"include_usage": True}}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    begun, first, tokens = time.monotonic(), None, 0
    with LOCAL.open(request, timeout=120) as answer:
        for event in events(answer):
            for choice in event["choices"]:
                text = choice["delta"].get("content") or ""
                if text and first is None:
                    first = time.monotonic() - begun
                sys.stdout.write(text)
                sys.stdout.flush()
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    took = time.monotonic() - begun
    sys.stdout.write("\n")
    sys.stdout.flush()
    return f"the first token after {1000 * (first or took):.0f} ms, all {tokens} after {1000 * took:.0f} ms"


def events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Each server-sent event; an error event, or an end without [DONE], ends the demo."""
    for line in lines:
        payload = line.decode().removeprefix("data: ").strip()
        if payload == "[DONE]":
            return
        if not payload:
            continue
        event: dict[str, Any] = json.loads(payload)
        if "error" in event:
            fail(f"the stream failed: {event['error']}")
        yield event
    fail("the stream ended without [DONE]")


def stop(server: "subprocess.Popen[bytes]") -> int:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    try:
        return server.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        sys.exit(f"bentoml serve did not stop within {STOP_SECONDS} s; the log is {log_path()}")


def report() -> None:
    sizes = [path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file()]
    print(f"package   {PACKAGE.relative_to(ROOT)} ({sum(sizes):,} bytes in {len(sizes)} files)", flush=True)
    subprocess.run([*PACKAGER, "inspect", f"{PACKAGE}.oci"], cwd=ROOT, check=True)


def run(name: str, *argv: str) -> None:
    """Run a command that says itself on standard error why it failed."""
    finished = subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if finished.returncode:
        sys.exit(f"the demo ends here: {name} failed")


def fail(reason: str) -> NoReturn:
    lines = log_path().read_text(errors="replace").splitlines()[-LOG_LINES:]
    sys.exit("\n".join([f"{reason}; the end of {log_path()}:", *lines]))


def log_path() -> Path:
    return OUTPUT / "hello-serve.log"


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def heading(text: str) -> None:
    console.print(f"\n{text}", style="bold", highlight=False, markup=False)


def say(text: str) -> None:
    console.print(text, style="dim", highlight=False, markup=False)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that cannot show a character
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
