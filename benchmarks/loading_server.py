"""The other side of loading.py: one server that answers every loader, as fast as the standard library allows.

python loading_server.py FOLDER LISTING [--limit BYTES]

FOLDER holds a folder for each set of files, LISTING (JSON) their digests: `{set: [{path, size, sha256}]}`. It prints
its port, and ends when its standard input does. `/SET/PATH` are plain files, with ranges; the routes of the Hugging
Face Hub give each set as the model `bench/SET`, without the redirect to a store that the real one makes.
The kernel sends the files (sendfile); there is a thread for each connection, in as many processes as cores.
`--limit` is the most bytes a second of one connection.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

REVISION = "0123456789abcdef0123456789abcdef01234567"
"""The commit that each model stands at."""
_MOST_HEAD = 64 * 1024
_PACES = 100
"""How many portions a second a limited connection is given at most."""
_LEAST_PORTION = 16 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent: the head, and then these bytes or bytes `start` to `stop` of this file."""

    status: str
    headers: Mapping[str, str]
    body: bytes = b""
    file: Path | None = None
    start: int = 0
    stop: int = 0

    def head(self) -> bytes:
        length = self.stop - self.start if self.file is not None else len(self.body)
        lines = [f"HTTP/1.1 {self.status}", f"Content-Length: {length}"]
        return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in self.headers.items()), "\r\n"]).encode()


_MISSING = Answer("404 Not Found", {})


class Site:
    """What is served, and under which addresses."""

    def __init__(self, folder: Path, listing: Mapping[str, list[dict[str, Any]]]) -> None:
        self._folder = folder
        self._files = {f"{name}/{one['path']}": one for name, files in listing.items() for one in files}
        self._listing = listing
        self._trees = {name: json.dumps([_entry(one) for one in files]).encode() for name, files in listing.items()}

    def answer(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        if path.startswith("/api/models/bench/"):
            return self._model(path.removeprefix("/api/models/bench/"))
        if path.startswith("/bench/"):  # /bench/SET/resolve/REVISION/PATH
            name, _, rest = path.removeprefix("/bench/").partition("/resolve/")
            return self._file(f"{name}/{rest.partition('/')[2]}", request)
        return self._file(path[1:], request)

    def _model(self, rest: str) -> Answer:
        name, _, what = rest.partition("/")
        if name not in self._listing:
            return _MISSING
        value = self._trees[name] if what.startswith("tree/") else self._info(name)
        return Answer("200 OK", {"Content-Type": "application/json", "X-Repo-Commit": REVISION}, value)

    def _info(self, name: str) -> bytes:
        siblings = [{"rfilename": one["path"]} for one in self._listing[name]]
        return json.dumps({"id": f"bench/{name}", "modelId": name, "sha": REVISION, "siblings": siblings}).encode()

    def _file(self, path: str, request: Request) -> Answer:
        found = self._files.get(unquote(path))
        if found is None:
            return _MISSING
        size = found["size"]
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "ETag": f'"{found["sha256"]}"',
            "X-Repo-Commit": REVISION,
            "X-Linked-Etag": f'"{found["sha256"]}"',
            "X-Linked-Size": str(size),
        }
        file = self._folder / unquote(path)
        asked = request.headers.get(b"range")
        if asked is None:
            return Answer("200 OK", headers, file=file, stop=size)
        start, stop = _range(asked, size)
        if start >= stop:
            return Answer("416 Range Not Satisfiable", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Answer("206 Partial Content", headers, file=file, start=start, stop=stop)


def _entry(file: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a model's tree: every file is stored by its sha256, as all weights on the hub are."""
    lfs = {"oid": file["sha256"], "size": file["size"], "pointerSize": 134}
    return {"type": "file", "path": file["path"], "size": file["size"], "oid": file["sha256"][:40], "lfs": lfs}


def _range(asked: bytes, size: int) -> tuple[int, int]:
    """Start and stop of the one range that is asked for."""
    first, _, last = asked.decode().removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


class Connection:
    """One client's connection, answered until it leaves."""

    def __init__(self, client: socket.socket, site: Site, limit: int) -> None:
        self._client, self._site, self._limit = client, site, limit
        self._held = b""
        self._due = 0.0

    def run(self) -> None:
        try:
            with self._client:
                self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while (request := self._next()) is not None:
                    self._give(self._site.answer(request), body=request.method != "HEAD")
                    if request.headers.get(b"connection", b"").lower() == b"close":
                        return
        except OSError:  # it left
            return

    def _next(self) -> Request | None:
        while b"\r\n\r\n" not in self._held:
            data = self._client.recv(_MOST_HEAD)
            if not data:
                return None
            self._held += data
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, path, _ = first.decode().split(" ")
        pairs = (line.partition(b":") for line in lines)
        return Request(method, path, {name.strip().lower(): value.strip() for name, _, value in pairs})

    def _give(self, answer: Answer, *, body: bool) -> None:
        head = answer.head()
        if not body or answer.file is None:
            self._client.sendall(head + (answer.body if body else b""))
            return
        self._client.sendall(head, socket.MSG_MORE)
        file = os.open(answer.file, os.O_RDONLY)
        try:
            start = answer.start
            while start < answer.stop:
                portion = min(answer.stop - start, self._portion())
                start += os.sendfile(self._client.fileno(), file, start, portion)
        finally:
            os.close(file)

    def _portion(self) -> int:
        """How much may be sent now; waits until it may, where connections are limited."""
        if not self._limit:
            return sys.maxsize
        portion = max(self._limit // _PACES, _LEAST_PORTION)
        now = time.monotonic()
        if self._due > now:
            time.sleep(self._due - now)
        self._due = max(self._due, now) + portion / self._limit
        return portion


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("listing", type=Path)
    parser.add_argument("--limit", type=int, default=0, help="bytes a second of one connection")
    options = parser.parse_args()
    site = Site(options.folder, json.loads(options.listing.read_bytes()))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        for _ in range(len(os.sched_getaffinity(0)) - 1):
            if os.fork() == 0:
                break
        threading.Thread(target=_end_with_input, daemon=True).start()
        while True:
            client, _ = listening.accept()
            connection = Connection(client, site, options.limit)
            threading.Thread(target=connection.run, daemon=True).start()


if __name__ == "__main__":
    main()
