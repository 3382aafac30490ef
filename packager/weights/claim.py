"""Who may write an unfinished file: one process at a time, by a lock on its journal.

A lock saves bandwidth: nine of ten racing processes wait for the one that fetches. Correctness does not lean on it.
A part that others may be writing is never adopted: where the file system's locks do nothing, or where a journal
was begun out of their reach (on another machine, on volumes whose locks end there), the claim is *private*: it writes a
file of its own name, which nobody else opens.
"""

import errno
import json
import os
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
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
    while True:
        try:
            descriptor = os.open(journal, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            _begin_journal(journal, sha256, size)
            continue
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            return private_claim(folder, sha256, size)
        held = lock(descriptor, ALONE | AT_ONCE)
        if held is False:
            os.close(descriptor)
            return None
        if not _still(journal, descriptor):  # who had it finished, and removed it
            os.close(descriptor)
            continue
        if (
            held
            and excludes(journal)
            and _is_ours(folder / f"{sha256}.part")
            and (_begun_in_reach(descriptor, sha256, size) or _begin_again(descriptor, sha256, size))
        ):
            return Claim(folder / f"{sha256}.part", journal, descriptor, private=False)
        os.close(descriptor)
        return private_claim(folder, sha256, size)


def header(sha256: str, size: int, descriptor: int) -> bytes:
    """The first line of a journal, which is open, or is to be on the file system of what is."""
    value = {"format": FORMAT, "sha256": sha256, "size": size, "locks": reach(descriptor)}
    return json.dumps(value).encode() + b"\n"


def private_claim(folder: Path, sha256: str, size: int) -> Claim:
    """A claim that is always given: on a part of its own, whatever others do."""
    name = f"{sha256}.{secrets.token_hex(8)}"
    journal = folder / f"{name}.journal"
    _begin_journal(journal, sha256, size)
    descriptor = os.open(journal, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    lock(descriptor, ALONE | AT_ONCE)  # tells `prune` that it lives, where locks do something
    return Claim(folder / f"{name}.part", journal, descriptor, private=True)


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


def _begun_in_reach(descriptor: int, sha256: str, size: int) -> bool:
    expected = header(sha256, size, descriptor)
    return os.pread(descriptor, len(expected), 0) == expected


def _begin_again(descriptor: int, sha256: str, size: int) -> bool:
    """Write the first line into a journal that lost it to a power cut: empty, long ago, and on a disk. False for others."""
    status = os.fstat(descriptor)
    lost = status.st_nlink == 1 and not os.pread(descriptor, _BLOCK, 0).strip(b"\0")
    if not lost or time.time() - status.st_mtime < _SETTLED or reach(descriptor) != DISK:
        return False
    os.ftruncate(descriptor, 0)
    os.write(descriptor, header(sha256, size, descriptor))
    return True


def _is_ours(part: Path) -> bool:
    """Whether what lies at `part` may be written to: nothing yet, or a plain file of ours without another name."""
    try:
        found = part.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
