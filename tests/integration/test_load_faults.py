"""Ten thousand faults: whatever a server, a disk or a stranger does, nothing wrong is ever taken for what was locked.

A state machine keeps what should be (files and their bytes), a real server that does wrong on demand stands before a
real store, and between the steps bits flip, journals tear and files vanish. After every step each file under a final
name has the bytes of its name, or was spoilt by us and is found out before it is handed on; a load that says it is
done has brought everything.
"""

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from fakes.sources import locked
from fakes.web import (
    Close,
    Fault,
    Flip,
    Gzip,
    IgnoreRange,
    Multipart,
    NoLength,
    Redirect,
    Request,
    Reset,
    Serve,
    Status,
    Truncate,
    Web,
    WrongLength,
    WrongRange,
    WrongTotal,
)
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from packager.digest import hash_file
from packager.errors import PackagerError
from packager.manifest import WeightsFile
from packager.store import Store
from packager.weights.chunks import PIECE, PIECES
from packager.weights.fetch import FetchSettings, Wanted, fetch_files
from packager.weights.http import HttpSettings
from packager.weights.https import HttpsSource
from packager.weights.identity import find_intact

FAULTS = 10_000
QUICK = FetchSettings(first=3, connections=3, pause=0.0005, longest=0.002, look=0.005, rest=0.01, tries=6)
MEMORY = Path("/dev/shm")
QUICK_DISK = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**30 else None
BYTES = random.Random(7).randbytes(10 * PIECE + 99)
SIZES = (0, 1, 700, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 5, (PIECES + 1) * PIECE + 7)

OTHERS = (b"", b"another file", bytes(PIECE), BYTES[1:], BYTES + b"more")

COUNTED: Counter[str] = Counter()
"""Faults that were really done, by kind."""

offsets = st.integers(0, len(BYTES))
faults: st.SearchStrategy[Fault] = st.one_of(
    st.builds(Flip, offsets),
    st.builds(Truncate, offsets),
    st.builds(Reset, st.one_of(st.none(), offsets)),
    st.integers(0, len(OTHERS) - 1).map(lambda which: Serve(OTHERS[which])),
    st.builds(Status, st.sampled_from([400, 401, 403, 404, 408, 416, 429, 500, 502, 503]),
              st.sampled_from([{}, {"Retry-After": "0"}, {"Retry-After": "9999"}, {"Retry-After": "soon"}])),
    st.builds(WrongRange, st.sampled_from([-PIECE, -1, 1, PIECE])),
    st.builds(WrongTotal, st.sampled_from([-1, 1, PIECE])),
    st.builds(WrongLength, st.sampled_from([-5, 5, PIECE])),
    st.just(Close()), st.just(Gzip()), st.just(IgnoreRange()), st.just(Multipart()), st.just(NoLength()),
    st.just(Redirect("/nowhere")), st.just(Redirect("/loop")),
)  # fmt: skip


class Loading(RuleBasedStateMachine):
    """Files at a server, a store, and everything that may go wrong between them."""

    @initialize(sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), chunks=st.booleans())
    def begin(self, sizes: list[int], chunks: bool) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=QUICK_DISK)
        self.store = Store(Path(self.folder.name))
        contents = {f"{number}.bin": BYTES[number : number + size] for number, size in enumerate(sizes)}
        self.files: dict[str, WeightsFile] = {
            path: locked(path, data, chunks=chunks) for path, data in contents.items()
        }
        self.contents = contents
        self.web = Web(dict(contents)).__enter__()
        self.source = HttpsSource(f"{self.web.url}/", HttpSettings(connect_seconds=60, stall_seconds=60))
        self.spoilt: set[Path] = set()
        self.right: set[tuple[Path, int, int, int]] = set()  # what was hashed already
        self.planned: list[Fault] = []
        self.web.faults = self.answer

    def answer(self, request: Request) -> Fault | None:
        if request.path == "/loop":
            return Redirect("/loop")
        with suppress(IndexError):
            fault = self.planned.pop(0)
            COUNTED[type(fault).__name__] += 1
            return fault
        return None

    @rule(planned=st.lists(faults, min_size=1, max_size=8))
    def load_while_the_server_does_wrong(self, planned: list[Fault]) -> None:
        self.planned = list(planned)
        self.load()
        self.planned = []

    @rule(planned=st.lists(faults, min_size=2, max_size=8))
    def load_all_anew_while_the_server_does_wrong(self, planned: list[Fault]) -> None:
        """A load that finds everything asks for nothing, so this one finds at most parts."""
        for path in (self.store.root / "sha256").rglob("*"):
            if path.is_file():
                path.unlink()
        self.load_while_the_server_does_wrong(planned)

    def load(self) -> None:
        missing = [file for file in self.files.values() if find_intact(file, self.store) is None]
        try:
            fetch_files([Wanted(file, self.source) for file in missing], self.store, settings=QUICK)
        except PackagerError:
            return  # refused, with a reason: that is no silent acceptance
        self.spoilt = {path for path in self.spoilt if path.exists() and hash_file(path)[0] != path.name}
        assert self.spoilt == set(), "a load says it is done and left what we spoilt"
        for path, file in self.files.items():
            stored = find_intact(file, self.store)
            assert stored is not None
            assert stored.path.read_bytes() == self.contents[path]

    @rule()
    def load_in_peace(self) -> None:
        self.load()
        assert all(find_intact(file, self.store) is not None for file in self.files.values())

    @rule(offset=offsets, which=st.integers(0, 9))
    def a_bit_flips_in_a_part(self, offset: int, which: int) -> None:
        self.damage("*.part", which, lambda data: _flipped(data, offset), "part")

    @rule(offset=offsets, which=st.integers(0, 9))
    def a_bit_flips_in_a_journal(self, offset: int, which: int) -> None:
        self.damage("*.journal", which, lambda data: _flipped(data, offset), "journal")

    @rule(offset=offsets, which=st.integers(0, 9))
    def a_journal_is_cut_off(self, offset: int, which: int) -> None:
        self.damage("*.journal", which, lambda data: data[: offset % (len(data) + 1)], "journal cut")

    @rule(offset=offsets, which=st.integers(0, 9))
    def a_part_is_cut_off(self, offset: int, which: int) -> None:
        self.damage("*.part", which, lambda data: data[: offset % (len(data) + 1)], "part cut")

    def damage(self, pattern: str, which: int, change: Callable[[bytes], bytes], kind: str) -> None:
        found = sorted((self.store.root / "parts").glob(pattern))
        if found:
            path = found[which % len(found)]
            path.write_bytes(change(path.read_bytes()))
            COUNTED[kind] += 1

    @rule(offset=offsets, which=st.integers(0, 9))
    def a_bit_flips_in_the_store(self, offset: int, which: int) -> None:
        found = sorted(path for path in (self.store.root / "sha256").rglob("*") if path.is_file())
        if found and (data := (path := found[which % len(found)]).read_bytes()):
            before = path.stat()
            path.chmod(0o644)
            path.write_bytes(_flipped(data, offset))
            # Where the kernel counts times in ticks, a quick change of a file would not be seen by its time.
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**7))
            self.spoilt.add(path)
            COUNTED["store"] += 1

    @rule(which=st.integers(0, 9), kind=st.sampled_from(["sha256", "parts", "memo"]))
    def a_file_vanishes(self, which: int, kind: str) -> None:
        found = sorted(path for path in (self.store.root / kind).rglob("*") if path.is_file())
        if found:
            found[which % len(found)].unlink()
            COUNTED["vanished"] += 1

    @rule(which=st.integers(0, 9), data=st.sampled_from([b"[]", b"", b"null", b'"AAAA"', b'["0", 1, 2, 3]']))
    def a_memo_says_something_else(self, which: int, data: bytes) -> None:
        found = sorted(path for path in (self.store.root / "memo").rglob("*") if path.is_file())
        if found:
            found[which % len(found)].write_bytes(data)
            COUNTED["memo"] += 1

    @invariant()
    def nothing_wrong_has_a_final_name(self) -> None:
        if not hasattr(self, "store"):
            return
        for path in (self.store.root / "sha256").rglob("*"):
            if path.is_file() and path not in self.spoilt:
                status = path.stat()
                seen = (path, status.st_ino, status.st_mtime_ns, status.st_size)
                assert seen in self.right or hash_file(path)[0] == path.name
                self.right.add(seen)

    def teardown(self) -> None:
        if hasattr(self, "web"):
            self.web.__exit__()
            self.folder.cleanup()


def _flipped(data: bytes, offset: int) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[offset % len(data)] ^= 1 << (offset % 8)
    return bytes(changed)


def test_ten_thousand_faults() -> None:
    """Runs the machine until so many faults were done, the same ones each time; hypothesis shrinks what fails."""
    chosen = settings(
        max_examples=100, stateful_step_count=30, deadline=None, database=None,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for number in count():
        run_state_machine_as_test(seed(number)(Loading), settings=chosen)
        if COUNTED.total() >= FAULTS:
            break
    print(f"{COUNTED.total()} faults: {dict(COUNTED.most_common())}")
    assert len(COUNTED) >= len(Fault.__args__) - 3  # stalls and drips take their time: test_weights_http.py has them


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
