"""The other side of the comparison: a Docker Engine, a registry, and a package index that serves from loopback.

Everything started here is ended here, by its own process.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from measure import ROOT, BenchmarkError, Spent, free_port, measure, run, tree_cpu

_START_SECONDS = 60.0
_CLIENTS = ("/usr/bin/docker", "docker")


@dataclass(frozen=True, slots=True)
class Engine:
    """A Docker Engine that answers, and the client that can build on it with BuildKit.

    `pid` is the daemon's where this script started it: then its processor seconds are known too.
    """

    host: str
    client: str
    pid: int | None

    @property
    def env(self) -> dict[str, str]:
        """The environment that the client runs in."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}

    def __call__(self, *argv: str | Path) -> str:
        """What the client says; not measured."""
        return run([self.client, *argv], env=self.env).strip()

    def measure(self, *argv: str | Path) -> Spent:
        """What the client, the daemon and its containers spend on a command."""
        return measure([self.client, *argv], env=self.env, others=self.cpu)[0]

    def cpu(self) -> float | None:
        """Processor seconds of the daemon and all its children so far, where the daemon is ours."""
        return None if self.pid is None else tree_cpu(self.pid)

    def version(self) -> str:
        """Of the engine."""
        return self("version", "--format", "{{.Server.Version}}")


@contextmanager
def engine(work: Path) -> Iterator[Engine | str]:
    """The engine that DOCKER_HOST names, else one of our own; a text says why there is none."""
    given = os.environ.get("DOCKER_HOST")
    if given:
        yield _with_client(given, None)
        return
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None or os.geteuid() != 0:
        reason = "there is no dockerd to start" if program is None else "only root can start dockerd"
        yield f"no Docker Engine: DOCKER_HOST is not set, and {reason}"
        return
    host = f"unix://{work / 'docker.sock'}"
    argv = [program, "--data-root", str(work / "docker"), "--exec-root", str(work / "exec"), "-p", str(work / "pid")]
    argv += ["-H", host, "--bridge=none", "--iptables=false", "--ip6tables=false"]
    with (work / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield _wait_for(host, process) or f"no Docker Engine: dockerd did not start ({_last(work / 'dockerd.log')})"
    finally:
        process.terminate()
        process.wait()


def _wait_for(host: str, process: "subprocess.Popen[bytes]") -> Engine | str | None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if Path(host.removeprefix("unix://")).exists():
            found = _with_client(host, process.pid)
            if isinstance(found, Engine):
                return found
        time.sleep(0.3)
    return None


def _with_client(host: str, pid: int | None) -> Engine | str:
    """The first client that builds with BuildKit there: newer ones need a plugin that is often not installed."""
    said = "no docker client is installed"
    for name in _CLIENTS:
        client = shutil.which(name)
        if client is None:
            continue
        found = Engine(host, client, pid)
        done = subprocess.run(
            [client, "build", "-"],
            input=b"FROM scratch\nLABEL probe=1\n",
            env=found.env,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return found
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1]
    return f"no Docker Engine with BuildKit: {said}"


def base_images(found: Engine, layout: Path, context: Path) -> Mapping[str, str]:
    """Build Dockerfile.base from the base in `layout`; the build arguments that a package's Dockerfile takes."""
    run([sys.executable, ROOT / ".ci/docker_base.py", layout, context])
    names = {"UV": "packager-bench-uv", "BASE": "packager-bench-base"}
    for argument, name in names.items():
        target = argument.lower()
        found("build", "--target", target, "--tag", name, "--file", ROOT / "Dockerfile.base", context)
    return names


@contextmanager
def wheel_index(wheels: Mapping[str, tuple[str, Path]], folder: Path) -> Iterator[str]:
    """A package index on loopback: `wheels` maps file names to project and file.

    As the large public ones do, it gives each wheel's metadata as a file of its own (PEP 658), so that uv
    need not read wheels to resolve. The wheels are links to where they lie.
    """
    pages: dict[str, list[str]] = {}
    for file, (project, path) in sorted(wheels.items()):
        (folder / project).mkdir(parents=True, exist_ok=True)
        (folder / project / file).symlink_to(path)
        (folder / project / f"{file}.metadata").write_bytes(_metadata(path))
        pages.setdefault(project, []).append(f'<a href="{file}" data-core-metadata="true">{file}</a><br>')
    for project, links in pages.items():
        (folder / project / "index.html").write_text(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>")
    with _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
        return archive.read(names[0])


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that leaves is no news."""


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as every index does

    def log_message(self, *_: object) -> None:
        return

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """The kernel copies: the index must not be what takes the time."""
        outputfile.flush()
        self.connection.sendfile(source)


@dataclass(frozen=True, slots=True)
class Registry:
    """A container registry on loopback: `HOST:PORT` and the folder it stores in."""

    name: str
    data: Path


@contextmanager
def registry(folder: Path) -> Iterator[Registry | str]:
    """A new, empty registry (Debian's docker-registry); a text says why there is none."""
    program = shutil.which("docker-registry")
    if program is None:
        yield "no docker-registry on PATH"
        return
    folder.mkdir(parents=True)
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"docker-registry did not start: {_last(folder / 'log')}")
            time.sleep(0.05)
        yield Registry(f"127.0.0.1:{port}", folder / "data")
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
