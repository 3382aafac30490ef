"""What every request passes before its route: sizes, key, origin, ids; and the line that the log gets of it."""

import json
import logging
import socket
import time

import httpx
import pytest
from fakes.engines import HeldEngine
from fakes.serving import ThreadServer, make_manifest, thread_server, wait_until

from packager.runtime.engine import Delta, Usage
from packager.runtime.metrics import Metrics
from packager.runtime.server.bounds import Bounds
from packager.runtime.server.keys import read_api_keys
from packager.runtime.supervise import Supervisor

KEY = "a-key-of-decent-length"
ASK = {"prompt": "one two"}
GUARDED = ["/predict", "/v1/chat/completions", "/v1/models", "/openapi.json", "/v2", "/nothing", "/"]
OPEN = ["/livez", "/readyz", "/metrics", "/chat", "/v2/health/live", "/v2/health/ready"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with thread_server(tmp_path_factory.mktemp("server")) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server that wants a key."""
    keys = read_api_keys({"PACKAGER_API_KEYS": KEY})
    with thread_server(tmp_path_factory.mktemp("locked"), keys=keys) as server:
        yield server.wait_ready()


def exchange(server, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
def test_without_a_key_nothing_is_told(locked, method, path):
    answer = httpx.request(method, locked.url + path, timeout=60)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = {} if method == "HEAD" else answer.json()["error"]
    if path.startswith("/v2"):
        assert "API key" in error or method == "HEAD"
    elif method != "HEAD":
        assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_the_chat_page_need_no_key(locked, path):
    assert httpx.get(locked.url + path, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer   {KEY}"},
        {"X-API-Key": KEY},
        {"X-API-Key": KEY, "Authorization": "Basic dXNlcjpwYXNz"},
    ],
)
def test_with_a_key(locked, headers):
    assert httpx.post(locked.url + "/predict", json=ASK, headers=headers, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": ""},
        {"X-API-Key": "é".encode("latin-1") * 20},
        {"Cookie": f"key={KEY}"},
    ],
)
def test_with_a_wrong_key(locked, headers):
    answer = httpx.post(locked.url + "/predict", json=ASK, headers=headers, timeout=60)
    assert answer.status_code == 401
    assert KEY not in answer.text


def test_the_description_says_who_needs_a_key(locked):
    document = httpx.get(locked.url + "/openapi.json", headers={"X-API-Key": KEY}, timeout=60).json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    open_paths = {path for path, one in document["paths"].items() if one.get("get", {}).get("security") == []}
    assert open_paths == set(OPEN)


def test_a_key_is_asked_before_the_body_is_read(locked):
    received = exchange(locked, b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 300000000\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 401 ")


def test_keys_are_in_no_log(locked, caplog):
    with caplog.at_level(logging.DEBUG):
        httpx.post(locked.url + "/predict", json=ASK, headers={"X-API-Key": KEY, "X-Request-Id": "keys"}, timeout=60)
        wrong = {"X-API-Key": KEY + "y", "X-Request-Id": "keys"}
        httpx.post(locked.url + "/predict", json=ASK, headers=wrong, timeout=60)
        wait_until(lambda: len(requests(caplog, "keys")) == 2, "both are logged")
    assert KEY not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
        (b"GET /livez?" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
        (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 200, 431),
        (b"GET /livez HTTP/1.1\r\na: " + b"b" * 33000 + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + b"b" * 33000 + b": a\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 90, 200),
        (b"GET /livez?" + b"a" * 8000 + b" HTTP/1.1\r\n", 200),
    ],
)
def test_the_size_of_a_head(server, head, status):
    received = exchange(server, head + b"connection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 %d " % status)
    if status != 200:
        body = json.loads(received.partition(b"\r\n\r\n")[2])
        assert body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, b'{"prompt": "a"}', 200),
        ({"content-type": "APPLICATION/JSON"}, b'{"prompt": "a"}', 200),
        ({}, b'{"prompt": "a"}', 200),
        ({"content-type": "text/plain"}, b'{"prompt": "a"}', 415),
        ({"content-type": "application/x-www-form-urlencoded"}, b'{"prompt": "a"}', 415),
        ({"content-encoding": "gzip"}, b'{"prompt": "a"}', 415),
        ({"content-encoding": "identity"}, b'{"prompt": "a"}', 200),
        ({}, b"", 400),
    ],
)
def test_what_a_body_may_be(server, headers, content, status):
    answer = httpx.post(server.url + "/predict", headers=headers, content=content, timeout=60)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/livez", 200),
        ("HEAD", "/v1/models", 200),
        ("HEAD", "/predict", 405),
        ("OPTIONS", "/nothing", 404),
        ("PUT", "/predict", 405),
        ("GET", "/pre%64ict", 405),
        ("GET", "/%00%ff/../etc/passwd", 404),
        ("GET", "/v1/models/other%2Fname", 404),
        ("GET", "//livez", 404),
        ("GET", "/livez/", 404),
    ],
)
def test_methods_and_odd_paths(server, method, path, status):
    answer = httpx.request(method, server.url + path, timeout=60)
    assert answer.status_code == status
    if method == "HEAD":
        assert answer.content == b""
    if status == 405:
        assert "OPTIONS" in answer.headers["allow"]


def test_what_does_not_exist_is_not_repeated_at_length(server):
    answer = httpx.get(server.url + "/" + "a" * 5000, timeout=60)
    assert answer.status_code == 404
    assert len(answer.text) < 400


def test_a_body_that_nobody_read_closes_the_connection(server):
    """Else what is left of it would be the next request, or would be read for ever."""
    received = exchange(
        server, b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 40\r\n\r\nGET /livez HTTP/1.1\r\n"
    )
    assert received.startswith(b"HTTP/1.1 404 ")
    assert received.count(b"HTTP/1.1") == 1


def test_a_body_that_does_not_come(tmp_path):
    bounds = Bounds(body_seconds=0.2, body_rate=1000)
    with thread_server(tmp_path, bounds=bounds) as server:
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n"
        for sent in (head, head + b"{" * 100, head.replace(b"content-length: 9000", b"transfer-encoding: chunked")):
            received = exchange(server.wait_ready(), sent)
            assert received.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close" in received
            assert b"the body did not come in time" in received


def test_a_body_that_comes_slowly_but_comes_is_read(tmp_path):
    """Each piece earns time: this one takes four times as long as one that does not come may."""
    with thread_server(tmp_path, bounds=Bounds(body_seconds=0.2, body_rate=10)) as server:
        server.wait_ready()
        body = json.dumps(ASK).encode().ljust(4000)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\n\r\n"
            for at in range(0, 4000, 500):
                connection.sendall(head * (at == 0) + body[at : at + 500])
                time.sleep(0.1)
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 200 ")


def test_the_manifests_body_limit(tmp_path):
    with thread_server(tmp_path, max_body=1024) as server:
        server.wait_ready()
        body = json.dumps(ASK).encode()
        assert httpx.post(server.url + "/predict", content=body.ljust(1024), timeout=60).status_code == 200
        refused = httpx.post(server.url + "/predict", content=body.ljust(1025), timeout=60)
        assert (refused.status_code, refused.headers["connection"]) == (413, "close")
        assert refused.json()["error"]["message"] == "the body is larger than 1024 bytes"


def test_cors_is_off_by_default(server):
    answer = httpx.post(server.url + "/predict", json=ASK, headers={"Origin": "https://app.example.com"}, timeout=60)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_cors_for_the_origins_that_are_named(tmp_path):
    ours, theirs = {"Origin": "https://app.example.com"}, {"Origin": "https://app.example.com.evil.org"}
    with thread_server(tmp_path, cors_origins=("https://app.example.com",)) as server:
        server.wait_ready()
        for path, body, status in (("/predict", ASK, 200), ("/predict", {}, 400), ("/nothing", {}, 404)):
            answer = httpx.post(server.url + path, json=body, headers=ours, timeout=60)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
            assert answer.headers["vary"] == "origin"
        stream = httpx.post(server.url + "/predict", json=ASK | {"stream": True}, headers=ours, timeout=60)
        assert stream.headers["access-control-allow-origin"] == "https://app.example.com"
        asked = ours | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = httpx.options(server.url + "/v1/chat/completions", headers=asked, timeout=60)
        assert preflight.status_code == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        other = httpx.post(server.url + "/predict", json=ASK, headers=theirs, timeout=60)
        assert "access-control-allow-origin" not in other.headers
        assert other.headers["vary"] == "origin"


def test_cors_for_any_origin(tmp_path):
    with thread_server(tmp_path, cors_origins=("*",)) as server:
        answer = httpx.get(
            server.wait_ready().url + "/v1/models", headers={"Origin": "https://anybody.example"}, timeout=60
        )
        assert answer.headers["access-control-allow-origin"] == "*"


def test_a_preflight_needs_no_key(locked):
    """Browsers send none with it."""
    answer = httpx.options(locked.url + "/predict", timeout=60)
    assert (answer.status_code, answer.headers["allow"]) == (200, "POST, OPTIONS")


@pytest.mark.parametrize("theirs", ["abc-123", "x" * 128, "!~"])
def test_a_clients_request_id_is_given_back(server, caplog, theirs):
    with caplog.at_level(logging.INFO):
        answer = httpx.post(
            server.url + "/v1/completions", json={"model": "hello"} | ASK, headers={"X-Request-Id": theirs}, timeout=60
        )
        wait_until(lambda: bool(requests(caplog, theirs)), "it is logged")
    assert answer.headers.get_list("x-request-id") == [theirs]
    (line,) = requests(caplog, theirs)
    assert line["client_request"] == theirs
    assert answer.json()["id"] == "cmpl-" + line["request"]


@pytest.mark.parametrize("theirs", ["", "x" * 129, "a b", "é", "a\tb"])
def test_a_request_id_that_is_off_is_ignored(server, theirs):
    answer = httpx.get(server.url + "/nothing", headers={"X-Request-Id": theirs.encode("latin-1")}, timeout=60)
    assert len(answer.headers["x-request-id"]) == 32


def requests(caplog, client_request=""):
    """The lines of requests; of those of this client's id alone, where an earlier test's line may yet come."""
    lines = [record.fields for record in caplog.records if record.msg == "request"]
    return [line for line in lines if line.get("client_request", "").startswith(client_request)]


@pytest.mark.parametrize("stream", [True, False])
def test_one_line_for_each_request(server, caplog, stream):
    mine = f"lines-{stream}"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": trace, "X-Request-Id": mine}
    with caplog.at_level(logging.INFO):
        httpx.post(server.url + "/predict?secret=1", json=ASK | {"stream": stream}, headers=headers, timeout=60)
        httpx.get(server.url + "/livez", timeout=60)
        httpx.post(server.url + "/predict", json={}, headers={"X-Request-Id": mine}, timeout=60)
        wait_until(lambda: len(requests(caplog, mine)) >= 2, "they are logged")
    line, refused = requests(caplog, mine)
    assert len(line.pop("request")) == 32
    times = [line.pop("seconds"), line.pop("queue_seconds"), line.pop("first_token_seconds")]
    assert all(0 <= seconds < 60 for seconds in times)
    assert line == {
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "client_request": mine,
        "traceparent": trace,
        "stream": stream,
        "outcome": "stop",
        "tokens_in": 2,
        "tokens_out": 2,
    }
    assert (refused["status"], refused["path"]) == (400, "/predict")


def test_texts_are_logged_when_asked_for(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("PACKAGER_LOG_PROMPTS", "1")
    with thread_server(tmp_path) as server, caplog.at_level(logging.INFO):
        httpx.post(server.wait_ready().url + "/predict", json={"prompt": "canary", "stream": True}, timeout=60)
        wait_until(lambda: bool(requests(caplog)), "it is logged")
    (line,) = requests(caplog)
    assert json.loads(line["input"])["prompt"] == "canary"
    assert '{"text":"canary"}' in line["output"]


class ClumsyEngine(HeldEngine):
    """Gives text that is none: an adapter's bug that nobody foresaw."""

    async def stream(self, request):
        yield Delta("ok")
        yield Delta({"canary"})
        yield Delta("", 0, "stop", Usage(1, 1))


def test_an_unexpected_failure_is_logged_once_and_without_words(caplog):
    engine = ClumsyEngine()

    async def load():
        return engine, await engine.start()

    with ThreadServer(Supervisor(make_manifest(), load, Metrics())) as server, caplog.at_level(logging.DEBUG):
        answer = httpx.post(server.wait_ready().url + "/predict", json={"prompt": "canary"}, timeout=60)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "the engine failed; the answer is not complete"
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(server.url + "/predict", json={"prompt": "canary", "stream": True}, timeout=60)
        wait_until(lambda: len(requests(caplog)) == 2, "both are logged")
    failures = [record for record in caplog.records if record.msg == "unexpected failure"]
    assert [record.fields["error"] for record in failures] == ["TypeError", "TypeError"]
    assert all("in stream_events" in r.fields["trace"] or "in _whole" in r.fields["trace"] for r in failures)
    assert not [record for record in caplog.records if record.exc_info]
    assert "canary" not in str([vars(record) for record in caplog.records])
