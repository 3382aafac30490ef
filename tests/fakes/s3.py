"""An object store on loopback: moto's S3 in a thread, with what moto leaves out and the real one does.

moto 5.2.5 answers ranges, listings and metadata as S3 does, but takes every address and signature for good, and gives the
SHA256 of a multipart upload as if it were the file's. Here addresses expire, buckets lie in a region, composite
checksums are called so, and a test may refuse what it likes.

    with FakeS3() as s3:
        s3.put("models", "tiny/config.json", b"{}")
"""

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import parse_qs

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

KEY = "AKIAFAKEFAKEFAKEFAKE"
SECRET = "a-secret-that-must-never-be-shown"
StartResponse = Callable[..., Any]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass
class Refusal:
    """What the next `times` requests get whose `METHOD path` matches `pattern`."""

    pattern: str
    status: int
    code: str
    times: int = 1_000_000


class _Quiet(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Say nothing of each request."""


@dataclass
class FakeS3:
    """`region` is where all buckets lie, empty for anywhere; `clock` how far the store's clock is ahead of ours;
    `public` lets those in who do not sign; `page` is how many objects a listing has at once."""

    region: str = ""
    page: int = 1000
    public: bool = True
    clock: timedelta = timedelta(0)
    refusals: list[Refusal] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    _clients: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        _post(f"{self.url}/moto-api/reset")  # moto keeps what it has for the whole process
        self.asked.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a client finds this store, and nothing of this machine's own settings."""
        nowhere = "/nonexistent/aws"
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "2",
        }

    def client(self) -> Any:
        """A client of the store's owner; it takes a second to make, and is kept."""
        import botocore.session

        region = self.region or "us-east-1"
        if region not in self._clients:
            keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
            session = botocore.session.Session()
            self._clients[region] = session.create_client("s3", endpoint_url=self.url, region_name=region, **keys)
        return self._clients[region]

    def bucket(self, name: str) -> None:
        place = {"CreateBucketConfiguration": {"LocationConstraint": self.region}} if self.region else {}
        self.client().create_bucket(Bucket=name, **place)

    def put(self, bucket: str, key: str, data: bytes, **more: Any) -> None:
        self.client().put_object(Bucket=bucket, Key=key, Body=data, **more)

    def put_in_parts(self, bucket: str, key: str, data: bytes, *, part: int = 5 << 20) -> None:
        """As a multipart upload with SHA256 checksums, which are then of the parts."""
        client, name = self.client(), {"Bucket": bucket, "Key": key}
        upload = client.create_multipart_upload(**name, ChecksumAlgorithm="SHA256")["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(data), part), 1):
            body = data[start : start + part]
            sent = client.upload_part(**name, UploadId=upload, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256")
            parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": sent["ChecksumSHA256"]})
        client.complete_multipart_upload(**name, UploadId=upload, MultipartUpload={"Parts": parts})

    def requests(self, method: str) -> list[Asked]:
        return [one for one in self.asked if one.method == method]

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        headers = {name[5:].lower().replace("_", "-"): value for name, value in environ.items() if name[:5] == "HTTP_"}
        asked = Asked(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, headers)
        self.asked.append(asked)
        refused = None if asked.path.startswith("/moto-api/") else self._refused(asked)
        if refused is not None:
            return _refuse(asked, *refused, start_response)

        if "list-type" in query:
            environ["QUERY_STRING"] += f"&max-keys={self.page}"

        def start(status: str, rows: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, _checksums(rows), *more)

        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def _refused(self, asked: Asked) -> tuple[int, str, dict[str, str]] | None:
        for refusal in self.refusals:
            if refusal.times and re.search(refusal.pattern, f"{asked.method} {asked.path}"):
                refusal.times -= 1
                return refusal.status, refusal.code, {}
        signed = asked.headers.get("authorization", "") or asked.query.get("X-Amz-Credential", "")
        if not signed:
            return None if self.public else (403, "AccessDenied", {})
        region = re.search(r"/\d{8}/([^/]+)/s3/", signed)
        if self.region and (region is None or region[1] != self.region):
            return 400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": self.region}
        if "X-Amz-Date" in asked.query:
            since = datetime.strptime(asked.query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if datetime.now(UTC) + self.clock > since + timedelta(seconds=int(asked.query["X-Amz-Expires"])):
                return 403, "AccessDenied", {}
        return None


def _checksums(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The answer's headers with the checksum's type, and a composite one with its number of parts."""
    parts = [value.strip('"').partition("-")[2] for name, value in rows if name.lower() == "etag"]
    composite = bool(parts and parts[0])
    told = []
    for name, value in rows:
        if name.lower() == "x-amz-checksum-sha256":
            told.append((name, f"{value}-{parts[0]}" if composite else value))
            told.append(("x-amz-checksum-type", "COMPOSITE" if composite else "FULL_OBJECT"))
        elif name.lower() != "x-amz-checksum-type":
            told.append((name, value))
    return told


def _refuse(asked: Asked, status: int, code: str, headers: dict[str, str], start: StartResponse) -> Iterable[bytes]:
    region = headers.get("x-amz-bucket-region", "")
    text = f"<Code>{code}</Code><Message>{code} it is</Message><Region>{region}</Region>"
    body = b"" if asked.method == "HEAD" else f"<?xml version='1.0'?><Error>{text}</Error>".encode()
    told = {"Content-Type": "application/xml", "Content-Length": str(len(body)), **headers}
    start(f"{status} {code}", list(told.items()))
    return [body]


def _post(url: str) -> None:
    from urllib.request import Request, urlopen

    with urlopen(Request(url, method="POST")) as answer:
        answer.read()
