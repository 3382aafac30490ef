"""How weights are read while they are locked: as little as can be, each judged file once, and whole."""

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes.web import Fault, IgnoreRange, Request, Status, Truncate, Web

from packager.digest import sha256_hex
from packager.errors import IntegrityError, LoadError, PackagerError, RangeError, TransferError
from packager.lock.origin import Origin, at
from packager.lock.tools import Tools
from packager.manifest import WeightsFile
from packager.store import Store
from packager.weights.chunks import PIECE, chunk_digest, encode_chunks
from packager.weights.file import FileSource
from packager.weights.https import HttpsSource
from packager.weights.source import SourceFile, read_file

BIG = b"".join(bytes([number]) * PIECE for number in range(9)) + b"the rest"


@dataclass
class Shelf:
    """A source of `files` that notes what is read of it; `faults` are raised one after the other, after a first byte."""

    files: dict[str, bytes]
    digests: dict[str, str] = field(default_factory=dict)
    faults: list[LoadError] = field(default_factory=list)
    whole: bool = False
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    connected: int = 0
    closed: int = 0
    uri: str = "shelf://a"
    revision: str = "c0ffee"

    def inventory(self) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(path, len(data), self.digests.get(path)) for path, data in sorted(self.files.items()))

    def connect(self) -> "Shelf":
        self.connected += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def read(self, path: str, start: int, stop: int, size: int) -> Generator[bytes]:
        self.reads.append((path, start, stop))
        if self.whole and (start, stop) != (0, size):
            raise RangeError("whole files only", where=self.uri)
        yield self.files[path][start : start + 1]
        if self.faults:
            raise self.faults.pop(0)
        for begin in range(start + 1, stop, PIECE):
            yield self.files[path][begin : min(begin + PIECE, stop)]


def broken() -> TransferError:
    return TransferError("it broke off", where="shelf://a", retry_after=0)


def file_of(shelf: Shelf, path: str) -> SourceFile:
    return next(one for one in shelf.inventory() if one.path == path)


def test_what_the_source_knows_is_not_read(tools: Tools) -> None:
    shelf = Shelf({"a": BIG}, {"a": "ab" * 32})
    with Origin(shelf, tools) as origin:
        assert origin.lock(shelf.inventory(), keep=True) == (WeightsFile("a", len(BIG), "ab" * 32),)
    assert (shelf.reads, shelf.connected) == ([], 0)


@pytest.mark.parametrize("keep", [True, False])
def test_what_it_does_not_know_is_read_once_into_the_store_with_its_chunks(tools: Tools, keep: bool) -> None:
    from blake3 import blake3

    shelf = Shelf({"a": BIG, "b": b"", "c": b"small"})
    with Origin(shelf, tools) as origin:
        found = list(origin.lock(origin.inventory(), keep=keep))
    pieces = [blake3(BIG[start : start + PIECE]).digest() for start in range(0, len(BIG), PIECE)]
    assert found == [
        WeightsFile(
            "a", len(BIG), sha256_hex(BIG), encode_chunks([chunk_digest(pieces[:8]), chunk_digest(pieces[8:])])
        ),
        WeightsFile("b", 0, sha256_hex(b"")),
        WeightsFile("c", 5, sha256_hex(b"small"), encode_chunks([chunk_digest([blake3(b"small").digest()])])),
    ]
    assert sorted(path for path, _, _ in shelf.reads if path != "b") == ["a", "c"]
    assert shelf.closed == shelf.connected <= 3
    for one in found:
        stored = tools.store.find(one.sha256, one.size)
        assert stored is not None
        assert stored.path.read_bytes() == shelf.files[one.path]


def test_a_full_store_changes_nothing(tools: Tools) -> None:
    shelf = Shelf({"a": BIG, "b": b"b"}, {"b": sha256_hex(b"b")})
    locks = []
    for _ in range(2):
        with Origin(shelf, tools) as origin:
            locks.append(origin.lock(origin.inventory(), keep=True))
    tools.store.put([b"b"])
    with Origin(shelf, tools) as origin:
        locks.append(origin.lock(origin.inventory(), keep=False))
    assert locks[0] == locks[1] == locks[2]


def test_what_was_judged_is_not_read_again(tools: Tools) -> None:
    shelf = Shelf({"config.json": b"{}"})
    with Origin(shelf, tools) as origin:
        one = file_of(shelf, "config.json")
        assert (read_file(origin, one), read_file(origin, one, stop=1)) == (b"{}", b"{")
        shelf.files["config.json"] = b"[]"
        assert origin.lock([one], keep=False)[0].sha256 == sha256_hex(b"{}")
    assert shelf.reads == [("config.json", 0, 2)]


def test_what_was_judged_and_is_not_what_the_source_lists(tools: Tools) -> None:
    shelf = Shelf({"config.json": b"{}"}, {"config.json": sha256_hex(b"[]")})
    with Origin(shelf, tools) as origin:
        read_file(origin, file_of(shelf, "config.json"))
        with pytest.raises(
            IntegrityError, match=r"config\.json is not what was read before: sha256 44136fa355b3, then"
        ):
            origin.lock([file_of(shelf, "config.json")], keep=False)


@pytest.mark.parametrize("keep", [True, False])
def test_a_local_file_that_changes_after_it_was_judged(tmp_path: Path, tools: Tools, keep: bool) -> None:
    path = tmp_path / "model/config.json"
    path.parent.mkdir()
    path.write_bytes(b"{}")
    with Origin(FileSource(tmp_path / "model"), tools) as origin:
        (one,) = origin.inventory()
        read_file(origin, one)
        path.write_bytes(b"[]")
        with pytest.raises(IntegrityError, match="is not what was read before"):
            origin.lock([one], keep=keep)


def test_local_files_have_chunks_when_containers_load_them(tmp_path: Path, tools: Tools) -> None:
    """And without a memo: the lock is the same, whatever the store remembers."""
    path = tmp_path / "a.gguf"
    path.write_bytes(BIG)
    found = {}
    for keep in (False, True, False):
        with Origin(FileSource(path), tools) as origin:
            found.setdefault(keep, []).append(origin.lock([SourceFile("a.gguf", len(BIG))], keep=keep)[0])
    remote = Shelf({"a.gguf": BIG})
    with Origin(remote, Tools(Store(tmp_path / "other"), tools.run)) as origin:
        other = origin.lock([file_of(remote, "a.gguf")], keep=False)[0]
    assert found[False] == [other, other]
    assert found[True] == [replace(other, chunks="")]


def test_the_head_of_a_large_file_is_all_that_is_read_of_it(tools: Tools) -> None:
    shelf = Shelf({"a.gguf": BIG})
    with Origin(shelf, tools) as origin:
        assert read_file(origin, file_of(shelf, "a.gguf"), stop=PIECE) == BIG[:PIECE]
    assert shelf.reads == [("a.gguf", 0, PIECE)]


def test_the_head_of_a_file_that_is_to_be_had_whole_only(tools: Tools) -> None:
    shelf = Shelf({"a.gguf": BIG}, whole=True)
    with Origin(shelf, tools) as origin:
        assert read_file(origin, file_of(shelf, "a.gguf"), stop=100) == BIG[:100]
        assert origin.lock([file_of(shelf, "a.gguf")], keep=False)[0].sha256 == sha256_hex(BIG)


@pytest.mark.parametrize("data", [b"small", BIG])
def test_a_transfer_that_breaks_off_begins_again(tools: Tools, data: bytes) -> None:
    shelf = Shelf({"a": data}, faults=[broken(), broken()])
    with Origin(shelf, tools) as origin:
        assert origin.lock([file_of(shelf, "a")], keep=False)[0].sha256 == sha256_hex(data)
    assert shelf.reads == [("a", 0, len(data))] * 3


@pytest.mark.parametrize("fault", [broken(), LoadError("it is gone", where="shelf://a", mend="look for it")])
def test_one_that_never_comes_is_given_up_at_its_place_in_the_spec(tools: Tools, fault: LoadError) -> None:
    shelf = Shelf({"a": b"abc"}, faults=[fault] * 9)
    with pytest.raises(type(fault)) as caught, at("packager.yaml:3:4"), Origin(shelf, tools) as origin:
        origin.lock([file_of(shelf, "a")], keep=False)
    assert len(shelf.reads) == (5 if isinstance(fault, TransferError) else 1)
    (problem,) = caught.value.problems
    assert (problem.where, problem.what) == ("packager.yaml:3:4", f"{fault.problems[0].what}: shelf://a")
    assert not list(tools.store.root.glob("sha256/*/*"))


def test_other_errors_pass(tools: Tools) -> None:
    with pytest.raises(PackagerError) as caught, at("packager.yaml:3:4"):
        raise PackagerError("other", where="here")
    assert caught.value.problems[0].where == "here"


@dataclass
class Together(Shelf):
    """Gives the first byte of a file when all its files are asked for, and one fault before the last of them goes on."""

    def __post_init__(self) -> None:
        self.all = threading.Barrier(len(self.files), timeout=120)
        self.failed = threading.Event()

    def read(self, path: str, start: int, stop: int, size: int) -> Generator[bytes]:
        self.reads.append((path, start, stop))
        self.all.wait()
        if path == "last" and self.faults:
            self.failed.set()
            raise self.faults.pop()
        while self.faults or self.failed.is_set():
            yield b"x"
        yield self.files[path]


def test_files_are_read_at_the_same_time_each_thread_with_its_reader(tools: Tools) -> None:
    shelf = Together({name: name.encode() for name in ("a", "b", "c")})
    with Origin(shelf, tools) as origin:
        assert [one.path for one in origin.lock(shelf.inventory(), keep=False)] == ["a", "b", "c"]
    assert shelf.connected == shelf.closed == 3


def test_one_that_fails_ends_those_that_would_go_on_for_ever(tools: Tools) -> None:
    fault = LoadError("it is gone", where="shelf://a")
    shelf = Together({name: name.encode() for name in ("a", "b", "last")}, faults=[fault])
    with pytest.raises(LoadError, match="it is gone"), Origin(shelf, tools) as origin:
        origin.lock(shelf.inventory(), keep=False)
    assert not list(tools.store.root.glob("tmp/*"))


@pytest.fixture
def web() -> Iterator[Web]:
    with Web({"a.gguf": BIG}) as web:
        yield web


AGAIN = Status(503, {"Retry-After": "0", "Content-Length": "0"})


def lock_from(web: Web, tools: Tools) -> WeightsFile:
    with Origin(HttpsSource(f"{web.url}/a.gguf"), tools) as origin:
        (locked,) = origin.lock(origin.inventory(), keep=False)
    return locked


def at_reads(*faults: Fault | Callable[[], Fault] | None) -> Callable[[Request], Fault | None]:
    """One fault for each GET, in order; then none."""
    left = list(faults)

    def fault(request: Request) -> Fault | None:
        one = left.pop(0) if request.method == "GET" and left else None
        return one() if callable(one) else one

    return fault


def begun(web: Web) -> list[int]:
    return [request.start or 0 for request in web.requests if request.method == "GET"]


def test_a_large_file_goes_on_where_it_broke_off(web: Web, tools: Tools) -> None:
    web.faults = at_reads(Truncate(5 * PIECE), AGAIN, AGAIN, Truncate(2 * PIECE))
    whole = WeightsFile("a.gguf", len(BIG), sha256_hex(BIG))
    assert replace(lock_from(web, tools), chunks="") == whole
    assert begun(web) == [0, *[5 * PIECE] * 3, 7 * PIECE]
    assert web.sent == len(BIG)
    assert tools.store.find(whole.sha256, whole.size) is not None


def test_what_has_another_version_meanwhile_is_read_from_its_beginning(web: Web, tools: Tools) -> None:
    """Spliced of both it would be locked, and nobody could ever load it."""
    other = BIG[::-1]

    def change() -> Fault:
        web.files["a.gguf"] = other
        return Truncate(PIECE)

    web.faults = at_reads(Truncate(5 * PIECE), change)
    assert lock_from(web, tools).sha256 == sha256_hex(other)
    assert begun(web) == [0, 5 * PIECE, 0]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_a_place_that_does_not_tell_its_versions_is_read_from_the_beginning(web: Web, tools: Tools, tag: str) -> None:
    web.headers["a.gguf"] = {"ETag": tag}
    web.faults = at_reads(Truncate(5 * PIECE))
    assert lock_from(web, tools).sha256 == sha256_hex(BIG)
    assert begun(web) == [0, 0]


def test_a_place_that_gives_whole_files_is_read_from_the_beginning(web: Web, tools: Tools) -> None:
    web.faults = at_reads(Truncate(5 * PIECE), IgnoreRange())
    assert lock_from(web, tools).sha256 == sha256_hex(BIG)
    assert begun(web) == [0, 5 * PIECE, 0]


def test_a_place_that_gives_nothing_more_is_given_up(web: Web, tools: Tools) -> None:
    web.faults = at_reads(Truncate(5 * PIECE), *[AGAIN] * 100)
    with pytest.raises(LoadError, match="503"):
        lock_from(web, tools)
    assert begun(web) == [0, *[5 * PIECE] * 4]
    assert not list(tools.store.root.glob("sha256/*/*"))
    assert not list(tools.store.root.glob("tmp/*"))
