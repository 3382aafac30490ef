"""The store: a file has its final name only with its bytes right and whole; memos never lie halfway."""

import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from packager.digest import sha256_hex
from packager.errors import IntegrityError
from packager.store import Store, link_or_copy, write_atomically

ROOT = Path(__file__).parents[2]
DATA = b"weights " * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def files(store):
    return sorted(path for path in store.root.rglob("*") if path.is_file())


def test_put_find_path(store):
    found = store.put([DATA[:10], DATA[10:]], sha256=SHA256)
    assert (found.sha256, found.size) == (SHA256, len(DATA))
    assert found.path == store.path(SHA256) == store.root / "sha256" / SHA256[:2] / SHA256
    assert found.path.read_bytes() == DATA
    assert store.find(SHA256) == store.find(SHA256, len(DATA)) == found
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o444


def test_an_empty_store_finds_nothing(store):
    assert store.find(SHA256) is None
    assert not store.root.exists()


def test_another_size_is_not_found(store):
    store.put([DATA])
    assert store.find(SHA256, len(DATA) - 1) is None


def test_nothing_at_all_is_a_file_too(store):
    assert store.put([]).size == 0
    assert store.find(hashlib.sha256(b"").hexdigest(), 0)


def test_wrong_bytes_leave_nothing(store):
    with pytest.raises(IntegrityError) as caught:
        store.put([DATA, b"more"], sha256=SHA256, name="model.gguf")
    (problem,) = caught.value.problems
    assert problem.where == "model.gguf"
    assert SHA256 in problem.what
    assert files(store) == []


def test_a_source_that_fails_leaves_nothing(store):
    def chunks():
        yield DATA
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.put(chunks(), sha256=SHA256)
    assert files(store) == []


def test_a_kill_leaves_no_final_name(store):
    script = f"""
import os, pathlib, signal, sys
from packager.store import Store
def chunks():
    yield {DATA!r}
    os.kill(os.getpid(), signal.SIGKILL)
Store(pathlib.Path({str(store.root)!r})).put(chunks())
"""
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -9
    assert [path.parent.name for path in files(store)] == ["tmp"]
    assert store.find(SHA256) is None


def test_add_copies_and_checks(store, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(DATA)
    assert store.add(source, sha256=SHA256).path.read_bytes() == DATA
    source.write_bytes(b"other")
    with pytest.raises(IntegrityError, match="not the locked"):
        store.add(source, sha256=SHA256)
    assert store.path(SHA256).read_bytes() == DATA


def test_many_threads_put_the_same_file(store):
    start = threading.Barrier(8)
    found = []

    def put():
        start.wait()
        found.append(store.put([DATA], sha256=SHA256))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert [path for path in files(store) if "memo" not in path.parts] == [store.path(SHA256)]


def test_who_finds_a_file_uses_it(store):
    path = store.put([DATA]).path
    os.utime(path, (1000, 2000))
    began = time.time()
    assert store.find(SHA256)
    used = path.stat()
    assert used.st_atime >= began - 1
    assert used.st_mtime == 2000, "memos of its digest still hold"
    os.utime(path, (began - 60, 2000))
    assert store.find(SHA256)
    assert path.stat().st_atime == pytest.approx(began - 60, abs=1), "no write for every look"


def test_what_was_put_has_a_name(store):
    assert store.put([DATA], name="torch-2.0.whl").sha256 == SHA256
    assert store.recall("name", SHA256) == "torch-2.0.whl"


class TestMemos:
    def test_what_is_remembered_is_recalled(self, store):
        assert store.recall("facts", "key") is None
        store.remember("facts", "key", {"a": [1, None]})
        assert store.recall("facts", "key") == {"a": [1, None]}
        store.remember("facts", "key", 2)
        assert store.recall("facts", "key") == 2
        assert store.recall("layer", "key") is None

    @pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe"])
    def test_an_unreadable_one_is_none(self, store, damage):
        store.remember("facts", "key", 1)
        (store.root / "memo/facts/key.json").write_bytes(damage)
        assert store.recall("facts", "key") is None

    def test_a_store_that_cannot_be_written_remembers_nothing(self, store):
        store.root.parent.mkdir(exist_ok=True)
        store.root.write_text("a file")
        store.remember("facts", "key", 1)
        assert store.recall("facts", "key") is None

    def test_a_reader_never_sees_half(self, store):
        values = ["a" * 100_000, "b" * 100_000]
        stop = threading.Event()

        def write():
            while not stop.is_set():
                for value in values:
                    store.remember("facts", "key", value)

        store.remember("facts", "key", values[0])
        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert all(store.recall("facts", "key") in values for _ in range(200))
        finally:
            stop.set()
            writer.join()


class TestWriteAtomically:
    def test_it_replaces_and_sets_the_mode(self, tmp_path):
        path = tmp_path / "file"
        old = os.umask(0o077)
        try:
            write_atomically(path, b"one")
            write_atomically(path, b"two", mode=0o600)
        finally:
            os.umask(old)
        assert path.read_bytes() == b"two"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        write_atomically(path, b"three")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "folder"
        path.mkdir()
        with pytest.raises(OSError, match="directory"):
            write_atomically(path, b"data")
        assert list(tmp_path.iterdir()) == [path]


def test_link_or_copy(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(DATA)
    link_or_copy(source, tmp_path / "link")
    assert (tmp_path / "link").stat().st_ino == source.stat().st_ino
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm to copy to")
    target = shared / f"packager-{os.getpid()}"
    try:
        link_or_copy(source, target)
        assert target.read_bytes() == DATA
    finally:
        target.unlink()


class TestSmallFiles:
    FILES: ClassVar = {sha256_hex(data): data for data in (b"", b"one", b"two" * 1000)}

    def test_all_are_found_and_read_only(self, store):
        store.put_small(self.FILES)
        store.put_small(self.FILES)  # again does no harm
        store.sync_names(self.FILES)
        for digest, data in self.FILES.items():
            found = store.find(digest, len(data))
            assert found.path.read_bytes() == data
            assert found.path.stat().st_mode & 0o777 == 0o444
        assert list((store.root / "tmp").iterdir()) == []

    def test_a_failure_leaves_nothing_half(self, store):
        blocked = store.path(max(self.FILES)).parent
        blocked.parent.mkdir(parents=True)
        blocked.write_bytes(b"")  # a file where a folder should be
        with pytest.raises(OSError, match=blocked.name):
            store.put_small(self.FILES)
        assert list((store.root / "tmp").iterdir()) == []
        assert store.find(max(self.FILES)) is None
