"""Files over HTTP: exactly the bytes that were asked, or an error that says what to do. Over real sockets."""

import base64
import contextlib
import gc
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from fakes.machine import free_port
from fakes.web import (
    Close,
    Drip,
    Flip,
    Gzip,
    IgnoreRange,
    Multipart,
    NoLength,
    Redirect,
    Reset,
    Serve,
    Slow,
    Stall,
    Status,
    Truncate,
    Web,
    WrongLength,
    WrongRange,
    WrongTotal,
)

from packager.errors import LoadError, PackagerError, RangeError, TransferError
from packager.weights.http import PORTION, HttpReader, HttpSettings, Place

SIZE = 2 * PORTION + 12345
DATA = random.Random(4).randbytes(SIZE)
QUICK = HttpSettings(connect_seconds=60, stall_seconds=1.5, stall_bytes=1500)
PATIENT = HttpSettings(connect_seconds=60, stall_seconds=60, stall_bytes=1)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web():
    with Web({"a/model.gguf": DATA, "small.json": b"{}", "empty": b""}) as web:
        yield web


@pytest.fixture
def reader(web):
    return opened(at(web))


OPENED: list[HttpReader] = []


def opened(locate: Callable[[str], Place], settings: HttpSettings = PATIENT, **more: Any) -> HttpReader:
    """A reader that is closed when the test ends."""
    OPENED.append(HttpReader(locate, settings, **more))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def all_closed():
    yield
    while OPENED:
        OPENED.pop().close()


def at(web: Web, **headers: str) -> Callable[[str], Place]:
    return lambda path: Place(f"{web.url}/{path}", headers)


def part(reader: HttpReader, start: int = 10, stop: int = 5000, path: str = "a/model.gguf") -> bytes:
    return b"".join(reader.read(path, start, stop, SIZE))


def once(*faults):
    """Each fault for one request, in order; then none."""
    left = list(faults)
    return lambda _: left.pop(0) if left else None


def refusal(kind: type[PackagerError], call: Callable[[], object], match: str) -> PackagerError:
    """The error of exactly that kind, which says where and how to mend."""
    with pytest.raises(kind, match=match) as caught:
        call()
    assert type(caught.value) is kind
    (problem,) = caught.value.problems
    assert problem.where
    assert problem.mend
    return caught.value


class TestRanges:
    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (0, SIZE - 1), (1, SIZE), (SIZE - 1, SIZE), (PORTION - 1, PORTION + 1), (7, SIZE - 7)],
    )
    def test_a_range(self, web, reader, start, stop):
        assert part(reader, start, stop) == DATA[start:stop]
        (request,) = web.requests
        assert request.headers["range"] == f"bytes={start}-{stop - 1}"

    def test_a_whole_file_needs_no_range(self, web, reader):
        assert part(reader, 0, SIZE) == DATA
        assert b"".join(reader.read("empty", 0, 0, 0)) == b""
        assert ["range" in request.headers for request in web.requests] == [False, False]

    def test_what_every_request_says(self, web, reader):
        part(reader)
        headers = web.requests[0].headers
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("packager")
        assert headers["host"] == f"127.0.0.1:{web.port}"

    def test_portions_are_bounded_and_never_empty(self, reader):
        sizes = [len(data) for data in reader.read("a/model.gguf", 0, SIZE, SIZE)]
        assert min(sizes) > 0
        assert max(sizes) <= PORTION

    def test_one_connection_for_all(self, web, reader):
        for start in range(0, 100_000, 10_000):
            assert part(reader, start, start + 10_000) == DATA[start : start + 10_000]
        reader.head("a/model.gguf")
        reader.get("small.json", 10)
        part(reader, 0, SIZE)
        assert {request.connection for request in web.requests} == {0}

    def test_two_reads_at_once_have_a_connection_each(self, web, reader):
        first, second = reader.read("a/model.gguf", 0, SIZE, SIZE), reader.read("a/model.gguf", 0, SIZE, SIZE)
        found = [next(first), next(second), *first], [*second]
        assert (b"".join([found[0][0], *found[0][2:]]), b"".join([found[0][1], *found[1]])) == (DATA, DATA)
        assert {request.connection for request in web.requests} == {0, 1}

    def test_who_leaves_midway_ends_the_connection(self, web, reader):
        with contextlib.closing(reader.read("a/model.gguf", 0, SIZE, SIZE)) as body:
            next(body)
        assert part(reader) == DATA[10:5000]
        assert [request.connection for request in web.requests] == [0, 1]

    def test_without_content_length(self, web, reader):
        web.faults = lambda _: NoLength()
        assert part(reader) == DATA[10:5000]
        assert part(reader, 0, SIZE) == DATA

    @pytest.mark.parametrize("coding", ["aws-chunked", "identity", "", "aws-chunked, identity"])
    def test_codings_that_are_none(self, web, reader, coding):
        """Stores that keep how an object was sent to them; the bytes are its own."""
        web.headers["a/model.gguf"] = {"Content-Encoding": coding}
        assert part(reader) == DATA[10:5000]
        assert reader.head("a/model.gguf").size == SIZE
        web.headers["a/model.gguf"] = {"Content-Encoding": f"{coding},gzip"}
        refusal(TransferError, lambda: part(reader), "compressed")

    def test_chunked(self, web, reader):
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (DATA[10:100], DATA[100:5000])) + b"0\r\n\r\n"
        with raw_server(
            b"HTTP/1.1 206 Partial\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 10-4999/%d\r\n\r\n" % SIZE
            + chunks
        ) as url:
            assert b"".join(opened(lambda _: Place(url)).read("x", 10, 5000, SIZE)) == DATA[10:5000]


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "kind", "match"),
        [
            (WrongRange(1), TransferError, "its range is 'bytes 11-5000/"),
            (WrongTotal(1), LoadError, f"another size than the {SIZE} bytes locked: {SIZE + 1} bytes"),
            (WrongLength(1), TransferError, "announces 4991 bytes where 4990 were asked"),
            (WrongLength(-1), TransferError, "announces 4989 bytes where 4990 were asked"),
            (Gzip(), TransferError, r"compressed \(gzip\)"),
            (Multipart(), TransferError, "several parts"),
            (IgnoreRange(), RangeError, "gives the whole file where a range was asked"),
            (Truncate(100), TransferError, "ended 4890 bytes too early"),
            (Truncate(0), TransferError, "ended 4990 bytes too early"),
            (Serve(DATA[:100]), TransferError, "ended 4900 bytes too early"),
            (Reset(100), TransferError, "the connection broke off"),
            (Reset(None), TransferError, "the connection broke off"),
            (Close(), TransferError, "the connection broke off"),
            (Status(416, {"Content-Range": "bytes */5"}), LoadError, f"another size than the {SIZE} bytes locked: 5"),
            (Status(416), LoadError, "another size"),
            (Status(206, {"Content-Range": f"bytes 10-4999/{SIZE}", "Content-Length": "-5"}), TransferError, "'-5'"),
            (Status(206, {"Content-Range": f"bytes 10-4999/{SIZE}", "Content-Length": "x"}), TransferError, "'x'"),
            (Status(206, {"Content-Range": "bytes 10-4999/*"}), TransferError, r"its range is 'bytes 10-4999/\*'"),
            (Status(206, {}), TransferError, "its range is ''"),
        ],
    )
    def test_of_a_range(self, web, reader, fault, kind, match):
        web.faults = once(fault)
        refusal(kind, lambda: part(reader), match)
        assert part(reader) == DATA[10:5000], "the reader goes on after it"

    @pytest.mark.parametrize(
        ("fault", "kind", "match"),
        [
            (WrongTotal(1), LoadError, "another size"),
            (WrongLength(-1), LoadError, "another size"),
            (Gzip(), TransferError, "compressed"),
            (Multipart(), TransferError, "several parts"),
            (Truncate(SIZE - 1), TransferError, "ended 1 bytes too early"),
            (Status(206, {"Content-Range": f"bytes 1-5/{SIZE}"}), TransferError, "its range is"),
        ],
    )
    def test_of_a_whole_file(self, web, reader, fault, kind, match):
        web.faults = once(fault)
        refusal(kind, lambda: part(reader, 0, SIZE), match)
        assert part(reader, 0, SIZE) == DATA

    def test_a_body_that_is_too_long(self, web):
        head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-4999/%d\r\n\r\n" % SIZE
        with raw_server(head + DATA[10:5001]) as url:
            reader = opened(lambda _: Place(url))
            refusal(TransferError, lambda: part(reader), "longer than the 4990 bytes asked")

    def test_a_200_to_a_range_is_not_read(self, web, reader):
        web.files["huge"] = bytes(200 << 20)
        web.faults = once(IgnoreRange())
        with pytest.raises(RangeError):
            list(reader.read("huge", 1, 2, 200 << 20))
        web.disconnect()
        assert web.sent < 100 << 20, "what fits the kernel's buffers, and no more"

    def test_a_200_to_the_beginning(self, web, reader):
        web.faults = lambda _: IgnoreRange()
        refusal(RangeError, lambda: part(reader, 0, 100), "gives the whole file")

    def test_a_flipped_bit_is_for_the_loader_to_find(self, web, reader):
        web.faults = lambda _: Flip(20)
        assert part(reader) == DATA[10:20] + bytes([DATA[20] ^ 1]) + DATA[21:5000]

    @pytest.mark.parametrize("line", [b"HTTP/2.0 200 OK\r\n\r\n", b"HTTP/3 200 OK\r\n\r\n"])
    def test_another_protocol(self, line):
        with raw_server(line) as url:
            reader = opened(lambda _: Place(url))
            refusal(LoadError, lambda: part(reader), "not HTTP/1.1 but")

    @pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n", b"\0" * 70_000, b"HTTP/1.1 2x0 OK\r\n\r\n"])
    def test_no_answer_at_all(self, answer):
        with raw_server(answer) as url:
            reader = opened(lambda _: Place(url))
            refusal(TransferError, lambda: part(reader), "broke off")


class TestStatus:
    @pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 405, 410, 451, 204, 304, 299])
    def test_no_use_to_try_again(self, web, reader, code):
        web.faults = lambda _: Status(code)
        error = refusal(LoadError, lambda: part(reader), f"answers {code}")
        assert len(web.requests) == 1
        if code in (401, 403):
            assert "credentials" in error.problems[0].mend

    @pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 507, 599])
    def test_try_again(self, web, reader, code):
        web.faults = lambda _: Status(code, body=b"later")
        error = refusal(TransferError, lambda: part(reader), f"answers {code}")
        assert (error.busy, error.retry_after) == (code in (429, 503), None)
        web.faults = once()
        assert part(reader) == DATA[10:5000]
        assert {request.connection for request in web.requests} == {0}, "a refusal does not cost the connection"

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7),
            ({"Retry-After": "0"}, 0),
            ({"Retry-After": formatdate(1_800_000_090, usegmt=True), "Date": formatdate(1_800_000_000)}, 90),
            ({"Retry-After": formatdate(1_700_000_000, usegmt=True)}, 0),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "-5"}, None),
            ({"Retry-After": "9" * 400}, None),
            ({"RateLimit": '"resolvers";r=0;t=55', "RateLimit-Policy": '"fixed window";"resolvers";q=500;w=300'}, 55),
            ({"RateLimit": '"api"; r=0; t=10, "resolvers"; r=0; t=120'}, 120),
            ({"RateLimit": '"api";r=12;t=55'}, None),
            ({"RateLimit": '"api";r=0;t=soon'}, None),
            ({"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}, 7),
        ],
    )
    def test_retry_after(self, web, reader, headers, seconds):
        web.faults = lambda _: Status(429, headers)
        error = refusal(TransferError, lambda: part(reader), "answers 429")
        assert error.retry_after == seconds
        assert (f"asks for {seconds} seconds of rest" in error.problems[0].what) == bool(seconds)

    def test_retry_after_a_date_by_our_own_clock(self):
        date = formatdate(time.time() + 1000, usegmt=True).encode()
        with raw_server(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: %s\r\n\r\n" % date) as url:
            error = refusal(TransferError, lambda: part(opened(lambda _: Place(url))), "answers 503")
            assert 900 < error.retry_after <= 1000

    def test_who_asks_may_word_the_refusal(self, web):
        def refuse(status, headers, where):
            return LoadError(f"{status} {headers['x-why']}", where=where, mend="accept the licence")

        web.faults = lambda _: Status(403, {"X-Why": "gated"})
        reader = opened(at(web), refuse=refuse)
        for call in (lambda: part(reader), lambda: reader.head("x"), lambda: reader.get("x", 9)):
            refusal(LoadError, call, "403 gated")


class TestStalls:
    @pytest.mark.parametrize("fault", [Stall(None), Stall(0), Stall(100), Drip(1, 0.02), Slow(500)], ids=repr)
    def test_too_few_bytes_in_too_long_a_time(self, web, fault):
        web.faults = once(fault)
        with contextlib.closing(opened(at(web), QUICK)) as reader:
            refusal(TransferError, lambda: part(reader), "stalled")
            assert part(reader) == DATA[10:5000]

    def test_a_head_that_drips(self):
        with raw_server(b"HTTP/1.1 206 Partial\r\nX-Slow: " + b"x" * 60_000, seconds=0.01) as url:
            reader = opened(lambda _: Place(url), QUICK)
            refusal(TransferError, lambda: part(reader), "stalled")

    def test_a_beginning_does_not_make_up_for_the_rest(self):
        head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-4999/%d\r\n\r\n" % SIZE
        with raw_server(head + DATA[10:5000], at_once=3000, seconds=0.02) as url:
            refusal(TransferError, lambda: part(opened(lambda _: Place(url), QUICK)), "stalled")

    def test_an_answer_may_take_longer_than_connecting(self, web):
        web.faults = lambda _: time.sleep(0.8)
        assert part(opened(at(web), HttpSettings(connect_seconds=0.5))) == DATA[10:5000]

    def test_slow_but_enough(self, web):
        """The body takes several windows, and each brings more than the least."""
        web.faults = lambda _: Slow(1200)
        settings = HttpSettings(stall_seconds=1.5, stall_bytes=200)
        with contextlib.closing(opened(at(web), settings)) as reader:
            assert part(reader) == DATA[10:5000]

    def test_a_slow_consumer_is_no_stall(self, web):
        with contextlib.closing(opened(at(web), HttpSettings(stall_seconds=1.5, stall_bytes=SIZE))) as reader:
            found = []
            for data in reader.read("a/model.gguf", 0, SIZE, SIZE):
                found.append(data)
                if len(found) == 1:
                    time.sleep(1.7)
            assert b"".join(found) == DATA

    def test_the_defaults(self):
        settings = HttpSettings()
        assert (settings.connect_seconds, settings.stall_seconds, settings.stall_bytes) == (20, 30, 32768)
        assert settings.most_redirects == 10


class TestConnections:
    def test_a_connection_that_died_between_requests_is_replaced(self, web, reader):
        part(reader)
        web.disconnect()
        assert part(reader) == DATA[10:5000]
        web.faults = lambda request: Truncate(4990) if request.number == 2 else None
        assert part(reader) == DATA[10:5000]
        assert part(reader) == DATA[10:5000]
        assert [request.connection for request in web.requests] == [0, 1, 1, 2]

    def test_once(self, web, reader):
        part(reader)
        web.faults = lambda _: Close()
        refusal(TransferError, lambda: part(reader), "broke off")
        assert [request.connection for request in web.requests] == [0, 0, 1]

    def test_a_fresh_one_is_not_tried_again(self, web, reader):
        web.faults = lambda _: Reset(None)
        refusal(TransferError, lambda: part(reader), "broke off")
        assert len(web.requests) == 1

    def test_the_server_says_that_it_closes(self, web, reader):
        web.faults = lambda _: Status(200, {"Connection": "close"}, b"{}")
        assert [reader.get("small.json", 9) for _ in range(2)] == [b"{}", b"{}"]
        assert [request.connection for request in web.requests] == [0, 1]

    def test_nobody_listens(self):
        reader = opened(lambda _: Place(f"http://127.0.0.1:{free_port()}/x"))
        refusal(TransferError, lambda: part(reader), r"no connection to 127\.0\.0\.1: Connection refused")

    def test_no_such_host(self):
        reader = opened(lambda _: Place("http://nowhere.invalid/x"))
        refusal(TransferError, lambda: part(reader), r"no connection to nowhere\.invalid: ")

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://127.0.0.1/x",
            "http:///x",
            "http://h:99999/x",
            "http://h:x/x",
            "x",
            "http://[::1/x",
            f"http://{'a' * 64}/x",
        ],
    )
    def test_no_address(self, url):
        refusal(LoadError, lambda: part(opened(lambda _: Place(url))), "no http or https address")

    def test_a_header_that_cannot_be_sent_is_not_shown(self, web):
        reader = opened(at(web, Authorization="Bearer hunter2\n"))
        error = refusal(LoadError, lambda: part(reader), "cannot be sent")
        assert "hunter2" not in f"{error}{error.problems}{error.__cause__}"

    def test_secrets_of_an_address_are_not_shown(self, web, reader):
        base = web.url.replace("http://", "http://ada:hunter2@")
        for url in (
            f"{base}/none?X-Amz-Signature=hunter2#hunter2",
            f"http://ada:hunter2@127.0.0.1:{free_port()}/x?hunter2",
        ):
            with pytest.raises(LoadError) as caught:
                part(opened(lambda _, url=url: Place(url)))
            assert "hunter2" not in f"{caught.value}{caught.value.problems}"
        assert web.requests[0].path == "/none?X-Amz-Signature=hunter2"

    def test_closing_closes_what_is_kept(self, web):
        reader = opened(at(web))
        part(reader)
        reader.close()
        with contextlib.closing(opened(at(web))) as other:
            part(other)
        assert [request.connection for request in web.requests] == [0, 1]

    def test_several_are_asked_for_before_the_first_is_read(self):
        both = threading.Barrier(2, timeout=60)

        def together(_):
            both.wait()  # the first answer waits for the second request

        with Web({"a": b"aa", "b": b"b"}) as web, contextlib.closing(opened(at(web))) as reader:
            web.faults = together
            streams = [reader.read(path, 0, size, size) for path, size in (("a", 2), ("b", 1))]
            assert [b"".join(stream) for stream in streams] == [b"aa", b"b"]
            web.faults = lambda _: None
            streams = [reader.read(path, 0, size, size) for path, size in (("b", 1), ("a", 2))]
            assert [b"".join(stream) for stream in streams] == [b"b", b"aa"]
            assert sorted(request.connection for request in web.requests) == [0, 0, 1, 1]

    def test_one_that_was_asked_for_over_a_connection_that_is_closed_meanwhile(self, web, reader):
        part(reader)
        web.faults = lambda request: Close() if request.connection == 0 else None
        first, second = (reader.read("a/model.gguf", 0, len(DATA), len(DATA)) for _ in range(2))
        assert b"".join(second) == b"".join(first) == DATA
        assert [request.connection for request in web.requests].count(0) == 2

    def test_closing_closes_what_was_asked_for(self, web):
        reader = HttpReader(at(web), PATIENT)
        for _ in range(2):
            reader.read("a/model.gguf", 0, len(DATA), len(DATA))
        reader.close()
        del reader
        gc.collect()  # a socket that was forgotten warns now, which fails the test

    def test_few_idle_connections_are_kept(self, web):
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(Web({"x": b"x"})) for _ in range(9)]
            reader = opened(lambda path: Place(f"{others[int(path)].url}/x"))
            stack.callback(reader.close)
            for number in (*range(9), 8, 0):
                reader.get(str(number), 9)
            assert [[request.connection for request in one.requests] for one in others] == [[0, 1], *[[0]] * 7, [0, 0]]


class TestRedirects:
    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_followed(self, web, reader, code):
        web.faults = lambda request: Redirect("/a/model.gguf?signed=1", code) if request.path == "/x" else None
        assert part(reader, path="x") == DATA[10:5000]
        assert [request.path for request in web.requests] == ["/x", "/a/model.gguf?signed=1"]
        assert [request.headers["range"] for request in web.requests] == ["bytes=10-4999"] * 2

    def test_remembered_between_ranges_and_forgotten_at_a_failure(self, web, reader):
        web.faults = lambda request: Redirect("/a/model.gguf") if request.path == "/x" else None
        for _ in range(3):
            part(reader, path="x")
        assert [request.path for request in web.requests] == ["/x", *["/a/model.gguf"] * 3]
        web.faults = once(Truncate(5))
        with pytest.raises(TransferError):
            part(reader, path="x")
        web.faults = once(Redirect("/a/model.gguf"))
        part(reader, path="x")
        assert [request.path for request in web.requests[4:]] == ["/a/model.gguf", "/x", "/a/model.gguf"]

    def test_few_are_remembered(self, web, reader):
        web.faults = lambda request: Redirect("/a/model.gguf") if request.path.startswith("/x") else None
        for number in [*range(17), 16, 0]:
            part(reader, path=f"x{number}")
        asked = [at.path for at in web.requests if at.path != "/a/model.gguf"]
        assert asked == [f"/x{number}" for number in [*range(17), 0]]

    def test_a_long_page_beside_a_redirect_costs_the_connection(self, web, reader):
        for length in (1000, 200_000):
            web.faults = once(Status(302, {"Location": "/a/model.gguf"}, bytes(length)))
            assert part(reader, path=f"x{length}") == DATA[10:5000]
        assert [at.connection for at in web.requests] == [0, 0, 0, 1]

    def test_credentials_stay_with_their_own_place(self, web):
        with Web({"there": DATA}) as other:
            web.faults = lambda request: {
                "/x": Redirect("/y"),
                "/y": Redirect(f"{other.url}/there"),
            }.get(request.path)
            with contextlib.closing(opened(at(web, Authorization="Bearer s", Cookie="c"))) as reader:
                assert part(reader, path="x") == DATA[10:5000]
                assert part(reader, path="x") == DATA[10:5000]
            assert [(at.headers.get("authorization"), at.headers.get("cookie")) for at in web.requests] == [
                ("Bearer s", "c")
            ] * 2
            assert len(other.requests) == 2
            assert all({"authorization", "cookie"}.isdisjoint(at.headers) for at in other.requests)

    def test_another_host_name_is_another_place(self, web):
        web.faults = once(Redirect(f"http://localhost:{web.port}/a/model.gguf"))
        part(opened(at(web, Authorization="Bearer s")), path="x")
        assert [at.headers.get("authorization") for at in web.requests] == ["Bearer s", None]

    def test_credentials_do_not_come_back(self, web):
        """Who was asked in between could otherwise choose what they open."""
        with Web() as other:
            other.faults = lambda _: Redirect(f"{web.url}/a/model.gguf")
            web.faults = once(Redirect(f"{other.url}/there"))
            part(opened(at(web, Authorization="Bearer s")), path="x")
        assert [at.headers.get("authorization") for at in web.requests] == ["Bearer s", None]

    def test_in_a_circle(self, web, reader):
        web.faults = lambda request: Redirect("/y" if request.path == "/x" else "/x")
        refusal(LoadError, lambda: part(reader, path="x"), "in a circle")
        assert len(web.requests) == 2

    def test_too_many(self, web, reader):
        web.faults = lambda request: Redirect(f"/{request.number}")
        refusal(LoadError, lambda: part(reader, path="x"), "more than 10 times")
        assert len(web.requests) == 11
        ten = {number: Redirect(f"/n{number}") for number in range(11, 20)} | {20: Redirect("/a/model.gguf")}
        web.faults = lambda request: ten.get(request.number)
        assert part(reader, path="x") == DATA[10:5000], "ten are not too many"

    @pytest.mark.parametrize(
        ("to", "match"),
        [
            ("", "to nowhere"),
            ("ftp://127.0.0.1/x", "no http or https address"),
            ("file:///etc/passwd", "no http or https address"),
            ("http://[x", "to what is no address"),
            ("http://ada:hunter2@127.0.0.1/x", "password"),
        ],
    )
    def test_refused(self, web, reader, to, match):
        web.faults = lambda _: Redirect(to)
        error = refusal(LoadError, lambda: part(reader), match)
        assert "hunter2" not in f"{error.problems}"

    def test_places_that_are_not_escaped(self, web, reader):
        web.files["ünï cöde"] = DATA
        web.faults = once(Redirect("/ünï cöde#part".encode().decode("latin-1")))
        assert part(reader) == DATA[10:5000]
        assert web.requests[1].path == "/%C3%BCn%C3%AF%20c%C3%B6de"


class TestRenewal:
    """An address that has expired is asked for again, once."""

    def test_a_redirect_that_expired(self, web, reader):
        valid = ["/a/model.gguf?signed=0"]

        def faults(request):
            if request.path == "/x":
                return Redirect(valid[0])
            return None if request.path == valid[0] else Status(403)

        web.faults = faults
        part(reader, path="x")
        valid[0] = "/a/model.gguf?signed=1"
        assert part(reader, path="x") == DATA[10:5000]
        assert [at.path[-1] for at in web.requests] == ["x", "0", "0", "x", "1"]

    @pytest.mark.parametrize("code", [400, 401, 403, 410])
    def test_a_located_address_that_expired(self, web, code):
        places = iter(["a/model.gguf?0", "a/model.gguf?1", "a/model.gguf?2"])
        reader = opened(lambda _: Place(f"{web.url}/{next(places)}"))
        part(reader)
        web.faults = lambda request: Status(code) if request.path.endswith("?0") else None
        assert part(reader) == DATA[10:5000]
        assert [at.path[-1] for at in web.requests] == ["0", "0", "1"]
        web.faults = lambda _: Status(code)
        refusal(LoadError, lambda: part(reader), f"answers {code}")
        assert [at.path[-1] for at in web.requests[3:]] == ["1", "2"]
        reader.close()

    def test_a_target_that_refuses_from_the_start(self, web, reader):
        web.faults = lambda request: Redirect("/y") if request.path == "/x" else Status(403)
        refusal(LoadError, lambda: part(reader, path="x"), "answers 403")
        assert [at.path for at in web.requests] == ["/x", "/y", "/x", "/y"]


class TestHead:
    def test_size_and_headers(self, web, reader):
        head = reader.head("a/model.gguf")
        assert head.size == SIZE
        assert head.headers["etag"].startswith('"')
        assert [at.method for at in web.requests] == ["HEAD"]
        assert reader.head("empty").size == 0

    def test_after_a_redirect(self, web, reader):
        web.faults = lambda request: Redirect("/a/model.gguf") if request.path == "/x" else None
        assert reader.head("x").size == SIZE
        part(reader, path="x")
        assert [at.path for at in web.requests] == ["/x", "/a/model.gguf", "/a/model.gguf"]

    @pytest.mark.parametrize(
        "fault", [Status(405), Status(403), Status(501), Status(400), Status(200), NoLength(), Gzip()]
    )
    def test_where_it_does_not_tell(self, web, reader, fault):
        web.faults = lambda request: fault if request.method == "HEAD" else None
        assert reader.head("a/model.gguf").size == SIZE
        assert reader.head("empty").size == 0
        assert web.requests[-1].headers["range"] == "bytes=0-0"

    def test_where_neither_tells(self, web, reader):
        web.faults = lambda request: (
            NoLength() if request.method == "HEAD" else Status(206, {"Content-Range": "bytes 0-0/*"})
        )
        refusal(LoadError, lambda: reader.head("a/model.gguf"), "does not tell the file's size")

    def test_where_ranges_are_ignored_too(self, web, reader):
        web.faults = lambda request: Status(405) if request.method == "HEAD" else IgnoreRange()
        assert reader.head("a/model.gguf").size == SIZE

    def test_refused(self, web, reader):
        refusal(LoadError, lambda: reader.head("none"), "answers 404")
        assert [at.method for at in web.requests] == ["HEAD"]
        web.faults = lambda _: Status(503)
        refusal(TransferError, lambda: reader.head("a/model.gguf"), "answers 503")
        web.faults = lambda _: Status(403)
        refusal(LoadError, lambda: reader.head("a/model.gguf"), "answers 403")


class TestGet:
    @pytest.mark.parametrize("fault", [None, NoLength()])
    def test_whole(self, web, reader, fault):
        web.faults = lambda _: fault
        assert reader.get("a/model.gguf", SIZE) == DATA
        assert reader.get("empty", 0) == b""

    @pytest.mark.parametrize("fault", [None, NoLength()])
    def test_too_long(self, web, reader, fault):
        web.faults = lambda _: fault
        refusal(LoadError, lambda: reader.get("a/model.gguf", SIZE - 1), f"more than {SIZE - 1} bytes")
        web.files["huge"] = bytes(200 << 20)
        refusal(LoadError, lambda: reader.get("huge", 10), "more than 10 bytes")
        web.disconnect()
        assert web.sent < 100 << 20, "the rest is not read"

    @pytest.mark.parametrize(
        ("fault", "kind", "match"),
        [
            (Status(404), LoadError, "answers 404"),
            (Status(206), LoadError, "answers 206"),
            (Status(503), TransferError, "answers 503"),
            (Gzip(), TransferError, "compressed"),
            (Truncate(9), TransferError, f"ended {SIZE - 9} bytes too early"),
        ],
    )
    def test_refused(self, web, reader, fault, kind, match):
        web.faults = lambda _: fault
        refusal(kind, lambda: reader.get("a/model.gguf", SIZE), match)


class TestTls:
    @pytest.fixture
    def secure(self, tls):
        with Web({"a/model.gguf": DATA}, tls=tls) as web:
            yield web

    @pytest.fixture
    def trusting(self, certificate, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))

    def test_by_the_certificates_of_the_environment(self, secure, trusting):
        with contextlib.closing(opened(at(secure))) as reader:
            assert part(reader) == DATA[10:5000]
            assert part(reader, 0, SIZE) == DATA
        assert {request.connection for request in secure.requests} == {0}

    def test_not_trusted(self, secure, monkeypatch):
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        error = refusal(LoadError, lambda: part(opened(at(secure))), r"certificate of 127\.0\.0\.1 is not")
        assert "SSL_CERT_FILE" in error.problems[0].mend
        assert secure.requests == []

    def test_certificates_that_are_not_there(self, secure, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
        error = refusal(LoadError, lambda: part(opened(at(secure))), r"certificate of 127\.0\.0\.1 is not")
        assert "there is none at /nonexistent/ca.pem" in error.problems[0].mend

    def test_another_name(self, secure, trusting):
        place = Place(f"https://localhost:{secure.port}/a/model.gguf")
        refusal(LoadError, lambda: part(opened(lambda _: place)), "certificate of localhost is not trusted")

    def test_no_tls_there(self):
        with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
            place = Place(url.replace("http://", "https://"))
            refusal(LoadError, lambda: part(opened(lambda _: place)), "does not speak TLS")

    def test_a_break_while_keys_are_agreed(self):
        with raw_server(b"") as url:
            place = Place(url.replace("http://", "https://"))
            refusal(TransferError, lambda: part(opened(lambda _: place)), "no connection to")

    @pytest.mark.parametrize("fault", [Reset(100), Truncate(100), Close(), Stall(50)])
    def test_a_break_midway(self, secure, trusting, fault):
        secure.faults = once(fault)
        with contextlib.closing(opened(at(secure), QUICK)) as reader:
            refusal(TransferError, lambda: part(reader), "broke off|too early|stalled")
            assert part(reader) == DATA[10:5000]

    def test_a_connection_that_died_between_requests(self, secure, trusting):
        with contextlib.closing(opened(at(secure))) as reader:
            part(reader)
            secure.disconnect()
            assert part(reader) == DATA[10:5000]

    def test_no_way_back_to_plain_http(self, secure, web, trusting):
        secure.faults = lambda _: Redirect(f"{web.url}/a/model.gguf?hunter2")
        error = refusal(LoadError, lambda: part(opened(at(secure))), "from https to plain http://")
        assert "hunter2" not in f"{error}{error.problems}"
        assert web.requests == []

    def test_from_plain_http_on(self, secure, web, trusting):
        web.faults = lambda _: Redirect(f"{secure.url}/a/model.gguf")
        assert part(opened(at(web, Authorization="s"))) == DATA[10:5000]
        assert "authorization" not in secure.requests[0].headers

    def test_a_tunnel_through_a_proxy(self, secure, trusting, monkeypatch):
        with Tunnels() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://ada:p%40ss@127.0.0.1:{proxy.port}")
            with contextlib.closing(opened(at(secure, Authorization="Bearer s"))) as reader:
                assert part(reader) == part(reader) == DATA[10:5000]
        (head,) = proxy.heads
        assert head.startswith(f"CONNECT 127.0.0.1:{secure.port} ")
        assert f"Proxy-Authorization: Basic {base64.b64encode(b'ada:p@ss').decode()}" in head
        assert "Bearer" not in head
        assert all("proxy-authorization" not in request.headers for request in secure.requests)

    @pytest.mark.parametrize(
        ("answer", "kind", "match"),
        [
            ("407 Who are you", LoadError, r"no way through the proxy 127\.0\.0\.1:\d+: it answers 407"),
            ("403 No", LoadError, "it answers 403"),
            ("502 Bad Gateway", TransferError, "through the proxy .* failed: 502 Bad Gateway"),
        ],
    )
    def test_a_proxy_that_refuses(self, secure, monkeypatch, answer, kind, match):
        with Tunnels(answer) as proxy:
            monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
            refusal(kind, lambda: part(opened(at(secure))), match)


class TestProxies:
    def test_plain_http(self, monkeypatch):
        with Web({"a/model.gguf": DATA}) as proxy:
            monkeypatch.setenv("http_proxy", f"http://ada:s@127.0.0.1:{proxy.port}/")
            reader = opened(lambda _: Place("http://models.example:81/a/model.gguf?q=1"))
            assert part(reader) == part(reader) == DATA[10:5000]
            reader.close()
        assert {request.path for request in proxy.requests} == {"http://models.example:81/a/model.gguf?q=1"}
        assert {request.headers["host"] for request in proxy.requests} == {"models.example:81"}
        assert {request.headers["proxy-authorization"] for request in proxy.requests} == {"Basic YWRhOnM="}

    def test_for_everything(self, monkeypatch):
        with Web({"a/model.gguf": DATA}) as proxy:
            monkeypatch.setenv("ALL_PROXY", proxy.url)
            assert part(opened(lambda _: Place("http://models.example/a/model.gguf"))) == DATA[10:5000]

    def test_none_for_some(self, web, monkeypatch):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("no_proxy", "example.com,127.0.0.1")
        assert part(opened(at(web))) == DATA[10:5000]

    def test_nobody_listens(self, web, monkeypatch):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        refusal(TransferError, lambda: part(opened(at(web))), r"through the proxy 127\.0\.0\.1:\d+: Conn")

    def test_who_are_you(self, web, monkeypatch):
        monkeypatch.setenv("http_proxy", web.url)
        web.faults = lambda _: Status(407)
        error = refusal(LoadError, lambda: part(opened(at(web))), "answers 407")
        assert "proxy" in error.problems[0].mend

    @pytest.mark.parametrize("proxy", ["socks5://ada:hunter2@127.0.0.1:1080", "https://127.0.0.1:1", "http://"])
    def test_others_are_refused(self, web, monkeypatch, proxy):
        monkeypatch.setenv("all_proxy", proxy)
        error = refusal(LoadError, lambda: part(opened(at(web))), "this proxy cannot be used")
        assert "hunter2" not in f"{error.problems}"


@contextlib.contextmanager
def raw_server(answer: bytes, *, at_once: int = 0, seconds: float = 0) -> Iterator[str]:
    """Gives `answer` to the first connection and closes; with `seconds`, after `at_once` bytes one each so often."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            first = at_once if seconds else len(answer)
            connection.sendall(answer[:first])
            for byte in answer[first:]:
                time.sleep(seconds)
                connection.sendall(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        thread.join(60)
        assert not thread.is_alive()


class Tunnels:
    """A proxy that answers CONNECT with `answer`, and tunnels where that is 200."""

    def __init__(self, answer: str = "200 OK") -> None:
        self.answer, self.heads = answer, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept, daemon=True)]

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.start(self.serve, connection)

    def start(self, target, *args):
        self.threads.append(threading.Thread(target=target, args=args, daemon=True))
        self.threads[-1].start()

    def serve(self, connection):
        with connection:
            head = connection.recv(1 << 16).decode()
            self.heads.append(head)
            connection.sendall(f"HTTP/1.1 {self.answer}\r\n\r\n".encode())
            if self.answer.startswith("200"):
                host, _, port = head.split()[1].rpartition(":")
                with socket.create_connection((host, int(port))) as target:
                    self.start(pump, target, connection)
                    pump(connection, target)


def pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
