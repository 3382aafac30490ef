"""Servers for tests, on real sockets: the app in a thread, or a package in a process of its own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Self

import httpx
import psutil
import uvicorn
import uvloop

from packager.manifest import EngineManifest, Manifest, ServingManifest
from packager.runtime.load import open_package
from packager.runtime.serve import server_config
from packager.runtime.server.bounds import Bounds
from packager.runtime.server.keys import ApiKeys
from packager.runtime.supervise import Supervisor
from packager.store import Store

from .machine import free_port
from .packages import make_package, make_serving

PATIENCE = 120.0
"""Seconds to wait for something that must come, on a machine that stands still now and then."""
ANSWER = 30.0
"""Seconds to wait for one answer: a server that is about to end may give none."""


_SERVING = {field.name for field in fields(ServingManifest)}


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.01)


def make_manifest(engine: str = "echo", **serving: int) -> Manifest:
    return Manifest("hello", "0", EngineManifest(engine, "1", {}), None, make_serving(**serving))


class ThreadServer:
    """The app under uvicorn as our runner has it, in a thread, on a free port."""

    def __init__(self, supervisor: Supervisor, keys: ApiKeys | None = None, bounds: Bounds | None = None) -> None:
        self.supervisor = supervisor
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(server_config(supervisor, keys, bounds))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, "uvicorn starts")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def call_soon(self, work: Callable[[], object]) -> None:
        """Do this on the server's event loop."""
        self._loop.call_soon_threadsafe(work)

    def tasks(self) -> int:
        """How many tasks the server's event loop has."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result()

    def stop_supervisor(self) -> None:
        asyncio.run_coroutine_threadsafe(self.supervisor.stop(), self._loop).result()

    def wait_ready(self) -> "ThreadServer":
        wait_until(lambda: self.supervisor.ready, "the engine is ready")
        return self

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve(sockets=[self._socket]))


def thread_server(
    folder: Path, *, keys: ApiKeys | None = None, bounds: Bounds | None = None, **options: object
) -> ThreadServer:
    """The app for a package with the echo engine, with these fields of ServingManifest and options of the engine."""
    serving = {name: options.pop(name) for name in _SERVING & options.keys()}
    package = make_package(folder / "package", options=options, vendored=False, **serving)
    return ThreadServer(open_package(package, Store(folder / "cache")), keys, bounds)


class ProcessServer:
    """A package served by a process: our own runner, or `bentoml serve`."""

    def __init__(self, folder: Path, runner: str = "packager", *, port: int = 0, **environ: str) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.port = port
        command = _own(folder, port) if runner == "packager" else _bento(self)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environ(folder) | environ,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        if not self.port:
            wait_until(lambda: bool(self.events("listening")) or not self._running(), "the server listens")
            assert self.events("listening"), self.output()
            self.port = self.events("listening")[0]["port"]
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # BentoML's worker leads a session of its own: killing the parent alone would leave it behind. Stopped first,
        # the parent starts no other one meanwhile, which would hold the pipe that is read to its end here.
        if self._running():
            self.process.send_signal(signal.SIGSTOP)
            for process in self.family():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def family(self) -> list[psutil.Process]:
        """The process and all below it."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def memory(self) -> int:
        """Bytes that the processes hold resident."""
        return sum(process.memory_info().rss for process in self.family())

    def files(self) -> int:
        """File descriptors that the processes hold, sockets among them."""
        return sum(process.num_fds() for process in self.family())

    def wait_ready(self) -> "ProcessServer":
        wait_until(lambda: self.status("/readyz") == 200 or not self._running(), "the server is ready")
        assert self._running(), self.output()
        return self

    def wait_exit(self) -> int:
        """The exit status. All output has been read."""
        status = self.process.wait(PATIENCE * 2)
        self._reader.join()
        return status

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def status(self, path: str) -> int:
        """The status of a GET, 0 when nobody answers."""
        try:
            return httpx.get(self.url + path, timeout=ANSWER).status_code
        except httpx.TransportError:
            return 0

    def metric(self, name: str) -> float:
        text = httpx.get(self.url + "/metrics", timeout=PATIENCE).text
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])

    def events(self, name: str) -> list[dict]:
        """Our own log records with this name."""
        records = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [record for record in records if record.get("event") == name]

    def output(self) -> str:
        return "".join(self.lines)

    def _running(self) -> bool:
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


def _own(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "packager_runtime.runtime", "serve", str(folder), "--port", str(port)]


def _bento(server: ProcessServer) -> list[str]:
    server.port = free_port()
    return [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(server.port)]


def _environ(folder: Path) -> dict[str, str]:
    private = folder.parent / f"{folder.name}-home"
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # see the Makefile
    return libraries | {
        "PATH": os.environ["PATH"],
        "HOME": str(private),
        "PACKAGER_CACHE": str(private / "cache"),
        "PYTHONPATH": str(folder / "packages"),
        "PYTHONUNBUFFERED": "1",
        # As in our images. On Python 3.13 BentoML's usage report also keeps a server that failed from ending.
        "BENTOML_DO_NOT_TRACK": "True",
    }
