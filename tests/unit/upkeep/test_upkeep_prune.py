"""Pruning: what is used, new or being fetched stays, whoever else is at work; the rest goes."""

import fcntl
import hashlib
import json
import math
import os
import threading
import time

import pytest
from fakes.stores import loading_package, write_weights

from packager.errors import BusyError, OutputError
from packager.fetch import fetch_package
from packager.manifest import read_manifest
from packager.store import Store
from packager.upkeep.inventory import take_inventory
from packager.upkeep.prune import PruneOptions, prune
from packager.weights.claim import take_claim
from packager.weights.leases import Leasing, leased

DAY = 86400.0
ALL = PruneOptions(-math.inf)
MONTH = PruneOptions(30 * DAY)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def put(store, data=b"data", *, age=0.0, name="a.whl"):
    """The digest of a file that was last used `age` seconds ago."""
    stored = store.put([data], name=name)
    aged(stored.path, age)
    return stored.sha256


def aged(path, age):
    then = time.time() - age
    os.utime(path, (then, then), follow_symlinks=False)


def here(store):
    return sorted(path.name for path in (store.root / "sha256").glob("*/*"))


def below(store, folder):
    return sorted(path.name for path in (store.root / folder).glob("*"))


def test_what_was_not_used_for_so_long_goes(store):
    old, new = put(store, b"old", age=31 * DAY), put(store, b"new", age=29 * DAY)
    done = prune(store, MONTH)
    assert [item.sha256 for item in done.items] == [old]
    assert done.size == 3
    assert here(store) == [new]
    assert below(store, "tmp") == [], "and is deleted"
    prune(store, ALL)
    assert here(store) == []


def test_finding_a_file_keeps_it(store):
    old = put(store, age=31 * DAY)
    assert store.find(old)
    assert prune(store, MONTH).items == []


def test_a_dry_run_removes_nothing(store):
    old = put(store, age=31 * DAY)
    done = prune(store, PruneOptions(30 * DAY, dry_run=True))
    assert [item.sha256 for item in done.items] == [old]
    assert here(store) == [old]


def test_what_a_process_uses_stays_however_old(store):
    used, free = put(store, b"used", age=99 * DAY), put(store, b"free", age=99 * DAY)
    with leased(store, "hello", {used: "a.bin"}):
        done = prune(store, ALL)
        assert [item.sha256 for item in done.items] == [free]
        assert [item.users[0].split(" (")[0] for item in done.used] == ["hello"]
        assert here(store) == [used]
    prune(store, ALL)
    assert here(store) == []


def test_a_build_uses_everything(store):
    old = put(store, age=99 * DAY)
    with leased(store, "packager build", None), pytest.raises(BusyError, match=r"packager build .* uses the store"):
        prune(store, ALL)
    assert here(store) == [old]


def test_a_build_on_another_machine_that_nobody_can_see_has_a_file_to_remove(store):
    old = put(store, age=99 * DAY)
    left = store.root / "leases/7-abc.json"
    left.parent.mkdir()
    lease = {"holder": "packager build", "pid": 7, "host": "h", "locks": "another:1", "since": 1, "files": None}
    left.write_text(json.dumps(lease))
    with pytest.raises(BusyError) as caught:
        prune(store, ALL)
    (problem,) = caught.value.problems
    assert problem.mend.endswith("if it has, by a crash on another machine, remove leases/7-*.json there")
    left.unlink()
    prune(store, ALL)
    assert old not in here(store)


def test_a_store_that_is_not_there_has_nothing_to_prune(store):
    assert prune(store, ALL).size == 0
    assert not store.root.exists()


def test_a_store_that_cannot_be_written_is_refused(store):
    store.root.mkdir()
    (store.root / "leases").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be pruned"):
        prune(store, ALL)


class TestUnfinishedFetches:
    SHA256 = hashlib.sha256(b"whole").hexdigest()

    @pytest.fixture
    def claim(self, store):
        claim = take_claim(store.root / "parts", self.SHA256, 5)
        claim.part.write_bytes(b"who")
        yield claim
        claim.release(done=False)

    def test_one_that_lives_stays(self, store, claim):
        assert prune(store, ALL).parts == []
        assert claim.part.exists()

    def test_one_that_was_broken_off_goes(self, store):
        claim = take_claim(store.root / "parts", self.SHA256, 5)
        claim.part.write_bytes(b"who")
        claim.release(done=False)
        assert prune(store, MONTH).parts == [], "not yet: it would go on where it broke off"
        assert prune(store, PruneOptions(-math.inf, keep_parts=True)).parts == []
        (part,) = prune(store, ALL).parts
        assert part.sha256 == self.SHA256
        assert below(store, "parts") == []

    def test_one_that_a_lease_names_stays(self, store):
        take_claim(store.root / "parts", self.SHA256, 5).release(done=False)
        with leased(store, "hello", {self.SHA256: "a.bin"}):
            assert prune(store, ALL).parts == []
        assert below(store, "parts") == [f"{self.SHA256}.journal"]


class TestAroundFiles:
    @pytest.fixture
    def manifest(self, tmp_path, store):
        package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"a" * (2 << 20), b=b"b"))
        manifest = read_manifest(package)
        fetch_package(manifest, store)
        fetch_package(manifest, store)  # finds all, and remembers that
        return manifest

    def test_trees_and_memos_go_with_their_files(self, store, manifest):
        done = prune(store, ALL)
        assert (len(done.items), done.trees) == (2, 1)
        assert below(store, "trees") == []
        assert sorted(path.name for path in (store.root / "memo").glob("*/*")) == []

    def test_trees_and_memos_stay_with_their_files(self, store, manifest):
        before = sorted(store.root.rglob("*.json"))
        done = prune(store, MONTH)
        assert (done.trees, done.memos) == (0, 0)
        assert len(below(store, "trees")) == 1
        assert sorted(store.root.rglob("*.json")) == before
        assert len(before) >= 3

    def test_a_tree_that_lost_a_file_goes(self, store, manifest):
        store.path(manifest.weights.files[0].sha256).unlink()
        assert prune(store, MONTH).trees == 1

    def test_a_tree_whose_files_a_process_fetches_stays(self, store, manifest):
        store.path(manifest.weights.files[0].sha256).unlink()
        with leased(store, "hello", {file.sha256: file.path for file in manifest.weights.files}):
            assert prune(store, MONTH).trees == 0

    def test_other_memos_stay(self, store, manifest):
        store.remember("facts", "python", {"a": 1})
        prune(store, ALL)
        assert store.recall("facts", "python") == {"a": 1}

    def test_what_killed_processes_left_goes_after_a_day(self, store, manifest):
        left = [store.root / path for path in ("tmp/abc", "rootfs-x", "trees/.new-x", "leases/.1-x")]
        new = store.root / "tmp/now"
        for path in (*left, new):
            path.mkdir(parents=True)
        for path in left:
            aged(path, 2 * DAY)
        assert prune(store, MONTH).temporary == len(left)
        assert [path for path in (*left, new) if path.exists()] == [new]


def test_nothing_is_decided_before_the_gate_is_shut(store):
    """Whenever prune looks at a memo, no lease can be taken."""
    shut = []

    class Looking(Store):
        def recall(self, kind, key):
            with (self.root / "leases/.gate").open() as gate:
                try:
                    fcntl.flock(gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    shut.append(False)
                except BlockingIOError:
                    shut.append(True)
            return super().recall(kind, key)

    put(store)
    prune(Looking(store.root), ALL)
    assert shut
    assert all(shut)


def test_what_is_found_under_a_lease_stays_while_others_prune(store):
    """A thread that loads over and over, and one that prunes all the time."""
    data = b"weights"
    sha256, over, lost = hashlib.sha256(data).hexdigest(), threading.Event(), []

    def load():
        while not over.is_set():
            leasing = Leasing(store, "hello", {sha256: "a.bin"})
            leasing.take()
            found = store.find(sha256) or store.put([data])
            lost.extend(1 for _ in range(20) if not found.path.exists())
            leasing.release()

    thread = threading.Thread(target=load)
    thread.start()
    removed = 0
    while removed < 150 and not lost:
        removed += len(prune(store, ALL).items)
    over.set()
    thread.join()
    assert lost == []


def test_the_inventory_outlives_what_vanishes(store, tmp_path):
    put(store)
    (store.root / "sha256" / "ab").mkdir(exist_ok=True)
    (store.root / "sha256" / "ab" / "not-a-digest").write_bytes(b"")
    assert len(take_inventory(store).items) == 1
    assert take_inventory(Store(tmp_path / "none")).items == ()
