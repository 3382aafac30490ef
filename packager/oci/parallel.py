"""Several blobs at once, in threads: hashing, inflating, writing and sending all release the GIL."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """Another task failed, or the user interrupted; never leaves this package."""


def cores() -> int:
    """Processors that this process may use: fewer than the machine has, in many containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_parallel(tasks: Sequence[Callable[[Event], T]], threads: int) -> list[T]:
    """The tasks' results, in the tasks' order. Raises the first task's error; the others are then stopped.

    A task that works for long wraps its stream in `until(stop, ...)`, so a failure or Ctrl-C ends it at the
    next chunk and not at the end of a gigabyte.
    """
    stop = Event()

    def run(task: Callable[[Event], T]) -> T:
        if stop.is_set():
            raise StoppedError
        try:
            return task(stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max(1, threads)) as pool:
        futures = [pool.submit(run, task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, StoppedError | CancelledError):
            raise error
    return [future.result() for future in futures]


def until(stop: Event, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass `chunks` through; raise StoppedError once `stop` is set."""
    for chunk in chunks:
        if stop.is_set():
            raise StoppedError
        yield chunk
