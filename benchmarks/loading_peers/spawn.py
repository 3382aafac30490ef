"""Runs a command; prints its seconds by the clock and of processors, and its largest process's peak memory in bytes.

A process of its own, as small as Python can be (`python -I -S`): the kernel counts the memory of whoever starts a
program as that program's own.
"""

import os
import sys
import time

start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - start
print(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
