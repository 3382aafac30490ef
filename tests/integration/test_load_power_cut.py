"""A power cut at any moment, with everything forgotten that was not synced: no wrong byte under a final name."""

import random
from pathlib import Path

import pytest
from fakes.disk import Recorder
from fakes.sources import MemorySource, locked

from packager.digest import hash_file
from packager.manifest import WeightsFile
from packager.store import Store
from packager.weights.chunks import PIECE
from packager.weights.fetch import FetchSettings, Wanted, fetch_files

SEED = 20261120
STATES = 4
"""Different states that are tried for each moment of the cut."""
FILES = {"big": random.Random(SEED).randbytes(3 * PIECE + 77), "small": b"{}" * 100, "smaller": b"[]"}
ONE_AT_A_TIME = FetchSettings(connections=1)


def wanted(source: MemorySource) -> list[Wanted]:
    return [Wanted(locked(path, data), source) for path, data in FILES.items()]


def wrong(store: Store) -> list[Path]:
    every = (path for path in (store.root / "sha256").rglob("*") if path.is_file())
    return [path for path in every if hash_file(path)[0] != path.name]


@pytest.fixture
def disk(tmp_path: Path) -> Recorder:
    """What a whole fetch does to the disk."""
    root = tmp_path / "recorded"
    with Recorder(root) as disk:
        fetch_files(wanted(MemorySource(dict(FILES))), Store(root), settings=ONE_AT_A_TIME)
    disk.done = [call for call in disk.done if "/memo/" not in call.name + call.target]  # memos are caches
    return disk


def test_what_a_cut_leaves_is_never_taken_for_the_file(disk: Recorder, tmp_path: Path) -> None:
    dice, whole = random.Random(SEED), 0
    for cut in range(len(disk.done) + 1):
        for state in range(STATES):
            store = Store(tmp_path / f"{cut}-{state}")
            store.root.mkdir()
            disk.leave(cut, dice, store.root)
            assert wrong(store) == []
            source = MemorySource(dict(FILES))
            fetch_files(wanted(source), store, settings=ONE_AT_A_TIME)
            assert wrong(store) == []
            assert all(_bytes(store, locked(path, data)) == data for path, data in FILES.items())
            whole += source.given == 0
    assert whole  # the last cuts lost nothing


def test_when_a_fetch_has_ended_no_cut_takes_anything(disk: Recorder, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    for state in range(10 * STATES):
        store = Store(tmp_path / str(state))
        store.root.mkdir()
        disk.leave(len(disk.done), dice, store.root)
        assert {path: _bytes(store, locked(path, data)) for path, data in FILES.items()} == FILES


def _bytes(store: Store, file: WeightsFile) -> bytes:
    found = store.find(file.sha256, file.size)
    assert found is not None
    return found.path.read_bytes()


def test_the_model_of_the_disk_sees_a_missing_sync(disk: Recorder, tmp_path: Path) -> None:
    """The same calls without their syncs: some cut leaves wrong bytes, so the test above can fail."""
    disk.done = [call for call in disk.done if call.kind != "sync"]
    dice, found = random.Random(SEED), []
    for cut in range(len(disk.done) + 1):
        for state in range(STATES):
            store = Store(tmp_path / f"{cut}-{state}")
            store.root.mkdir()
            disk.leave(cut, dice, store.root)
            found += wrong(store)
    assert found
