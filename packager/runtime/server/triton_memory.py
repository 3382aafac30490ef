"""The memory that Triton shares with a model's process: a file in /dev/shm for each process of the Python backend.

Triton takes its name away when it unloads the model. Of a container that was killed, or whose drain ran out, the file stays;
in Kubernetes it stays in the pod, and after a few restarts of the container the next one finds no room.
"""

from pathlib import Path

SHARED = Path("/dev/shm")  # noqa: S108 - where the system keeps shared memory


def unname_region(process: Path = Path("/proc/self")) -> None:
    """Take away the name of the region that this process shares with Triton: the system frees it with the last of the two.

    It is what is mapped from /dev/shm and has the name of one of the process' arguments. Once both have it open nobody
    asks for the name again: for a process in the place of one that died Triton makes a region anew.
    """
    mapped = (process / "maps").read_text("utf-8", "replace").splitlines()
    for name in (process / "cmdline").read_text("utf-8", "replace").split("\0"):
        if name and "/" not in name and any(line.endswith(f" {SHARED / name}") for line in mapped):
            (SHARED / name).unlink(missing_ok=True)
