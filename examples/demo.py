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
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "dist"
PACKAGE = OUTPUT / "hello"
VENV = ROOT / ".venv-hello"
QUESTION = "What is the with statement?"
READY_SECONDS = 180
STOP_SECONDS = 60

console = Console(stderr=True)


def main() -> None:
    heading("1. build the package and the image (no Docker, no root)")
    built = json.loads(run(sys.executable, "-m", "packager", "build", "hello", "--output", str(OUTPUT), "--json"))
    heading("2. an environment with the package's requirements.txt and nothing else")
    make_environment()
    heading("3. cd dist/hello && bentoml serve")
    port = free_port()
    server = start_server(port)
    try:
        wait_until_ready(server, port)
        heading(f"4. ask: {QUESTION}")
        tokens, seconds = stream_answer(port)
    finally:
        code = stop(server)
    console.print(f"[dim]{tokens} tokens in {seconds:.1f} s; the server stopped with exit code {code}[/dim]")
    heading("5. what was built")
    report(built)
    if code != 0:
        sys.exit(f"bentoml serve ended with {code}; its log is {log_path()}")


def make_environment() -> None:
    """A venv with the package's pinned requirements; kept between runs."""
    stamp, wanted = VENV / ".requirements", (PACKAGE / "requirements.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        console.print("[dim]already there[/dim]")
        return
    run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV))
    with console.status("installing with pip, every wheel checked against its sha256"):
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(VENV / "bin/python"))
        run(*pip, "install", "--quiet", "--require-hashes", "-r", str(PACKAGE / "requirements.txt"))
    stamp.write_text(wanted)


def start_server(port: int) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"BENTOML_DO_NOT_TRACK": "True", "PATH": f"{VENV / 'bin'}:{env.get('PATH', '')}"}
    with log_path().open("wb") as log:
        return subprocess.Popen(
            [VENV / "bin/bentoml", "serve", "--port", str(port)], cwd=PACKAGE, env=env, stdout=log, stderr=log
        )


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with console.status("waiting for /readyz") as status:
        while time.monotonic() < deadline:
            if server.poll() is not None:
                sys.exit(f"bentoml serve ended with {server.returncode} before it was ready:\n{log_path().read_text()}")
            answer = probe(port)
            if answer == 200:
                console.print("[dim]ready[/dim]")
                return
            status.update(f"waiting for /readyz ({answer or 'not listening yet'})")
            time.sleep(0.2)
    sys.exit(f"not ready after {READY_SECONDS} s; the log is {log_path()}")


def probe(port: int) -> int | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def stream_answer(port: int) -> tuple[int, float]:
    """Print the answer as it comes; the number of chunks and the seconds they took."""
    body = {"model": "hello", "stream": True, "max_tokens": 120, "temperature": 0.7, "seed": 7}
    body["messages"] = [{"role": "user", "content": QUESTION}]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    count, start = 0, time.monotonic()
    with urllib.request.urlopen(request, timeout=120) as answer:
        for text in deltas(answer):
            count += bool(text)
            sys.stdout.write(text)
            sys.stdout.flush()
    sys.stdout.write("\n")
    return count, time.monotonic() - start


def deltas(lines: Iterator[bytes]) -> Iterator[str]:
    """The text of each server-sent event; an error event, or an end without [DONE], ends the demo."""
    for line in lines:
        payload = line.decode().removeprefix("data: ").strip()
        if payload == "[DONE]":
            return
        if not payload:
            continue
        event = json.loads(payload)
        if "error" in event:
            sys.exit(f"the stream failed: {event['error']}")
        for choice in event["choices"]:
            yield choice["delta"].get("content") or ""
    sys.exit("the stream ended without [DONE]")


def stop(server: "subprocess.Popen[bytes]") -> int:
    server.send_signal(signal.SIGTERM)
    try:
        return server.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        sys.exit(f"bentoml serve did not stop within {STOP_SECONDS} s; the log is {log_path()}")


def report(built: dict[str, object]) -> None:
    for name in ("reference", "manifest_digest", "config_digest", "package", "layout"):
        console.print(f"{name:16} {built[name]}", highlight=False, soft_wrap=True)
    console.print(
        f"{'image size':16} {built['size']:,} bytes in {built['layers']} layers", highlight=False, soft_wrap=True
    )


def run(*argv: str) -> str:
    finished = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    return finished.stdout


def log_path() -> Path:
    return OUTPUT / "hello-serve.log"


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
