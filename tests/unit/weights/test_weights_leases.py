"""Leases: held by living processes alone, whatever ended the others; never taken while the gate is shut."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.stores import loading_package, write_weights

from packager.manifest import read_manifest
from packager.store import Store
from packager.weights import flock
from packager.weights.flock import DISK
from packager.weights.leases import Leasing, clear_dead, gate, leased, living, names_of

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys
from pathlib import Path
from packager.store import Store
from packager.weights.leases import Leasing
leasing = Leasing(Store(Path(sys.argv[1])), "other", {"aa": "a.bin"})
leasing.take()
print("taken", flush=True)
sys.stdin.read()
leasing.release()
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def files(store):
    return sorted(path.name for path in (store.root / "leases").glob("*.json"))


def holder(store):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "taken\n"
    return process


def test_a_lease_says_who_uses_what(store):
    with leased(store, "hello", {"aa": "a.bin"}):
        (lease,) = living(store)
        assert (lease.holder, lease.pid, lease.files) == ("hello", os.getpid(), {"aa": "a.bin"})
    assert living(store) == ()
    assert files(store) == []
    (names,) = (store.root / "memo/names").iterdir()
    assert json.loads(names.read_bytes()) == {"aa": "a.bin"}, "for lists, when nobody holds it"


def test_it_is_taken_once_and_released_once(store):
    leasing = Leasing(store, "hello", {"aa": "a.bin"})
    leasing.take()
    leasing.take()
    assert len(living(store)) == 1
    leasing.release()
    leasing.release()
    assert living(store) == ()
    leasing.take()
    assert len(living(store)) == 1, "an engine that was started again"
    leasing.release()


@pytest.mark.parametrize("holder", ["../../../victim", "{}/victim", "a/b", "x" * 300, "\ud800", ""])
def test_a_package_may_call_itself_anything(store, tmp_path, holder):
    """A manifest is a file that anyone can have written: nothing is written outside of the store."""
    (tmp_path / "victim.json").write_text("mine")
    with leased(store, holder.format(tmp_path), {"aa": "a.bin"}):
        assert [lease.files for lease in living(store)] == [{"aa": "a.bin"}]
    assert len(list((store.root / "memo/names").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"victim.json", store.root.name}
    assert (tmp_path / "victim.json").read_text() == "mine"


def test_who_uses_nothing_leaves_no_trace(store):
    Leasing(store, "echo", {}).take()
    assert not store.root.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, None], ids=["kill -9", "a clean end"])
def test_it_ends_with_its_process(store, number):
    with holder(store) as process:
        (lease,) = living(store)
        assert (lease.holder, lease.pid) == ("other", process.pid)
        if number is None:
            process.stdin.close()
        else:
            process.send_signal(number)
        process.wait()
        assert living(store) == ()
        assert len(files(store)) == (0 if number is None else 1)
        assert clear_dead(store) == (0 if number is None else 1)
        assert files(store) == []


def test_the_dead_are_cleared_and_the_living_are_not(store):
    with leased(store, "hello", None), holder(store) as process:
        process.kill()
        process.wait()
        assert clear_dead(store) == 1
        assert [lease.holder for lease in living(store)] == ["hello"]


def test_none_is_taken_while_the_gate_is_shut(store):
    taken = threading.Event()
    leasing = Leasing(store, "hello", None)

    def take():
        leasing.take()
        taken.set()

    thread = threading.Thread(target=take)
    with gate(store, shut=True):
        thread.start()
        assert not taken.wait(0.2)
        assert living(store) == ()
    thread.join()
    assert len(living(store)) == 1
    leasing.release()


def test_a_lease_counts_whose_lock_may_not_be_seen_here(store):
    """Of a machine that shares the volume, whatever it is called: containers on many have one name."""
    with leased(store, "hello", {"aa": "a.bin"}):
        (name,) = files(store)
        value = json.loads((store.root / "leases" / name).read_bytes())
    path = store.root / "leases" / "left.json"
    for beyond in (DISK, "another-kernel:41", ""):
        if beyond != value["locks"]:
            path.write_text(json.dumps(value | {"locks": beyond}))
            assert [lease.host for lease in living(store)] == [value["host"]]
            assert clear_dead(store) == 0
    path.write_text(json.dumps(value | {"host": "another"}))
    assert living(store) == (), "its lock would be seen: nobody has it any more"


def test_where_locks_do_nothing_a_lease_counts_while_its_file_is_there(store, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with leased(store, "hello", {"aa": "a.bin"}):
        assert [lease.holder for lease in living(store)] == ["hello"]
        assert clear_dead(store) == 0
    assert living(store) == ()


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b'{"of": "a later version"}'])
def test_a_lease_that_nobody_holds_and_nobody_can_read_ends_on_a_disk_alone(store, monkeypatch, data):
    """A power cut leaves such. On a volume that machines share, it may be of one whose packager is another."""
    with leased(store, "hello", None):
        (lease,) = living(store)
        (store.root / "leases" / "left.json").write_bytes(data)
        assert len(living(store)) == (1 if lease.locks == DISK else 2)
        monkeypatch.setattr(flock, "_DISKS", frozenset())
        assert [one.files for one in living(store)] == [None, None]


def test_a_held_lease_that_cannot_be_read_protects_everything(store):
    with leased(store, "hello", {"aa": "a.bin"}):
        (name,) = files(store)
        (store.root / "leases" / name).write_text('{"of": "a later version"}')
        (lease,) = living(store)
        assert lease.files is None


def test_a_store_that_cannot_be_written_is_used_without_a_lease(tmp_path):
    (tmp_path / "store").write_text("a file in place of the folder")
    with leased(Store(tmp_path / "store"), "hello", None):
        pass
    with pytest.raises(OSError, match="Not a directory"):
        Leasing(Store(tmp_path / "store"), "hello", None).take()


def test_names_have_no_signatures_and_no_files_that_ship_in_the_package(tmp_path):
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"a"))
    manifest = read_manifest(package)
    (file,) = manifest.weights.files
    signed = replace(manifest.weights, source="https://example.com/m?signature=secret")
    shipped = replace(manifest, adapters={"lora": replace(manifest.weights, ship="in_image")})
    assert names_of(replace(shipped, weights=signed)) == {file.sha256: "https://example.com/m/a.bin"}
    assert names_of(replace(manifest, weights=None)) == {}
    beside = replace(manifest.weights, source="hf://ada/model", files=(replace(file, path="t.json", sha256="b" * 64),))
    assert names_of(replace(shipped, tokenizer=beside)) == {
        file.sha256: f"file://{tmp_path}/source/a.bin",
        "b" * 64: "hf://ada/model/t.json",
    }


@pytest.mark.parametrize("source", ["s3://models/hello/a.bin", "https://example.com/a.bin", "file:///models/a.bin"])
def test_the_address_of_one_file_is_its_name(tmp_path, source):
    package = loading_package(tmp_path / "package", write_weights(tmp_path / "source", a=b"a"), address=source)
    assert list(names_of(read_manifest(package)).values()) == [source]
