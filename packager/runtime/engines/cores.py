"""How many cores this process may compute on."""

import math
import os
from contextlib import suppress
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(cpus: Path = CPUS, quota: Path = QUOTA) -> int:
    """The physical cores this process may use: by its affinity, and by the container's quota, at least one."""
    siblings = set()
    for cpu in sorted(os.sched_getaffinity(0)):
        name = cpus / f"cpu{cpu}/topology/thread_siblings_list"
        siblings.add(name.read_text().strip() if name.exists() else str(cpu))
    cores = len(siblings)
    with suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()
        cores = min(cores, math.ceil(int(allowed) / int(period)))
    return max(1, cores)
