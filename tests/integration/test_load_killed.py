"""Loads that are killed, that race, and that lose what was not synced: never a wrong byte under a final name."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from blake3 import blake3
from fakes.serving import wait_until
from fakes.sources import locked
from fakes.victim import Victim
from fakes.web import Web

from packager.digest import hash_file, sha256_hex
from packager.manifest import WeightsFile
from packager.store import Store
from packager.weights.chunks import PIECE, piece_size

KILLS = 200
SEED = 20261120
BIG = random.Random(SEED).randbytes(24 * PIECE + 4321)
FILES = {"model.safetensors": BIG, "config.json": b"{}" * 400, "tokenizer.json": BIG[: PIECE // 3]}


def wanted(*, chunks: bool) -> list[WeightsFile]:
    return [locked(path, data, chunks=chunks) for path, data in FILES.items()]


def assert_nothing_wrong(store: Store) -> None:
    """Every file under a final name has the bytes of that name."""
    for path in (store.root / "sha256").rglob("*"):
        if path.is_file():
            assert hash_file(path)[0] == path.name, f"{path} has other bytes than its name says"


def kept(store: Store, file: WeightsFile) -> int:
    """Bytes of the file that need no second fetch: it is there, or its part has them as its journal says."""
    if store.find(file.sha256, file.size) is not None:
        return file.size
    journal = store.root / "parts" / f"{file.sha256}.journal"
    part = journal.with_suffix(".part")
    if not part.exists():
        return 0
    data, total = part.read_bytes(), {}
    for line in journal.read_bytes().split(b"\n")[1:-1]:
        number, digest = line.split()
        at = int(number) * PIECE
        length = piece_size(file.size, int(number))
        if blake3(data[at : at + length]).hexdigest().encode() == digest:
            total[int(number)] = length
    return sum(total.values())


@pytest.mark.parametrize("chunks", [True, False], ids=["digests of chunks", "sha256 alone"])
def test_kill_at_any_moment(tmp_path, chunks, record_property) -> None:
    """Killed at random instants, run again: the right bytes, and at most 1.05 times what was missing."""
    files, dice, worst = wanted(chunks=chunks), random.Random(SEED), 0.0
    size = sum(file.size for file in files)
    with Web(dict(FILES), bytes_per_second=120e6) as web, Victim(files, f"{web.url}/", tmp_path / "store") as victim:
        store = Store(tmp_path / "store")
        begun = time.monotonic()
        victim.begin()
        assert victim.end() == 0
        usual = time.monotonic() - begun
        landed = []
        for _ in range(KILLS // 2):
            _empty(store)
            pid = victim.begin()
            time.sleep(dice.uniform(0, usual))
            os.kill(pid, signal.SIGKILL)
            victim.end()
            web.disconnect()  # what goes to the dead is counted until its connections have ended
            assert_nothing_wrong(store)
            there = sum(kept(store, file) for file in files)
            landed.append(there)
            before = web.sent
            victim.begin()
            assert victim.end() == 0
            assert_nothing_wrong(store)
            assert all(store.find(file.sha256, file.size) for file in files)
            assert not list((store.root / "parts").iterdir())
            missing, fetched = size - there, web.sent - before
            assert fetched <= 1.05 * missing, f"{fetched} bytes were fetched where {missing} were missing"
            worst = max(worst, fetched / missing) if missing else worst
    record_property("worst", worst)
    assert any(0 < there < size for there in landed), "no kill came in the middle of a load"


def _empty(store: Store) -> None:
    for folder in ("sha256", "parts", "memo"):
        for path in sorted((store.root / folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("processes", [8])
def test_processes_that_race_fetch_once(tmp_path, processes) -> None:
    files = wanted(chunks=False)
    size = sum(file.size for file in files)
    with Web(dict(FILES), bytes_per_second=100e6) as web:
        victims = [Victim(files, f"{web.url}/", tmp_path / "store") for _ in range(processes)]
        for victim in victims:
            victim.begin()
        assert [victim.end() for victim in victims] == [0] * processes
        for victim in victims:
            victim.__exit__()
        assert web.sent <= 1.02 * size
    store = Store(tmp_path / "store")
    assert_nothing_wrong(store)
    assert not list((store.root / "parts").iterdir())


def test_the_one_that_fetched_is_killed_and_another_goes_on(tmp_path) -> None:
    files = wanted(chunks=False)
    size = sum(file.size for file in files)
    with (
        Web(dict(FILES), bytes_per_second=20e6) as web,
        Victim(files, f"{web.url}/", tmp_path / "store") as first,
        Victim(files, f"{web.url}/", tmp_path / "store") as second,
    ):
        pid = first.begin()
        wait_until(lambda: web.sent >= size // 3, "a third has come")
        second.begin()
        os.kill(pid, signal.SIGKILL)
        first.end()
        assert second.end() == 0
        assert web.sent < 1.6 * size  # what the first had verified was not asked for again
    assert_nothing_wrong(Store(tmp_path / "store"))


def test_two_versions_at_the_source(tmp_path) -> None:
    """What was locked is killed half way; the source changes; the right version comes back: nothing is spliced."""
    files, other = wanted(chunks=False), bytes(reversed(BIG))
    with (
        Web(FILES | {"model.safetensors": other}, bytes_per_second=30e6) as web,
        Victim(files, f"{web.url}/", tmp_path / "store") as victim,
    ):
        pid = victim.begin()
        wait_until(lambda: web.sent >= len(BIG) // 2, "a half has come")
        os.kill(pid, signal.SIGKILL)
        victim.end()
        web.files["model.safetensors"] = BIG
        victim.begin()
        assert victim.end() == 0
    store = Store(tmp_path / "store")
    assert_nothing_wrong(store)
    assert store.path(sha256_hex(BIG)).read_bytes() == BIG


def test_the_source_changed_for_good(tmp_path) -> None:
    files = [locked("model.safetensors", BIG)]
    changed = {"model.safetensors": bytes(reversed(BIG))}
    with Web(changed) as web, Victim(files, f"{web.url}/", tmp_path / "store") as victim:
        victim.begin()
        assert victim.end() != 0
    assert not any(path.is_file() for path in Path(tmp_path / "store/sha256").rglob("*"))
