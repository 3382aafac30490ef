import errno
import fcntl
import os

import pytest

from packager.weights.flock import ALONE, AT_ONCE, SHARED, lock


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


def test_other_errors_pass(two, tmp_path):
    closed = os.open(tmp_path / "file", os.O_RDWR)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock(closed, ALONE)
