import errno
import fcntl
import os
from pathlib import Path

import pytest
from fakes.machine import missing

from packager.weights import flock
from packager.weights.flock import ALONE, AT_ONCE, DISK, SHARED, excludes, lock, reach

MEMORY = Path("/dev/shm")  # a tmpfs wherever there is one


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "file"
    path.touch()
    descriptors = [os.open(path, os.O_RDWR) for _ in range(2)]
    yield descriptors
    for one in descriptors:
        os.close(one)


@pytest.mark.parametrize(
    ("first", "second", "got"),
    [(ALONE, ALONE, False), (ALONE, SHARED, False), (SHARED, ALONE, False), (SHARED, SHARED, True)],
)
def test_one_alone_or_many_together(two, first, second, got):
    assert lock(two[0], first) is True
    assert lock(two[1], second | AT_ONCE) is got


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks(two, monkeypatch, code):
    """As some network file systems answer, of which there is none here."""

    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lock(two[0], ALONE | AT_ONCE) is None


def test_whether_locks_do_anything(two, tmp_path, monkeypatch):
    lock(two[0], ALONE)
    assert excludes(tmp_path / "file")
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert not excludes(tmp_path / "file")


def test_locks_on_a_disk_are_seen_by_whoever_has_it_also_after_a_new_start(monkeypatch):
    if not MEMORY.is_dir():
        missing(f"no {MEMORY}, which is on a file system of this kernel alone")
    descriptor = os.open(MEMORY, os.O_RDONLY)
    assert reach(descriptor) == DISK
    monkeypatch.setattr(flock, "_kernel", lambda: "another")
    assert reach(descriptor) == DISK
    os.close(descriptor)


def test_locks_on_anything_else_are_seen_within_one_kernel_and_one_mount(monkeypatch):
    """As on network file systems, of which there is none here."""
    places = [os.open("/proc/self/status", os.O_RDONLY), os.open("/sys", os.O_RDONLY), os.memfd_create("nowhere")]
    here = [reach(one) for one in places]
    assert len({DISK, *here}) == 4
    assert [reach(one) for one in places] == here
    monkeypatch.setattr(flock, "_kernel", lambda: "another")
    assert not set(here) & {reach(one) for one in places}
    for one in places:
        os.close(one)


def test_other_errors_pass(two, tmp_path):
    closed = os.open(tmp_path / "file", os.O_RDWR)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock(closed, ALONE)
