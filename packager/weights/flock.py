"""Locks on open files: the kernel lets go of them however their process ends."""

import errno
import fcntl

ALONE, SHARED, AT_ONCE = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB
"""How to lock; with AT_ONCE it is not waited for."""
_UNLOCKABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems answer that have no locks."""


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
