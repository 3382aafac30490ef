"""An engine process with a worker below it, as vLLM has it for more than one GPU: real processes, without vLLM."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from packager.runtime.engines.vllm_family import Family, ended

SPAWN = multiprocessing.get_context("spawn")


def run_worker(pipe: Connection) -> None:
    lock = SPAWN.Lock()
    memory = SharedMemory(create=True, size=4096)
    pipe.send((os.getpid(), memory.name, lock._semlock.name))
    time.sleep(1000)


def run_core(pipe: Connection) -> None:
    worker = SPAWN.Process(target=run_worker, args=(pipe,))
    worker.start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker.join()
    time.sleep(1000)


class Seen:
    def __init__(self) -> None:
        ours, theirs = SPAWN.Pipe()
        self.core = SPAWN.Process(target=run_core, args=(theirs,))
        self.core.start()
        worker, memory, semaphore = ours.recv()
        self.worker = psutil.Process(worker)
        self.names = {memory, f"sem.{semaphore.removeprefix('/')}"}
        self.family = Family(self.core)

    def left(self) -> set[str]:
        return self.names & {path.name for path in Path("/dev/shm").iterdir()}


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.family.bury()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_while_all_run_nothing_is_lost(seen):
    assert seen.family.loss() == ""
    assert seen.left() == seen.names


def test_a_worker_that_ended_is_noticed(seen):
    seen.worker.kill()
    until(seen.family.loss)
    assert seen.family.loss() == "a worker process of vLLM's ended"


def test_the_engine_process_that_ended_is_told_with_how(seen):
    os.kill(seen.core.pid, signal.SIGKILL)
    until(seen.family.loss)
    assert seen.family.loss() == "vLLM's process was killed by SIGKILL (the kernel does that when memory runs out)"


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "running"])
def test_nothing_is_left_of_it(seen, killed):
    """The worker of a killed engine process would run on, and shared memory stay for ever."""
    if killed:
        os.kill(seen.core.pid, signal.SIGKILL)
        until(seen.family.loss)
    seen.family.bury()
    until(lambda: not seen.worker.is_running() or seen.worker.status() == psutil.STATUS_ZOMBIE)
    assert not psutil.pid_exists(seen.core.pid)
    assert seen.left() == set()


def test_what_has_ended_before_it_was_looked_at():
    core = SPAWN.Process(target=os.getpid)
    core.start()
    core.join()
    family = Family(core)
    assert family.loss() == "vLLM's process ended with exit code 0"
    family.bury()


def test_an_exit_in_words():
    assert ended(1) == "ended with exit code 1"
    assert ended(-signal.SIGSEGV) == "was killed by SIGSEGV"
