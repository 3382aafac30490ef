"""Locks on open files: the kernel lets go of them however their process ends."""

import errno
import fcntl
import os
import secrets
from functools import cache
from pathlib import Path

ALONE, SHARED, AT_ONCE = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB
"""How to lock; with AT_ONCE it is not waited for."""
_UNLOCKABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems answer that have no locks."""
DISK = "disk"
"""How far locks reach on a file system that one kernel has mounted at a time: everywhere."""
_DISKS = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""Such file systems, as /proc/self/mountinfo calls them."""


def lock(descriptor: int, how: int) -> bool | None:
    """True: locked. False: another has it, and it was asked AT_ONCE. None: this file system has no locks."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNLOCKABLE:
            return None
        raise
    return True


def excludes(path: Path) -> bool:
    """Whether another lock on the file, which is locked ALONE, is refused: some file systems grant every lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return lock(descriptor, ALONE | AT_ONCE) is False
    finally:
        os.close(descriptor)


def reach(descriptor: int) -> str:
    """Who sees a lock on this open file: all those to whom this is the same text.

    A disk's locks are all its kernel's, and whatever was locked before that kernel started is locked no more. The locks
    of anything else (the network's, FUSE's, what a host shares with its virtual machines) may end at the kernel, and at
    the one mount. Whoever exports a disk has locks of its own, which is why both ends have to say `DISK`.
    """
    return DISK if _file_system(descriptor) in _DISKS else f"{_kernel()}:{os.fstat(descriptor).st_dev}"


def _file_system(descriptor: int) -> str:
    """What kind of file system the open file is on; empty where that is not told."""
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        (mount,) = (line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:"))
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            if line.startswith(f"{mount} "):
                return line.partition(" - ")[2].partition(" ")[0]
    except (OSError, ValueError):
        pass
    return ""


@cache
def _kernel() -> str:
    """What tells this kernel, since it started, from every other; where nothing does, this process from every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return secrets.token_hex(16)
