"""Files come into the store whole and right, or not at all; what came right is not asked for again."""

import errno
import fcntl
import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from fakes.machine import missing
from fakes.sources import MemorySource, breaks_at, flip, locked

from packager.errors import IntegrityError, LoadError, RangeError, TransferError
from packager.store import Store
from packager.weights import claim, flock
from packager.weights.chunks import PIECE, PIECES
from packager.weights.claim import take_claim
from packager.weights.fetch import FetchSettings, Wanted, disk_error, fetch_files
from packager.weights.part import Part
from packager.weights.watch import Watch

QUICK = FetchSettings(pause=0.001, longest=0.01, look=0.01, rest=2)
BIG = random.Random(4).randbytes(20 * PIECE + 12345)
SMALL = random.Random(5).randbytes(3000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class Told(Watch):
    def __init__(self) -> None:
        self.retries: list[str] = []
        self.bytes: list[tuple[str, int, int]] = []

    def retried(self, title: str, why: str) -> None:
        self.retries.append(f"{title}: {why}")

    def on_bytes(self, title: str, done: int, total: int) -> None:
        self.bytes.append((title, done, total))


def want(source: MemorySource, *, chunks: bool = False) -> list[Wanted]:
    return [Wanted(locked(path, data, chunks=chunks), source) for path, data in source.files.items()]


def stored(store: Store, data: bytes) -> bytes | None:
    found = store.find(locked("", data).sha256)
    return None if found is None else found.path.read_bytes()


def leftovers(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "parts").iterdir())


class TestAllIsWell:
    @pytest.mark.parametrize("chunks", [True, False])
    @pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, PIECES * PIECE, 17 * PIECE + 5])
    def test_every_size(self, store, size, chunks):
        source = MemorySource({"a": BIG[:size]})
        assert fetch_files(want(source, chunks=chunks), store, settings=QUICK) == size
        assert stored(store, BIG[:size]) == BIG[:size]
        assert leftovers(store) == []

    def test_many_files_and_one_twice(self, store):
        files = {f"{number}": BIG[number : number * 7000] for number in range(60)} | {"big": BIG, "again": BIG}
        source, told = MemorySource(files), Told()
        total = sum(map(len, {bytes(data) for data in files.values()}))
        assert fetch_files(want(source), store, told, QUICK) == total == source.given
        assert all(stored(store, data) == data for data in files.values())
        assert told.bytes[-1] == ("weights", total, total)

    def test_nothing_wanted(self, store):
        assert fetch_files([], store) == 0
        assert not store.root.exists()

    def test_what_is_there_is_not_asked_for(self, store):
        source = MemorySource({"a": BIG})
        fetch_files(want(source), store, settings=QUICK)
        source.asked.clear()
        assert fetch_files(want(source), store, settings=QUICK) == 0
        assert source.asked == []

    def test_the_file_is_read_only(self, store):
        fetch_files(want(MemorySource({"a": SMALL})), store, settings=QUICK)
        assert store.path(locked("a", SMALL).sha256).stat().st_mode & 0o777 == 0o444

    def test_small_files_get_their_names_together(self, store):
        """Hundreds wait for the disk a few times, and one that fails does not take back those that came."""
        files = {f"{number}": SMALL[: number + 1] for number in range(200)}
        source = MemorySource(files, wrong=lambda one: LoadError("gone") if one.path == "150" else None)
        with pytest.raises(LoadError, match="gone"):
            fetch_files(want(source), store, settings=FetchSettings(connections=1))
        assert all(stored(store, SMALL[: number + 1]) for number in range(150))
        assert leftovers(store) == []

    def test_several_connections_share_a_file(self, store):
        """Each range is asked for once, and together they are the file."""
        source = MemorySource({"a": BIG})
        fetch_files(want(source), store, settings=QUICK)
        ranges = sorted((one.start, one.stop) for one in source.asked)
        assert len(ranges) > 1
        assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
        assert ranges[-1][1] == len(BIG)


class TestTransfersThatBreak:
    @pytest.mark.parametrize("chunks", [True, False])
    def test_it_goes_on_where_it_broke_off(self, store, chunks):
        """A break costs the piece it happened in, at most, for each connection."""
        source = MemorySource({"a": BIG})
        source.wrong = lambda asked: (
            breaks_at(asked.start + 2 * PIECE, TransferError("reset")) if asked.number < 6 else None
        )
        told = Told()
        fetched = fetch_files(want(source, chunks=chunks), store, told, QUICK)
        assert stored(store, BIG) == BIG
        assert told.retries
        assert fetched <= len(BIG) + len(told.retries) * PIECE

    def test_it_gives_up_when_nothing_comes(self, store):
        source = MemorySource({"a": BIG}, wrong=lambda _: TransferError("reset", where="there"))
        with pytest.raises(TransferError, match="reset; given up after") as caught:
            fetch_files(want(source), store, settings=FetchSettings(pause=0.001, longest=0.01, tries=3))
        assert caught.value.problems[0].where == "there"
        assert stored(store, BIG) is None

    def test_connections_that_break_together_count_once(self, store):
        """A server that starts anew ends all connections to a file at once: that is one try of it."""
        together = threading.Barrier(4)

        def wrong(asked):
            if asked.number >= 4:
                return None
            together.wait()
            return TransferError("reset")

        source, told = MemorySource({"a": BIG}, wrong=wrong), Told()
        fetch_files(want(source), store, told, FetchSettings(first=4, pause=1.0, longest=1.0, tries=2))
        assert stored(store, BIG) == BIG
        assert len(told.retries) == 4

    def test_progress_starts_the_count_again(self, store):
        """A bad line that brings a piece each time gets there."""
        source = MemorySource({"a": BIG})
        source.wrong = lambda asked: breaks_at(asked.start + PIECE + PIECE // 2, TransferError("reset"))
        told = Told()
        fetch_files(want(source), store, told, FetchSettings(pause=0.001, longest=0.01, tries=2, connections=1))
        assert stored(store, BIG) == BIG
        assert len(told.retries) > 2

    def test_a_busy_place_is_given_rest(self, store):
        source = MemorySource(
            {"a": SMALL},
            wrong=lambda one: TransferError("busy", busy=True, retry_after=0.2) if one.number < 2 else None,
        )
        told = Told()
        fetch_files(want(source), store, told, QUICK)
        assert all(float(line.split("again in ")[1].split()[0]) >= 0.2 for line in told.retries)

    def test_a_rest_that_is_too_long_is_a_failure(self, store):
        source = MemorySource({"a": SMALL}, wrong=lambda _: TransferError("busy", busy=True, retry_after=3))
        with pytest.raises(TransferError, match="given up after 1 tries"):
            fetch_files(want(source), store, settings=QUICK)

    def test_what_will_not_help_is_not_tried_again(self, store):
        source = MemorySource({"a": SMALL}, wrong=lambda _: LoadError("gone"))
        with pytest.raises(LoadError, match="gone"):
            fetch_files(want(source), store, settings=QUICK)
        assert len(source.asked) == 1

    @pytest.mark.parametrize("breaks", [0, 2])
    def test_a_place_without_ranges(self, store, breaks):
        """The file is read from its beginning, by one worker, as often as that breaks."""
        source, whole = MemorySource({"a": BIG}), []

        def wrong(asked):
            if (asked.start, asked.stop) != (0, len(BIG)):
                return RangeError("no ranges here")
            whole.append(asked)
            return breaks_at(5 * PIECE, TransferError("reset")) if len(whole) <= breaks else None

        source.wrong = wrong
        fetch_files(want(source), store, settings=QUICK)
        assert stored(store, BIG) == BIG
        assert len(whole) == breaks + 1


class TestWrongBytes:
    def test_nothing_is_written_over_what_was_hashed(self, store):
        """A part was read by ranges, then the whole file is: its first pieces come again, and wrong."""
        source = MemorySource({"a": BIG})

        def wrong(asked):
            if asked.number == 0:
                return breaks_at(3 * PIECE, TransferError("reset"))
            return flip(5) if asked.start == 0 and asked.stop == len(BIG) else RangeError("no ranges here any more")

        source.wrong = wrong
        one = FetchSettings(connections=1, pause=0.001, longest=0.01)
        fetch_files(want(source), store, settings=one)
        assert stored(store, BIG) == BIG

    def test_a_bad_chunk_comes_again_alone(self, store):
        source, told = MemorySource({"a": BIG}), Told()
        source.wrong = lambda _: None if told.retries else flip(9 * PIECE)
        fetched = fetch_files(want(source, chunks=True), store, told, QUICK)
        assert stored(store, BIG) == BIG
        assert told.retries == ["fetch a: chunk 1 came wrong"]
        assert fetched == len(BIG) + PIECES * PIECE

    def test_a_chunk_that_stays_wrong(self, store):
        source = MemorySource({"a": BIG}, wrong=lambda _: flip(9 * PIECE))
        with pytest.raises(IntegrityError, match="bytes 8,388,608 and on are not what was locked"):
            fetch_files(want(source, chunks=True), store, settings=QUICK)
        assert stored(store, BIG) is None
        source.wrong = lambda _: None
        source.given = 0
        fetch_files(want(source, chunks=True), store, settings=QUICK)  # what came right was kept
        assert source.given < len(BIG)
        assert stored(store, BIG) == BIG

    def test_without_digests_of_chunks_the_file_comes_again(self, store):
        source, told = MemorySource({"a": BIG}), Told()
        source.wrong = lambda asked: flip(9 * PIECE) if len(told.retries) == 0 else None
        assert fetch_files(want(source), store, told, QUICK) == 2 * len(BIG)
        assert told.retries == ["fetch a: its sha256 is wrong"]
        assert stored(store, BIG) == BIG

    @pytest.mark.parametrize("data", [BIG, SMALL], ids=["big", "small"])
    def test_without_digests_twice_is_enough(self, store, data):
        source = MemorySource({"a": data}, wrong=lambda _: flip(7))
        with pytest.raises(IntegrityError, match="fetched twice"):
            fetch_files(want(source), store, settings=QUICK)
        assert stored(store, data) is None
        assert leftovers(store) == []

    def test_digests_that_are_learned(self, store):
        """After a verified fetch a bad chunk is known for one, though the lock has no digests."""
        source, told = MemorySource({"a": BIG}), Told()
        fetch_files(want(source), store, settings=QUICK)
        store.path(locked("a", BIG).sha256).unlink()
        source.wrong = lambda asked: flip(1) if asked.start == 0 and not told.retries else None
        assert fetch_files(want(source), store, told, QUICK) == len(BIG) + PIECES * PIECE
        assert told.retries == ["fetch a: chunk 0 came wrong"]


class TestAnEarlierAttempt:
    def leave(self, store: Store, pieces: range, *, spoil: int | None = None) -> None:
        """What a killed process leaves: a journal and a part with these pieces."""
        file = locked("a", BIG)
        held = take_claim(store.root / "parts", file.sha256, file.size)
        part = Part(file, held)
        part.resume()
        for number in pieces:
            part.write(number, (BIG[number * PIECE : (number + 1) * PIECE],))
        if spoil is not None:
            os.pwrite(part._descriptor, b"spoilt", spoil * PIECE + 5)
        part.close(done=False)

    @pytest.mark.parametrize("chunks", [True, False])
    def test_what_is_there_is_kept(self, store, chunks):
        self.leave(store, range(3, 11))
        source = MemorySource({"a": BIG})
        assert fetch_files(want(source, chunks=chunks), store, settings=QUICK) == len(BIG) - 8 * PIECE
        assert stored(store, BIG) == BIG
        assert leftovers(store) == []

    def test_all_was_there(self, store):
        self.leave(store, range(21))
        source = MemorySource({"a": BIG})
        assert fetch_files(want(source), store, settings=QUICK) == 0
        assert stored(store, BIG) == BIG

    def test_bits_that_flipped_since(self, store):
        self.leave(store, range(10), spoil=4)
        source = MemorySource({"a": BIG})
        assert fetch_files(want(source), store, settings=QUICK) == len(BIG) - 9 * PIECE
        assert stored(store, BIG) == BIG

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data[:-20],  # torn in its last line
            lambda data: data + b"4 beef",
            lambda data: data.replace(b"\n3 ", b"\n999999999999 "),
            lambda data: data.replace(b"\n3 ", b"\n-3 "),
            lambda data: data[: data.index(b"\n") + 1] + os.urandom(500),
        ],
    )
    def test_a_damaged_journal_costs_pieces_not_correctness(self, store, spoil):
        self.leave(store, range(6))
        journal = next((store.root / "parts").glob("*.journal"))
        journal.write_bytes(spoil(journal.read_bytes()))
        source = MemorySource({"a": BIG})
        fetch_files(want(source), store, settings=QUICK)
        assert stored(store, BIG) == BIG

    @pytest.mark.parametrize("head", [b"", b"{}\n", b"null\n", b"\xff\n", b'{"sha256": "00", "size": 5}\n'])
    def test_a_journal_of_something_else_is_nobody_s(self, store, head):
        """It may be another machine's: what it says is compared and copied, and its part stays as it is."""
        self.leave(store, range(6))
        journal = next((store.root / "parts").glob("*.journal"))
        journal.write_bytes(head + journal.read_bytes().partition(b"\n")[2])
        before = journal.with_suffix(".part").read_bytes()
        fetch_files(want(MemorySource({"a": BIG})), store, settings=QUICK)
        assert stored(store, BIG) == BIG
        assert journal.with_suffix(".part").read_bytes() == before

    def test_another_machine_s_part_is_copied_from(self, store):
        """A volume that two machines share, whose locks end at the machine: the other one may still be writing."""
        self.leave(store, range(6))
        journal = next((store.root / "parts").glob("*.journal"))
        head, _, rest = journal.read_bytes().partition(b"\n")
        journal.write_bytes(head.replace(b'"locks": "', b'"locks": "another-') + b"\n" + rest)
        source = MemorySource({"a": BIG})
        assert fetch_files(want(source), store, settings=QUICK) == len(BIG) - 6 * PIECE
        assert stored(store, BIG) == BIG
        assert journal.exists()

    def test_a_part_from_before_the_machine_was_started_anew_is_gone_on_with(self, store, monkeypatch):
        """Not copied: that would take the room twice, let racing processes each fetch for itself, and keep nothing of
        what comes for a third attempt."""
        self.leave(store, range(6))
        if b'"locks": "disk"' not in next((store.root / "parts").glob("*.journal")).read_bytes():
            missing("temporary files lie on no disk of this machine alone")
        monkeypatch.setattr(flock, "_kernel", lambda: "another")
        own = take_claim(store.root / "parts", locked("a", BIG).sha256, len(BIG))
        assert own is not None
        assert own.part == store.root / "parts" / f"{own.journal.stem}.part"
        assert own.journal.stem == locked("a", BIG).sha256
        own.release(done=False)
        source = MemorySource({"a": BIG})
        assert fetch_files(want(source), store, settings=QUICK) == len(BIG) - 6 * PIECE
        assert leftovers(store) == []

    def test_in_place_of_one_from_beyond_our_locks_there_is_one_for_all_within(self, store, monkeypatch):
        """On a shared volume, after a machine was lost: others wait, and what came stays for the next attempt."""
        monkeypatch.setattr(flock, "_DISKS", frozenset())
        self.leave(store, range(6))
        monkeypatch.setattr(flock, "_kernel", lambda: "another")
        file, parts = locked("a", BIG), store.root / "parts"
        first = take_claim(parts, file.sha256, file.size)
        assert first is not None
        assert first.part != parts / f"{file.sha256}.part"
        assert take_claim(parts, file.sha256, file.size) is None
        part = Part(file, first)
        part.resume()
        part.write(6, (BIG[6 * PIECE : 7 * PIECE],))
        part.close(done=False)
        second = take_claim(parts, file.sha256, file.size)
        assert second is not None
        assert second.part == first.part
        second.release(done=False)
        source = MemorySource({"a": BIG})
        assert fetch_files(want(source), store, settings=QUICK) == len(BIG) - 7 * PIECE
        assert leftovers(store) == [f"{file.sha256}.journal", f"{file.sha256}.part"]

    @pytest.mark.parametrize("data", [b"", b"\0" * 200], ids=["empty", "zeros"])
    def test_a_journal_that_a_power_cut_emptied_is_begun_again(self, store, monkeypatch, data):
        """Unless it is new, or from beyond our locks: then whoever began it may be about to write its first line."""
        parts, size = store.root / "parts", len(BIG)
        self.leave(store, range(6))
        journal = next(parts.glob("*.journal"))
        if b'"locks": "disk"' not in journal.read_bytes():
            missing("temporary files lie on no disk of this machine alone")
        journal.write_bytes(data)

        def taken() -> bool:
            own = take_claim(parts, journal.stem, size)
            assert own is not None
            own.release(done=own.journal != journal)
            return own.journal == journal

        assert not taken()
        os.utime(journal, (1e9, 1e9))
        with monkeypatch.context() as patch:
            patch.setattr(flock, "_DISKS", frozenset())
            assert not taken()
        assert taken()
        assert fetch_files(want(MemorySource({"a": BIG})), store, settings=QUICK) == size
        assert stored(store, BIG) == BIG
        assert leftovers(store) == []

    def test_the_room_it_takes_is_counted(self, store):
        self.leave(store, range(21))
        fetch_files(want(MemorySource({"a": BIG})), store, settings=QUICK)


class TestSeveralAtOnce:
    @pytest.mark.parametrize("honest", [True, False])
    def test_racing(self, store, honest, monkeypatch):
        """With locks one fetches and the others wait; with locks that grant all, each fetches for itself."""
        if not honest:
            monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        source = MemorySource({"a": BIG, "b": SMALL})
        failed = []

        def run() -> None:
            try:
                fetch_files(want(source), store, settings=QUICK)
            except BaseException as error:  # noqa: BLE001 - shown below
                failed.append(error)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert stored(store, BIG) == BIG
        if honest:
            assert source.given == len(BIG) + len(SMALL)
            assert leftovers(store) == []

    @pytest.mark.parametrize(("data", "name"), [(BIG, locked("a", BIG).sha256), (SMALL, "small")], ids=["big", "small"])
    def test_a_process_that_was_stopped_holds_nobody_up(self, store, data, name):
        """It has the claim and brings nothing (SIGSTOP, a frozen container): after a while it is passed by."""
        held = take_claim(store.root / "parts", name, len(data) if data is BIG else 0)
        assert held is not None
        impatient = FetchSettings(look=0.01, patience=0.1)
        fetch_files(want(MemorySource({"a": data})), store, settings=impatient)
        assert stored(store, data) == data
        held.release(done=True)
        assert leftovers(store) == []

    def test_one_that_brings_something_is_waited_for(self, store):
        held = take_claim(store.root / "parts", locked("a", BIG).sha256, len(BIG))
        assert held is not None
        source, failed = MemorySource({"a": BIG}), []

        def run() -> None:
            try:
                fetch_files(want(source), store, settings=FetchSettings(look=0.01, patience=2))
            except BaseException as error:  # noqa: BLE001 - shown below
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        part = Part(locked("a", BIG), held)
        part.resume()
        for number in range(21):
            thread.join(0.15)
            part.write(number, (BIG[number * PIECE : (number + 1) * PIECE],))
        part.publish(store)
        part.close(done=True)
        thread.join()
        assert failed == []
        assert source.asked == []

    def test_one_that_another_takes_before_it_is_locked(self, store, monkeypatch):
        """Both would write one file."""
        parts, taken = store.root / "parts", []
        begin = claim._begin_journal

        def begin_and_lose(journal: Path, sha256: str, size: int) -> None:
            begin(journal, sha256, size)
            if not taken:
                taken.append(claim._take(journal, sha256, size))

        parts.mkdir(parents=True)
        monkeypatch.setattr(claim, "_begin_journal", begin_and_lose)
        own = claim.private_claim(parts, "a" * 64, 5)
        (other,) = taken
        assert isinstance(other, claim.Claim)
        assert own.part != other.part
        own.release(done=False)
        other.release(done=True)
        assert leftovers(store) == []

    def test_racing_in_place_of_a_claim_from_beyond_our_locks(self, store, monkeypatch):
        monkeypatch.setattr(flock, "_DISKS", frozenset())
        file, parts, held = locked("a", BIG), store.root / "parts", []
        first = take_claim(parts, file.sha256, file.size)
        assert first is not None
        first.release(done=False)
        monkeypatch.setattr(flock, "_kernel", lambda: "another")
        start = threading.Barrier(8)

        def run() -> None:
            start.wait()
            held.append(take_claim(parts, file.sha256, file.size))

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        claims = [one for one in held if one is not None]
        assert claims
        assert len({one.part for one in claims}) == len(claims)
        for one in claims:
            one.release(done=True)
        assert leftovers(store) == [f"{file.sha256}.journal"]

    def test_a_claim_is_one_process_s(self, store):
        first = take_claim(store.root / "parts", "a" * 64, 5)
        assert first is not None
        assert not first.private
        assert take_claim(store.root / "parts", "a" * 64, 5) is None
        first.release(done=False)
        second = take_claim(store.root / "parts", "a" * 64, 5)
        assert second is not None
        second.release(done=True)
        assert leftovers(store) == []


class TestPlanted:
    """Whoever can write into the store's folder of parts cannot make us write elsewhere."""

    @pytest.mark.parametrize("suffix", ["part", "journal"])
    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_links(self, store, tmp_path, suffix, link):
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        (store.root / "parts").mkdir(parents=True)
        link(victim, store.root / "parts" / f"{locked('a', BIG).sha256}.{suffix}")
        fetch_files(want(MemorySource({"a": BIG})), store, settings=QUICK)
        assert stored(store, BIG) == BIG
        assert victim.read_bytes() == b"precious"

    def test_a_second_name_of_an_empty_file(self, store, tmp_path):
        victim = tmp_path / "victim"
        victim.touch()
        os.utime(victim, (1e9, 1e9))
        (store.root / "parts").mkdir(parents=True)
        os.link(victim, store.root / "parts" / f"{locked('a', BIG).sha256}.journal")
        fetch_files(want(MemorySource({"a": BIG})), store, settings=QUICK)
        assert stored(store, BIG) == BIG
        assert victim.read_bytes() == b""

    def test_a_link_under_the_final_name(self, store, tmp_path):
        victim = tmp_path / "victim"
        victim.write_bytes(SMALL)
        final = store.path(locked("a", SMALL).sha256)
        final.parent.mkdir(parents=True)
        final.symlink_to(victim)
        fetch_files(want(MemorySource({"a": SMALL})), store, settings=QUICK)
        assert not final.is_symlink()
        assert final.read_bytes() == SMALL


class TestSmallFiles:
    FILES: ClassVar = {f"{number}": bytes([number]) * (number + 1) for number in range(40)}

    def test_few_are_asked_for_at_a_time_by_one_worker(self, store):
        """All of a worker's are asked for before the first is read, and never more than the pace allows."""
        lock, under_way, most = threading.Lock(), 0, Counter[int]()

        class Asked(MemorySource):
            def read(self, path, start, stop, size):
                nonlocal under_way
                with lock:
                    under_way += 1
                    most[threading.get_ident()] = max(most[threading.get_ident()], under_way)
                return self.given_back(super().read(path, start, stop, size))

            def given_back(self, stream):
                nonlocal under_way
                yield from stream
                with lock:
                    under_way -= 1

        source = Asked(dict(self.FILES))
        fetch_files(want(source), store, settings=FetchSettings(first=6, connections=6))
        assert all(stored(store, data) == data for data in self.FILES.values())
        assert 4 <= max(most.values()) <= 6

    def test_each_of_those_asked_together_fails_for_itself(self, store):
        failures = iter([TransferError("reset"), None, flip(0), None])
        source = MemorySource(dict(list(self.FILES.items())[:4]), wrong=lambda _: next(failures, None))
        told = Told()
        fetch_files(want(source), store, told, FetchSettings(first=4, connections=4, pause=0.001, longest=0.01))
        assert all(stored(store, data) == data for data in source.files.values())
        assert len(told.retries) == 2
        assert len(source.asked) == 6

    def test_the_status_of_each_that_came_is_told(self, store):
        files = {"small": SMALL, "big": BIG, "empty": b""}
        seen: dict[str, os.stat_result] = {}
        fetch_files(want(MemorySource(files)), store, settings=QUICK, on_stored=seen.__setitem__)
        for data in files.values():
            file = locked("a", data)
            there, told = store.path(file.sha256).stat(), seen.pop(file.sha256)
            assert (there.st_ino, there.st_size, there.st_mtime_ns) == (told.st_ino, told.st_size, told.st_mtime_ns)
        assert not seen


class TestDisk:
    def test_no_room_is_known_before_the_first_byte(self, store):
        file = locked("a", BIG)
        wanted = Wanted(type(file)(file.path, 10**18, file.sha256), MemorySource({"a": BIG}))
        with pytest.raises(LoadError, match="the store has no room"):
            fetch_files([wanted], store)
        assert wanted.source.asked == []

    @pytest.mark.parametrize(
        ("code", "text"),
        [
            (errno.ENOSPC, "the disk is full"),
            (errno.EROFS, "cannot be written, and not all"),
            (errno.EIO, "cannot be written: "),
        ],
    )
    def test_words(self, code, text):
        assert text in str(disk_error(OSError(code, os.strerror(code), "place"), Path("store")))

    def test_a_store_that_is_no_folder(self, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to(tmp_path / "gone")
        for place in (tmp_path / "file", tmp_path / "link", tmp_path / "file/below"):
            with pytest.raises(LoadError, match="the store is no folder: a file stands there, or a link") as caught:
                fetch_files(want(MemorySource({"a": BIG})), Store(place))
            assert caught.value.problems[0].where == str(place)

    def test_a_write_that_failed_is_not_forgotten(self, store, monkeypatch):
        """The kernel tells of it once; no later sync would, and the file must not get its name."""
        told = threading.Event()

        def fail(_: int) -> None:
            told.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def wait(portion: bytes, at: int) -> bytes:
            assert at < 2 * PIECE or told.wait(120)
            return portion

        monkeypatch.setattr(os, "fdatasync", fail)
        monkeypatch.setattr("packager.weights.part._MUCH", 1)
        source = MemorySource({"a": BIG}, wrong=lambda _: wait)
        with pytest.raises(LoadError, match="cannot be written: Input/output error"):
            fetch_files(want(source), store, settings=FetchSettings(connections=1))
        assert stored(store, BIG) is None

    def test_a_disk_that_fails_at_the_end_is_told(self, tmp_path):
        """When all small files have their names, and only these are not safe yet."""

        class Failing(Store):
            def sync_names(self, digests):
                if locked("a", SMALL).sha256 in digests:
                    raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(LoadError, match="the store cannot be written: Input/output error"):
            fetch_files(want(MemorySource({"a": SMALL})), Failing(tmp_path / "store"), settings=QUICK)
