"""Stores that are full, cannot be read or written, or are another user's: real file systems and users (root only)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.cli import ROOT
from fakes.machine import missing
from fakes.sources import MemorySource, locked

from packager.errors import LoadError
from packager.manifest import EngineManifest, Manifest, ServingManifest, WeightsManifest
from packager.store import Store
from packager.weights.chunks import PIECE
from packager.weights.fetch import FetchSettings, Wanted, fetch_files
from packager.weights.load import ensure_weights, fetch_weights

BIG = bytes(range(256)) * (5 * PIECE // 256)
ONE = FetchSettings(connections=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 8 MiB."""
    if os.geteuid():
        missing("root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_too_small_from_the_beginning(small_disk: Path) -> None:
    """Nothing is asked of the source, and nothing is left on the disk."""
    source = MemorySource({"a": BIG * 2})
    with pytest.raises(LoadError, match=r"0\.01 GB are to come, 0\.01 GB are free") as caught:
        fetch_files([Wanted(locked("a", BIG * 2), source)], Store(small_disk / "store"), settings=ONE)
    assert "packager store prune" in caught.value.problems[0].mend
    assert source.asked == []
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_full_in_the_middle(small_disk: Path) -> None:
    """Somebody else fills the disk: said clearly, what came is kept, and with room again it goes on there."""
    store, other = Store(small_disk / "store"), small_disk / "other"
    source = MemorySource({"a": BIG})

    def fill(portion: bytes, at: int) -> bytes:
        if at >= 2 * PIECE and not other.exists():
            status = os.statvfs(small_disk)
            other.write_bytes(bytes(status.f_bavail * status.f_frsize))
        return portion

    source.wrong = lambda _: fill
    with pytest.raises(LoadError, match="the disk is full") as caught:
        fetch_files([Wanted(locked("a", BIG), source)], store, settings=ONE)
    assert "what was fetched is kept" in caught.value.problems[0].mend
    assert store.find(locked("a", BIG).sha256) is None
    other.unlink()
    source.wrong, source.given = lambda _: None, 0
    fetch_files([Wanted(locked("a", BIG), source)], store, settings=ONE)
    assert source.given == len(BIG) - 2 * PIECE
    assert store.path(locked("a", BIG).sha256).read_bytes() == BIG


@pytest.fixture
def package(tmp_path: Path) -> Manifest:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/model.gguf").write_bytes(BIG)
    weights = WeightsManifest(f"file://{tmp_path}/source", "", "on_load", ".", (locked("model.gguf", BIG),))
    serving = ServingManifest("standalone", "packager", 1, 1, 1, 1)
    return Manifest("hello", "0", EngineManifest("llama_cpp", "1", {}), weights, serving)


class TestReadOnly:
    @pytest.fixture
    def freeze(self, small_disk: Path):
        def freeze() -> None:
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

        return freeze

    def test_with_everything_present(self, small_disk, package, tmp_path, freeze) -> None:
        store = Store(small_disk)
        ensure_weights(package, tmp_path, store)
        freeze()
        (tmp_path / "source/model.gguf").unlink()
        root = ensure_weights(package, tmp_path, store)
        assert (root / "model.gguf").read_bytes() == BIG

    def test_with_the_files_alone(self, small_disk, package, tmp_path, freeze) -> None:
        """Without its memos it is hashed at each load, and laid out beside the process's temporary files."""
        store = Store(small_disk)
        store.put([BIG])
        freeze()
        (tmp_path / "source/model.gguf").unlink()
        root = ensure_weights(package, tmp_path, store)
        assert (root / "model.gguf").read_bytes() == BIG
        assert not root.is_relative_to(small_disk)

    def test_with_something_missing(self, small_disk, package, tmp_path, freeze) -> None:
        freeze()
        with pytest.raises(LoadError, match="cannot be written, and not all that is needed is in it") as caught:
            ensure_weights(package, tmp_path, Store(small_disk))
        assert "packager fetch" in caught.value.problems[0].mend


# Becomes another user, who owns nothing here, once all is imported. The store is the working folder: what leads there
# may be closed to that user.
ANOTHER_USER = """
import os, sys
from pathlib import Path
from fakes.sources import MemorySource, locked
from packager.store import Store
from packager.weights.fetch import Wanted, fetch_files
data = bytes(range(256)) * int(sys.argv[1])
os.setgroups([]), os.setgid(65532), os.setuid(65532)
fetched = fetch_files([Wanted(locked("a", data), MemorySource({"a": data}))], Store(Path()))
print(fetched, Store(Path()).find(locked("a", data).sha256).path.stat().st_uid)
"""


def test_what_another_user_began(tmp_path: Path) -> None:
    """Parts of another user can be neither read nor written: a store that both may write is filled all the same."""
    if os.geteuid():
        missing("root, to become another user")
    store, source = Store(tmp_path / "store"), MemorySource({"a": BIG})

    def leave(portion: bytes, at: int) -> bytes:
        if at >= 2 * PIECE:
            raise LoadError("gone")
        return portion

    source.wrong = lambda _: leave
    with pytest.raises(LoadError, match="gone"):
        fetch_files([Wanted(locked("a", BIG), source)], store, settings=ONE)
    assert list(store.root.glob("parts/*.journal"))
    for folder in (store.root, *store.root.rglob("*/")):
        folder.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_USER, str(len(BIG) // 256)],
        cwd=store.root,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(len(BIG)), "65532"], done.stderr


FETCHES = """
import os
from pathlib import Path
from fakes.sources import MemorySource, locked
from packager.store import Store
from packager.weights.fetch import Wanted, fetch_files
files = {"large": bytes(range(256)) * 8192, "small": b"x"}
source = MemorySource(files)
print(fetch_files([Wanted(locked(name, data), source) for name, data in files.items()], Store(Path())))
print(os.path.exists("/proc/self"), os.listdir("parts"))
"""


def test_without_proc(tmp_path: Path) -> None:
    """As in some sandboxes in which images are built."""
    if os.geteuid():
        missing("root, to take /proc away")
    without = ["unshare", "--mount", "sh", "-c", 'umount --lazy /proc && exec "$0" "$@"']
    done = subprocess.run(
        [*without, sys.executable, "-c", FETCHES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [str(256 * 8192 + 1), "False []"], done.stderr


LISTS = """
import os
from pathlib import Path
from packager.errors import LoadError
from packager.weights.file import FileSource
os.setgroups([]), os.setgid(65532), os.setuid(65532)
try:
    print(FileSource(Path()).inventory())
except LoadError as error:
    print(error.problems[0].where, error.problems[0].what)
"""


def test_a_folder_of_weights_that_this_user_may_not_read(tmp_path: Path) -> None:
    """It is not left out: nobody would know that it is missing."""
    if os.geteuid():
        missing("root, to become another user")
    tmp_path.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "closed/model.safetensors").write_bytes(b"weights")
    done = subprocess.run(
        [sys.executable, "-c", LISTS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "closed the weights cannot be listed: Permission denied\n", done.stderr


def test_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    """A disk that fails is no bug of ours: what is to be read there is said, and where."""
    data = b"weights"
    final = Store(tmp_path).path(locked("a", data).sha256)
    final.parent.parent.mkdir()
    final.parent.symlink_to(final.parent)  # a folder that cannot be entered, whoever asks: it leads to itself
    weights = WeightsManifest("file:///nowhere", "", "on_load", ".", (locked("a", data),))
    with pytest.raises(LoadError, match="the store cannot be read: Too many levels of symbolic links"):
        fetch_weights((weights,), Store(tmp_path))


def test_a_file_in_place_of_the_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("no folder")
    weights = WeightsManifest("file:///nowhere", "", "on_load", ".", (locked("a", b"weights"),))
    with pytest.raises(LoadError, match="the store is no folder"):
        fetch_weights((weights,), Store(store))
