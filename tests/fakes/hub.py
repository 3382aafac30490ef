"""A Hugging Face hub on loopback that the real client (huggingface_hub 2.4) works against, unchanged.

    with Hub() as hub:
        commit = hub.add_repo("ada/model", {"config.json": b"{}", "model.safetensors": data}, lfs=("*.safetensors",))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

Branches, tags and commits; private and gated repositories; listings in pages; `/resolve/` sends whoever asks for a
large file on to `hub.cdn`, another origin, where an address holds until `hub.expire()` and an Authorization header is
an error. Small files come by way of `/api/resolve-cache/`, on the hub itself. Upload: creating a repository, preupload,
LFS batch (in one part, or in parts of `part` bytes), commit.

Not offered is Xet, which is a store of chunks behind an address and a token of its own. A client fetches by it where
`/resolve/` (X-Xet-Hash) or a listing (xetHash) names a file's Xet hash, which this hub never does; but large files it
uploads by nothing else while hf_xet is installed. HF_HUB_DISABLE_XET=1 stops that, if it is set before the client is
imported: importing this module sees to it, and a subprocess inherits it.
"""

import base64
import fnmatch
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from fakes.web import Fault, Status, Web
from fakes.web import Request as CdnRequest

os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
# Else the client asks the hub that it knew when it was imported for a list of coding agents.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

LARGE = 10 << 20
"""Bytes from which the hub wants a file by LFS, whatever its name."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: `path` with its query, header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a commit."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob(self) -> str:
        """What git calls it: the sha1 of its bytes, of an LFS file those of its pointer."""
        data = self.data
        if self.lfs:
            size = len(data)
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def pointer(self) -> dict[str, Any]:
        return {"size": len(self.data), "pointerSize": 134} if self.lfs else {}


@dataclass
class Repo:
    """`token` is whose it is: None lets in whoever has one. Branches and tags lead to commits."""

    name: str
    lfs: Sequence[str] = ()
    private: bool = False
    gated: bool = False
    token: str | None = None
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def large(self, path: str, size: int) -> bool:
        return size >= LARGE or any(fnmatch.fnmatchcase(path, pattern) for pattern in self.lfs)


class Refused(Exception):  # noqa: N818
    """An answer that is an error, in the hub's own words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class Hub:
    """`page` entries make a page of a listing; files above `part` bytes are uploaded in such parts.

    `tokens` are those it knows, each an account's. `faults` is asked at each request to the hub, `cdn_faults` at each
    to the other origin that has a good address.
    """

    def __init__(self, *, page: int = 1000, part: int | None = None) -> None:
        self.page, self.part = page, part
        self.tokens: set[str] = set()
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: Callable[[Request], Status | None] = lambda _: None
        self.cdn_faults: Callable[[CdnRequest], Fault | None] = lambda _: None
        self.cdn = Web()
        self.cdn.faults = self._check
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self._signature = 0
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self.cdn.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.cdn.__exit__()

    def add_repo(
        self,
        name: str,
        files: Mapping[str, bytes] | None = None,
        *,
        lfs: Sequence[str] = (),
        private: bool = False,
        gated: bool = False,
        token: str | None = None,
    ) -> str:
        """The first commit of a new repository."""
        if token is not None:
            self.tokens.add(token)
        self.repos[name] = Repo(name, lfs, private, gated, token)
        return self.commit(name, files or {})

    def commit(self, name: str, changes: Mapping[str, bytes | None], branch: str = "main") -> str:
        """A commit on `branch`, which begins at main's end; None takes a file away."""
        repo = self.repos[name]
        entries = {
            path: None if data is None else Entry(data, repo.large(path, len(data))) for path, data in changes.items()
        }
        return self.append(repo, branch, entries)

    def append(self, repo: Repo, branch: str, changes: Mapping[str, Entry | None]) -> str:
        with self.lock:
            parent = repo.branches.get(branch, repo.branches.get("main", ""))
            files = {**repo.commits.get(parent, {}), **changes}
            kept = {path: entry for path, entry in sorted(files.items()) if entry is not None}
            what = [repo.name, parent, len(repo.commits), [[path, entry.sha256] for path, entry in kept.items()]]
            commit = hashlib.sha1(json.dumps(what).encode()).hexdigest()
            repo.commits[commit] = kept
            repo.branches[branch] = commit
            self.cdn.files.update({entry.sha256: entry.data for entry in kept.values() if entry.lfs})
        return commit

    def expire(self) -> None:
        """No address that was signed until now is good any longer."""
        self._signature += 1

    def sign(self, sha256: str) -> str:
        return f"{self.cdn.url}/{sha256}?Expires=3600&Signature={self._signature}"

    def _check(self, request: CdnRequest) -> Fault | None:
        if "authorization" in request.headers:
            return Status(400, body=b"Only one auth mechanism allowed")
        if parse_qs(urlsplit(request.path).query).get("Signature") != [str(self._signature)]:
            return Status(403, body=b"Request has expired")
        return self.cdn_faults(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that break off are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.hub
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        with hub.lock:
            hub.requests.append(request)
        self.data = self.body()
        if (fault := hub.faults(request)) is not None:
            self.answer(fault.code, fault.body, fault.headers)
            return
        address = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(address.query).items()}
        try:
            self.route(address.path)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            self.tell({"error": refused.message}, refused.status, {**headers, "X-Error-Message": refused.message})

    def route(self, path: str) -> None:
        for methods, pattern, route in ROUTES:
            if self.command in methods and (match := re.fullmatch(pattern, path)):
                return route(self, *(unquote(group or "") for group in match.groups()))
        raise Refused(404, "", f"no route {self.command} {path}")

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = bytearray()
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(data)

    def answer(self, status: int, data: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def tell(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    # Who may what.

    def token(self) -> str:
        """The token that came, if any. Raises Refused for one that is nobody's."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return token

    def repo(self, name: str, *, to: str = "list") -> Repo:
        """The repository, if whoever asks may `list`, `read` or `write` it. Lists of gated ones are public."""
        token, repo = self.token(), self.hub.repos.get(name)
        mine = repo is not None and bool(token) and repo.token in (None, token)
        if repo is None or (repo.private and not mine):
            if token:
                raise Refused(404, "RepoNotFound", "Repository not found")
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        if repo.gated and to == "read" and not mine:
            message = (
                f"Access to model {name} is restricted. You must have access to it and be authenticated to access it."
            )
            raise Refused(403 if token else 401, "GatedRepo", message)
        if to == "write" and not mine:
            raise Refused(403 if token else 401, "", "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def found(self, repo: Repo, revision: str) -> str:
        """The commit that a branch, a tag or a commit means."""
        revision = revision or "main"
        commit = repo.branches.get(revision) or repo.tags.get(revision) or revision
        if commit not in repo.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # Listing.

    def info(self, name: str, revision: str) -> None:
        repo = self.repo(name)
        commit = self.found(repo, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in repo.commits[commit]]
        if self.query.get("blobs") == "true":
            for sibling, entry in zip(siblings, repo.commits[commit].values(), strict=True):
                sibling.update({"size": len(entry.data), "blobId": entry.blob})
                sibling.update({"lfs": {**entry.pointer, "sha256": entry.sha256}} if entry.lfs else {})
        gated = "manual" if repo.gated else False
        about = {"id": name, "modelId": name, "sha": commit, "private": repo.private, "gated": gated, "disabled": False}
        self.tell({**about, "siblings": siblings, "tags": [], "lastModified": "2026-11-20T12:00:00.000Z"})

    def auth_check(self, name: str) -> None:
        self.repo(name, to="read")
        self.tell({})

    def refs(self, name: str) -> None:
        repo = self.repo(name)
        kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
        found = {
            kind: [{"name": one, "ref": f"refs/{part}/{one}", "targetCommit": at} for one, at in refs.items()]
            for kind, (part, refs) in kinds.items()
        }
        self.tell({**found, "converts": []})

    def tree(self, name: str, revision: str, folder: str) -> None:
        repo = self.repo(name)
        files = repo.commits[self.found(repo, revision)]
        start = f"{folder}/" if folder else ""
        within = {path: entry for path, entry in files.items() if path.startswith(start)}
        if folder and not within:
            raise Refused(404, "EntryNotFound", f'"{folder}" does not exist on "{revision}"')
        rows = [*_folders(within, start), *(_row(path, entry) for path, entry in within.items())]
        if self.query.get("recursive") != "true":
            rows = [row for row in rows if "/" not in row["path"].removeprefix(start)]
        first = int(self.query.get("cursor", "0"))
        headers = {}
        if first + self.hub.page < len(rows):
            query = f"recursive={self.query['recursive']}&cursor={first + self.hub.page}"
            headers = {"Link": f'<{self.hub.url}{urlsplit(self.path).path}?{query}>; rel="next"'}
        self.tell(sorted(rows, key=lambda row: row["path"])[first : first + self.hub.page], headers=headers)

    # Reading.

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.repo(name, to="read")
        commit = self.found(repo, revision)
        entry = self.entry(repo, commit, path)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.blob}"'}
        if entry.lfs:
            linked = {"X-Linked-Size": str(len(entry.data)), "X-Linked-Etag": f'"{entry.sha256}"'}
            self.answer(302, headers={**headers, **linked, "Location": self.hub.sign(entry.sha256)})
        else:
            cached = f"/api/resolve-cache/models/{name}/{commit}/{quote(path, safe='')}"
            self.answer(307, headers={**headers, "Location": cached})

    def cached(self, name: str, commit: str, path: str) -> None:
        entry = self.entry(self.repo(name, to="read"), commit, path)
        size = len(entry.data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.blob}"', "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match[1]), min(size, int(match[2] or size) + 1)
            if start >= stop:
                self.answer(416, headers={"Content-Range": f"bytes */{size}"})
            else:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
                self.answer(206, entry.data[start:stop], headers)
        else:
            self.answer(200, entry.data, headers)

    def entry(self, repo: Repo, commit: str, path: str) -> Entry:
        if path not in repo.commits[commit]:
            raise Refused(404, "EntryNotFound", "Entry not found")
        return repo.commits[commit][path]

    # Uploading.

    def create(self) -> None:
        asked, token = json.loads(self.data), self.token()
        if not token:
            raise Refused(401, "", "Invalid username or password.")
        name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repos:
            self.tell({**url, "error": "You already created this model repo"}, 409)
            return
        private = asked.get("visibility") == "private"
        self.hub.add_repo(
            name, {".gitattributes": b""}, lfs=("*.safetensors", "*.gguf", "*.bin"), private=private, token=token
        )
        self.tell(url)

    def branch(self, name: str, branch: str) -> None:
        repo = self.repo(name, to="write")
        if branch in repo.branches:
            raise Refused(409, "", f"Reference already exists: {branch}")
        start = json.loads(self.data or b"{}").get("startingPoint", "main")
        repo.branches[branch] = self.found(repo, start)
        self.tell({})

    def whoami(self) -> None:
        if not self.token():
            raise Refused(401, "", "Invalid username or password.")
        self.tell({"type": "user", "name": "ada", "orgs": [], "auth": {"type": "access_token"}})

    def accept(self) -> None:
        self.tell({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        repo = self.repo(name, to="write")
        present = repo.commits[self.found(repo, revision)]
        files = []
        for asked in json.loads(self.data)["files"]:
            path, entry = asked["path"], present.get(asked["path"])
            mode = "lfs" if repo.large(path, asked["size"]) else "regular"
            file = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            files.append({**file, "oid": entry.sha256 if entry.lfs else entry.blob} if entry else file)
        self.tell({"files": files})

    def batch(self, name: str) -> None:
        self.repo(name, to="write")
        found = []
        for asked in json.loads(self.data)["objects"]:
            oid, size, part = asked["oid"], asked["size"], self.hub.part
            href, actions = f"{self.hub.url}/upload/{oid}", {}
            if oid not in self.hub.cdn.files and part is not None and size > part:
                parts = {str(number + 1): f"{href}/{number + 1}" for number in range(-(-size // part))}
                actions = {"upload": {"href": href, "header": {"chunk_size": str(part), **parts}}}
            elif oid not in self.hub.cdn.files:
                verify = f"{self.hub.url}/{name}.git/info/lfs/objects/verify"
                actions = {"upload": {"href": href}, "verify": {"href": verify}}
            found.append({"oid": oid, "size": size, **({"actions": actions} if actions else {})})
        self.tell({"transfer": "basic" if self.hub.part is None else "multipart", "objects": found})

    def verify(self, name: str) -> None:
        self.repo(name, to="write")
        asked = json.loads(self.data)
        if len(self.hub.cdn.files.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "", "the object is not there")
        self.tell({})

    def put(self, oid: str) -> None:
        self.keep(oid, self.data)
        self.answer(200)

    def put_part(self, oid: str, number: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(number)] = self.data
        self.answer(200, headers={"ETag": f'"{hashlib.md5(self.data).hexdigest()}"'})

    def complete(self, oid: str) -> None:
        parts = self.hub.parts.pop(oid)
        named = {part["partNumber"]: part["etag"] for part in json.loads(self.data)["parts"]}
        if named != {number: f'"{hashlib.md5(data).hexdigest()}"' for number, data in parts.items()}:
            raise Refused(400, "", "the parts are others")
        self.keep(oid, b"".join(parts[number] for number in sorted(parts)))
        self.tell({"success": True})

    def keep(self, oid: str, data: bytes) -> None:
        if "Authorization" in self.headers:
            raise Refused(400, "", "Only one auth mechanism allowed")
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "", "the bytes are others than their sha256 says")
        self.hub.cdn.files[oid] = data

    def write(self, name: str, revision: str) -> None:
        repo, branch = self.repo(name, to="write"), revision or "main"
        present, changes = repo.commits[self.found(repo, branch)], {}
        for line in self.data.splitlines():
            kind, value = (item := json.loads(line))["key"], item["value"]
            if kind == "header" and value.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
                raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
            changes.update(self.change(kind, value, present))
        commit = self.hub.append(repo, branch, changes)
        about = {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"}
        self.tell({**about, "hookOutput": ""})

    def change(self, kind: str, value: Mapping[str, str], present: Iterable[str]) -> dict[str, Entry | None]:
        match kind:
            case "file":
                return {value["path"]: Entry(base64.b64decode(value["content"]), lfs=False)}
            case "lfsFile":
                data = self.hub.cdn.files.get(value["oid"])
                if not isinstance(data, bytes):
                    raise Refused(
                        400,
                        "",
                        f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {value['path']}",
                    )
                return {value["path"]: Entry(data, lfs=True)}
            case "deletedFile":
                return {value["path"]: None}
            case "deletedFolder":
                return {path: None for path in present if path.startswith(value["path"].rstrip("/") + "/")}
        return {}


def _row(path: str, entry: Entry) -> dict[str, Any]:
    row = {"type": "file", "oid": entry.blob, "size": len(entry.data), "path": path}
    return {**row, "lfs": {**entry.pointer, "oid": entry.sha256}} if entry.lfs else row


def _folders(paths: Iterable[str], start: str) -> list[dict[str, Any]]:
    """The folders below `start` that hold any of `paths`."""
    parts = [path.removeprefix(start).split("/")[:-1] for path in paths]
    names = {start + "/".join(one[: depth + 1]) for one in parts for depth in range(len(one))}
    return [
        {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name} for name in names
    ]


_REPO = "([^/]+/[^/]+)"
ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., None]], ...] = (
    (("GET",), f"/api/models/{_REPO}(?:/revision/([^/]+))?", _Handler.info),
    (("GET",), f"/api/models/{_REPO}/auth-check", _Handler.auth_check),
    (("GET",), f"/api/models/{_REPO}/refs", _Handler.refs),
    (("GET",), f"/api/models/{_REPO}/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    (("GET", "HEAD"), f"/{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (("GET", "HEAD"), f"/api/resolve-cache/models/{_REPO}/([^/]+)/(.+)", _Handler.cached),
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), f"/api/models/{_REPO}/branch/([^/]+)", _Handler.branch),
    (("POST",), "/api/validate-yaml", _Handler.accept),
    (("POST",), f"/api/models/{_REPO}/preupload/([^/]+)", _Handler.preupload),
    (("POST",), f"/{_REPO}\\.git/info/lfs/objects/batch", _Handler.batch),
    (("POST",), f"/{_REPO}\\.git/info/lfs/objects/verify", _Handler.verify),
    (("PUT",), "/upload/([0-9a-f]{64})", _Handler.put),
    (("PUT",), "/upload/([0-9a-f]{64})/([0-9]+)", _Handler.put_part),
    (("POST",), "/upload/([0-9a-f]{64})", _Handler.complete),
    (("POST",), f"/api/models/{_REPO}/commit/([^/]+)", _Handler.write),
)
