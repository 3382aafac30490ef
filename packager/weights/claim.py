"""Who may write an unfinished file: one process at a time, by a lock on its journal.

A lock saves bandwidth: nine of ten racing processes wait for the one that fetches. Correctness does not lean on it.
A part that others may be writing is never adopted: where the file system's locks do nothing, or where a journal
was begun out of their reach (on another machine, on volumes whose locks end there), the claim is on a file of another
name; where locks do nothing it is *private*: nobody else opens that file.
"""

import errno
import json
import os
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from .flock import ALONE, AT_ONCE, DISK, excludes, lock, reach

FORMAT = 2
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.EPERM)
"""What file systems answer that make no file without a name (open(2), O_TMPFILE), or give it none later: where there is
no /proc, or no hard links."""


_SETTLED = 60
"""Seconds after which whoever begins a journal from beyond our locks has written its first line."""
_BLOCK = 4096
_NOT_OURS = (errno.ELOOP, errno.EACCES, errno.EPERM)
"""A link was planted there, or another user began it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write `part` and `journal`; `descriptor` is the open journal, locked unless `private`."""

    part: Path
    journal: Path
    descriptor: int
    private: bool

    def release(self, *, done: bool) -> None:
        """Give the claim back. `done` removes the journal; a private claim leaves nothing in any case."""
        if done or self.private:
            with suppress(FileNotFoundError):
                self.journal.unlink()  # while it is locked: who waits for the lock sees that the name is gone
        if self.private:
            with suppress(FileNotFoundError):
                self.part.unlink()
        os.close(self.descriptor)


def take_claim(folder: Path, sha256: str, size: int) -> Claim | None:
    """The claim on the file with this digest; None while another process has it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / f"{sha256}.journal"
    while (taken := _take(journal, sha256, size)) is _Not.THERE:
        _begin_journal(journal, sha256, size)
    if taken is _Not.OURS:  # then what an earlier process of ours made in its place, or one that is at it
        others = (_take(one, sha256, size) for one in sorted(folder.glob(f"{sha256}.*.journal")))
        taken = next((one for one in others if one is _Not.FREE or isinstance(one, Claim)), _Not.OURS)
    if taken is _Not.OURS:
        claim = private_claim(folder, sha256, size)
        return replace(claim, private=not excludes(claim.journal))
    return taken if isinstance(taken, Claim) else None


class _Not(Enum):
    """Why a journal cannot be taken: it is not there (any more), another process has it, or it may not be written."""

    THERE = 1
    FREE = 2
    OURS = 3


def _take(journal: Path, sha256: str, size: int) -> Claim | _Not:
    try:
        descriptor = os.open(journal, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _Not.THERE
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        return _Not.OURS
    part, held, why = journal.with_suffix(".part"), lock(descriptor, ALONE | AT_ONCE), _Not.OURS
    if held is False:
        why = _Not.FREE
    elif not _still(journal, descriptor):  # who had it finished, and removed it
        why = _Not.THERE
    elif held and excludes(journal) and _is_ours(part) and _is_begun(descriptor, sha256, size):
        return Claim(part, journal, descriptor, private=False)
    os.close(descriptor)
    return why


def header(sha256: str, size: int, descriptor: int) -> bytes:
    """The first line of a journal, which is open, or is to be on the file system of what is."""
    value = {"format": FORMAT, "sha256": sha256, "size": size, "locks": reach(descriptor)}
    return json.dumps(value).encode() + b"\n"


def private_claim(folder: Path, sha256: str, size: int) -> Claim:
    """A claim that is always given: on a part of its own, whatever others do."""
    while True:
        journal = folder / f"{sha256}.{secrets.token_hex(8)}.journal"
        _begin_journal(journal, sha256, size)
        with suppress(FileNotFoundError):
            descriptor = os.open(journal, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            # Before it is locked, another process may take it for one that was left.
            if lock(descriptor, ALONE | AT_ONCE) is not False and _still(journal, descriptor):
                return Claim(journal.with_suffix(".part"), journal, descriptor, private=True)
            os.close(descriptor)


def _begin_journal(journal: Path, sha256: str, size: int) -> None:
    """Create the journal together with its first line, if there is none: nobody ever sees it without."""
    with suppress(FileExistsError):
        try:
            descriptor = os.open(journal.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
            _write_and_close(descriptor, sha256, size, journal)
        except OSError as error:
            if error.errno not in _NO_NAMELESS:
                raise
            # Whoever sees it half takes it for somebody else's, and makes a private claim.
            descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            _write_and_close(descriptor, sha256, size)


def _write_and_close(descriptor: int, sha256: str, size: int, name: Path | None = None) -> None:
    """Write the first line; then give the file, which has none yet, its `name`."""
    try:
        os.write(descriptor, header(sha256, size, descriptor))
        if name is not None:
            # With a folder's descriptor, which an absolute path has no use for, Python follows the link at the source.
            os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, follow_symlinks=True)
    finally:
        os.close(descriptor)


def _still(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the open file."""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _is_begun(descriptor: int, sha256: str, size: int) -> bool:
    """Whether the journal was begun within reach of our locks.

    One that lost its first line to a power cut is begun again: it is empty, on a disk, and nobody began it just now.
    """
    expected = header(sha256, size, descriptor)
    if os.pread(descriptor, len(expected), 0) == expected:
        return True
    status = os.fstat(descriptor)
    lost = status.st_nlink == 1 and not os.pread(descriptor, _BLOCK, 0).strip(b"\0")
    if not lost or time.time() - status.st_mtime < _SETTLED or reach(descriptor) != DISK:
        return False
    os.ftruncate(descriptor, 0)
    os.write(descriptor, expected)
    return True


def _is_ours(part: Path) -> bool:
    """Whether what lies at `part` may be written to: nothing yet, or a plain file of ours without another name."""
    try:
        found = part.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
