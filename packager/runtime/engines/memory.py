"""How much memory this process may still take."""

from contextlib import suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Bytes of the machine, and of the container's limit, that are free or only cache files."""
    free = _words(meminfo.read_text())["MemAvailable:"] * 1024
    with suppress(OSError, ValueError, KeyError):
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = _words((cgroup / "memory.stat").read_text())["file"]
        free = min(free, limit - used + cached)
    return max(0, free)


def _words(text: str) -> dict[str, int]:
    return {parts[0]: int(parts[1]) for line in text.splitlines() if (parts := line.split())}
