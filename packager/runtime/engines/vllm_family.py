"""The processes that vLLM starts, what they share, and what is left of them when they were killed."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

_SHARED = Path("/dev/shm")  # noqa: S108 - where the system keeps shared memory
_TRACKED = {"sem.mp-": "semaphore", "psm_": "shared_memory"}
"""Beginnings of names that multiprocessing gives, and what its tracker calls such things."""
_WORKERS = ("VLLM::Worker", "spawn_main")
"""In the command line of a worker: vLLM's title for it, or multiprocessing's where titles cannot be set."""
_SECONDS = 5.0


class Family:
    """The engine process (`core`) with the workers below it, as they are when it has started."""

    def __init__(self, core: BaseProcess) -> None:
        self._core = core
        self._all: list[psutil.Process] = []
        self._workers: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # it has ended already: `loss` says so
            first = psutil.Process(core.pid)
            self._all = [first, *first.children(recursive=True)]
            self._workers = [one for one in self._all[1:] if any(word in " ".join(one.cmdline()) for word in _WORKERS)]
        self._shared = _shared(one.pid for one in self._all)

    def loss(self) -> str:
        """Which of its processes has ended, and how; empty while all run. Cheap."""
        if self._core.exitcode is not None:
            return f"vLLM's process {ended(self._core.exitcode)}"
        return "" if all(map(_runs, self._workers)) else "a worker process of vLLM's ended"

    def bury(self) -> None:
        """End what still runs, and remove what they shared: killed processes leave it to nobody."""
        for one in self._all:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(self._all[1:], timeout=_SECONDS)
        self._core.join(_SECONDS)
        for name in self._shared:
            with suppress(FileNotFoundError):
                (_SHARED / name).unlink()
                # Else multiprocessing would complain at our own end that it is gone.
                for beginning, kind in _TRACKED.items():
                    if name.startswith(beginning):
                        resource_tracker.unregister(f"/{name.removeprefix('sem.')}", kind)


def ended(code: int) -> str:
    """How a process ended, by its exit code as multiprocessing has it."""
    if code >= 0:
        return f"ended with exit code {code}"
    killed = f"was killed by {signal.Signals(-code).name}"
    return f"{killed} (the kernel does that when memory runs out)" if -code == signal.SIGKILL else killed


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _shared(pids: Iterable[int]) -> set[str]:
    """The names of the shared memory, semaphores among it, that the processes have open.

    Their maps tell it by inode alone: the C library maps a semaphore before it gives it its name.
    """
    inodes = set()
    for pid in pids:
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            inodes |= {int(line.split()[4]) for line in lines if f" {_SHARED}/" in line}
    with os.scandir(_SHARED) as entries:
        return {one.name for one in entries if one.inode() in inodes}
