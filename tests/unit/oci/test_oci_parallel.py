import threading

import pytest

from packager.errors import ImageError
from packager.oci.parallel import StoppedError, run_parallel, until


def test_results_keep_the_tasks_order():
    gates = [threading.Event() for _ in range(3)]

    def task(number):
        def run(_):
            if number:
                gates[number].wait(120)
            for gate in gates:
                gate.set()
            return number

        return run

    assert run_parallel([task(2), task(1), task(0)], 3) == [2, 1, 0]


def test_the_first_failure_stops_the_others_and_is_the_one_that_shows():
    started = threading.Event()
    ran = []

    def endless(stop):
        started.set()
        while True:
            for _ in until(stop, iter([b"x"] * 10)):
                pass

    def failing(_):
        started.wait(120)
        raise ImageError("broken")

    with pytest.raises(ImageError, match="broken"):
        run_parallel([endless, failing, lambda _: ran.append(1)], 2)
    assert not ran


def test_a_task_that_runs_alone_after_a_failure_never_starts():
    ran = []

    def failing(_):
        raise ImageError("broken")

    with pytest.raises(ImageError):
        run_parallel([failing, lambda _: ran.append(1)], 1)
    assert not ran


def test_until_passes_chunks_and_stops():
    stop = threading.Event()
    chunks = until(stop, iter([b"a", b"b"]))
    assert next(chunks) == b"a"
    stop.set()
    with pytest.raises(StoppedError):
        next(chunks)


def test_no_tasks_no_results():
    assert run_parallel([], 4) == []
