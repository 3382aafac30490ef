"""A container registry in a thread: the endpoints of the distribution specification, small but real.

It checks digests, ranges, uploads and rights as a registry does, keeps a list of the requests it got, and
fails on demand. `with FakeRegistry() as registry:` listens on `registry.host` (`127.0.0.1:PORT`).
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

INDEX_TYPES = ("application/vnd.oci.image.index.v1+json",)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    """What happens to the next `times` requests whose `METHOD path` matches `pattern`.

    `status` answers with that status and `headers`; `drop` lets the body through as far as that many bytes,
    then breaks the connection (uploads keep what came).
    """

    pattern: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop: int | None = None
    body: bytes = b""


@dataclass
class Upload:
    repository: str
    data: bytearray = field(default_factory=bytearray)


class FakeRegistry:
    """`auth` is `none`, `basic` or `bearer`; the one account is `user` with `secret`.

    `mounting` False answers a mount with a plain upload, as registries without mounts do; `resumable` False
    forgets uploads that broke; `redirect` is where GET of a blob leads instead (a root URL).
    """

    def __init__(self, auth: str = "none", *, user: str = "ada", secret: str = "s3cret/+") -> None:
        self.auth, self.user, self.secret = auth, user, secret
        self.identity_token = ""
        self.read_only = False
        self.mounting = True
        self.resumable = True
        self.chunk_min = 0
        self.redirect = ""
        self.ranges = True
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.uploads: dict[str, Upload] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.tokens: dict[str, list[str]] = {}
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), self._handler())
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def seen(self, pattern: str) -> list[Request]:
        """The requests whose `METHOD path` matches."""
        return [at for at in self.requests if re.search(pattern, f"{at.method} {at.path}")]

    def put_blob(self, repository: str, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs.setdefault(repository, {})[digest] = data
        return digest

    def put_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        for name in (tag, digest):
            self.manifests.setdefault(repository, {})[name] = (media_type, data)
        return digest

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, f"{method} {path}"):
                    fault.times -= 1
                    return fault
        return None

    def allowed(self, header: str, repository: str, action: str) -> bool:
        if self.auth == "basic":
            return header == "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()
        if self.auth == "bearer":
            scopes = self.tokens.get(header.removeprefix("Bearer "), [])
            rights = [scope.split(":") for scope in scopes]
            return any(name == repository and action in given.split(",") for _, name, given in rights)
        return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(_Handler):
            pass

        Handler.registry = registry
        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that break off are part of the tests."""


class _Broken(Exception):  # noqa: N818
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def serve(self) -> None:
        registry = self.registry
        with registry.lock:
            registry.requests.append(Request(self.command, self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.unread = int(self.headers.get("Content-Length") or 0)
        self.broken = registry.fault(self.command, self.path)
        try:
            if self.broken and self.broken.status:
                self.body()
                return self.answer(self.broken.status, self.broken.body, **self.broken.headers)
            if parts.path == "/token":
                return self.token()
            match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/(uploads/)?([^/]*)", parts.path)
            if match is None:
                return self.answer(404)
            self.repository, kind, upload, name = match[1], match[2], match[3], match[4]
            action = "pull" if self.command in ("GET", "HEAD") and not upload else "push"
            if not registry.allowed(self.headers.get("Authorization", ""), self.repository, action):
                self.body()
                return self.challenge()
            if registry.read_only and action == "push":
                self.body()
                return self.error(403, "DENIED", "read only")
            if upload:
                return self.upload(name)
            return self.manifest(name) if kind == "manifests" else self.blob(name)
        except _Broken:
            self.close_connection = True

    def body(self, sink: Callable[[bytes], object] = lambda _: None) -> None:
        limit = self.broken.drop if self.broken is not None else None
        while self.unread:
            step = min(self.unread, 1 << 16, self.unread if limit is None else max(1, limit))
            data = self.rfile.read(step)
            if not data:
                raise _Broken
            sink(data)
            self.unread -= len(data)
            if limit is not None:
                limit -= len(data)
                if limit <= 0:
                    raise _Broken

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.broken is not None and self.broken.drop is not None and data:
            self.wfile.write(data[: self.broken.drop])
            raise _Broken
        self.wfile.write(data)

    def error(self, status: int, code: str, message: str) -> None:
        self.answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode())

    def challenge(self) -> None:
        realm = f"http://{self.registry.host}/token"
        header = 'Basic realm="fake"' if self.registry.auth == "basic" else f'Bearer realm="{realm}",service="fake"'
        self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}', WWW_Authenticate=header)

    def token(self) -> None:
        registry = self.registry
        if self.command == "POST":
            form = bytearray()
            self.body(form.extend)
            fields = {key: values[0] for key, values in parse_qs(form.decode()).items()}
            scopes = fields["scope"].split(" ")
            known = bool(registry.identity_token) and fields["refresh_token"] == registry.identity_token
        else:
            scopes = self.query.get("scope", [])
            given = self.headers.get("Authorization", "")
            known = given == "Basic " + base64.b64encode(f"{registry.user}:{registry.secret}".encode()).decode()
            if given and not known:
                return self.error(401, "UNAUTHORIZED", "wrong secret")
        if not known:
            scopes = [scope.replace(":pull,push", ":pull") for scope in scopes]
        token = secrets.token_hex(8)
        registry.tokens[token] = scopes
        return self.answer(200, json.dumps({"token": token}).encode())

    def manifest(self, name: str) -> None:
        store = self.registry.manifests.setdefault(self.repository, {})
        if self.command == "PUT":
            data = bytearray()
            self.body(data.extend)
            value = json.loads(data)
            held = self.registry.blobs.get(self.repository, {})
            for row in [value.get("config"), *value.get("layers", ())]:
                if row and row["digest"] not in held:
                    return self.error(400, "MANIFEST_BLOB_UNKNOWN", row["digest"])
            kind = self.headers["Content-Type"]
            digest = self.registry.put_manifest(self.repository, name, bytes(data), kind)
            return self.answer(201, Docker_Content_Digest=digest, Location=f"/v2/{self.repository}/manifests/{digest}")
        if name not in store:
            return self.error(404, "MANIFEST_UNKNOWN", name)
        kind, found = store[name]
        return self.answer(
            200, found, Content_Type=kind, Docker_Content_Digest="sha256:" + hashlib.sha256(found).hexdigest()
        )

    def blob(self, digest: str) -> None:
        data = self.registry.blobs.get(self.repository, {}).get(digest)
        if data is None:
            return self.error(404, "BLOB_UNKNOWN", digest)
        if self.command == "GET" and self.registry.redirect:
            return self.answer(307, Location=f"{self.registry.redirect}{self.path}")
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and self.registry.ranges:
            return self.answer(206, data[int(start[1]) :], Content_Range=f"bytes {start[1]}-/{len(data)}")
        return self.answer(200, data)

    def upload(self, name: str) -> None:
        registry = self.registry
        if self.command == "POST":
            source, digest = self.query.get("from", [""])[0], self.query.get("mount", [""])[0]
            readable = registry.allowed(self.headers.get("Authorization", ""), source, "pull")
            if registry.mounting and readable and digest in registry.blobs.get(source, {}):
                registry.put_blob(self.repository, registry.blobs[source][digest])
                return self.answer(201, Location=f"/v2/{self.repository}/blobs/{digest}")
            name = secrets.token_hex(8)
            registry.uploads[name] = Upload(self.repository)
            least = {"OCI_Chunk_Min_Length": str(registry.chunk_min)} if registry.chunk_min else {}
            return self.answer(202, Location=self.location(name), **least)
        upload = registry.uploads.get(name)
        stale = upload is not None and self.query.get("state") != [str(len(upload.data))]
        if upload is None or (stale and self.command not in ("DELETE", "GET")):
            self.body()
            return self.error(404, "BLOB_UPLOAD_UNKNOWN", name)
        if self.command == "DELETE":
            del registry.uploads[name]
            return self.answer(204)
        if self.command == "GET":
            return self.answer(204, Range=f"0-{max(0, len(upload.data) - 1)}", Location=self.location(name))
        try:
            if self.command == "PATCH":
                first = self.headers.get("Content-Range", "0-").partition("-")[0]
                if int(first) != len(upload.data):
                    self.body()
                    return self.error(416, "BLOB_UPLOAD_INVALID", f"have {len(upload.data)}")
            self.body(upload.data.extend)
        except _Broken:
            if not registry.resumable:
                registry.uploads.pop(name, None)
            raise
        if self.command == "PATCH":
            return self.answer(202, Range=f"0-{len(upload.data) - 1}", Location=self.location(name))
        digest = self.query.get("digest", [""])[0]
        del registry.uploads[name]
        if "sha256:" + hashlib.sha256(upload.data).hexdigest() != digest:
            return self.error(400, "DIGEST_INVALID", digest)
        registry.put_blob(self.repository, bytes(upload.data))
        return self.answer(201, Location=f"/v2/{self.repository}/blobs/{digest}", Docker_Content_Digest=digest)

    def location(self, name: str) -> str:
        """Relative, and with a state that must come back, as registries do."""
        return f"/v2/{self.repository}/blobs/uploads/{name}?state={len(self.registry.uploads[name].data)}"
