"""How a load goes: seconds and bytes of its phases, in metrics while it lasts and in the log."""

import logging
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from packager.runtime.loading import Loading, following
from packager.runtime.logs import LOG
from packager.runtime.metrics import Metrics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    """What is logged: event and fields."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append((record.msg, record.fields))

    handler, level = Keep(), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield found
    LOG.removeHandler(handler)
    LOG.setLevel(level)


def test_a_line_for_each_phase(lines, clock):
    loading = Loading(clock)
    loading.begin()
    for name in ("resolve", "resolve", "verify", "download"):
        loading.phase(name)
        clock.now += 1.5
    loading.on_bytes("weights", 900, 1000)
    loading.on_bytes("fetch a.bin", 400, 400)
    loading.on_bytes("fetch b.bin", 500, 600)
    loading.fetched(300)
    loading.fetched(200)
    loading.phase("")
    assert lines == [
        ("loaded", {"phase": "resolve", "seconds": 3.0}),
        ("loaded", {"phase": "verify", "seconds": 1.5}),
        ("loaded", {"phase": "download", "seconds": 1.5, "fetched": 500, "bytes": 900, "files": 1}),
    ]


def test_a_line_now_and_then_says_what_is_left(lines, clock):
    loading = Loading(clock)
    loading.phase("download")
    for done in (2000, 6000, 6000):
        clock.now += 10
        loading.on_bytes("weights", done, 10_000)
        loading.tell()
    some = {"phase": "download", "total": 10_000, "files": 0}
    assert lines == [
        ("loading", some | {"seconds": 10.0, "done": 2000, "rate": 200, "seconds_left": 40}),
        ("loading", some | {"seconds": 20.0, "done": 6000, "rate": 400, "seconds_left": 10}),
        ("loading", some | {"seconds": 30.0, "done": 6000, "rate": 0}),
    ]


def test_nothing_is_said_of_a_load_that_does_not_run(lines):
    Loading().tell()
    assert lines == []


def test_the_phase_that_runs_has_seconds_already(clock):
    loading = Loading(clock)
    loading.phase("verify")
    clock.now += 2
    loading.phase("download")
    loading.on_bytes("weights", 7, 10)
    loading.fetched(5)  # the other two were there from an earlier attempt
    clock.now += 3
    now = loading.now()
    assert now.seconds == {"verify": 2.0, "download": 3.0}
    assert (now.done, now.total, now.fetched) == (7, 10, 5)


def test_what_was_fetched_adds_up_over_loads_and_seconds_do_not(clock):
    loading = Loading(clock)
    for _ in range(2):
        with following(loading):
            loading.phase("download")
            clock.now += 1
            loading.on_bytes("weights", 10, 10)
            loading.fetched(10)
            loading.retried("fetch a.bin", "it broke off")
    now = loading.now()
    assert now.seconds == {"download": 1.0}
    assert (now.fetched, now.retries, now.done, now.total) == (20, 2, 0, 0)


def test_a_load_that_fails_stands_still_and_logs_no_phase_as_loaded(lines, clock):
    loading = Loading(clock)

    def load():
        with following(loading):
            loading.phase("download")
            clock.now += 1
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        load()
    clock.now += 5
    assert loading.now().seconds == {"download": 1.0}
    assert lines == []


def test_lines_come_though_nothing_moves(lines):
    told = threading.Event()

    class Telling(Loading):
        def tell(self):
            super().tell()
            told.set()

    loading = Telling()
    with following(loading, every=0.01):
        loading.phase("engine")
        told.clear()
        assert told.wait(120)
    assert ("loading", "engine") in {(event, fields["phase"]) for event, fields in lines}


def test_metrics_show_it_while_it_lasts():
    metrics = Metrics()
    metrics.loading.phase("download")
    metrics.loading.on_bytes("weights", 7, 10)
    metrics.loading.fetched(7)
    metrics.loading.retried("fetch a.bin", "it broke off")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }
    assert samples["packager_load_seconds", "download"] >= 0
    assert (samples["packager_load_done_bytes",], samples["packager_load_bytes",]) == (7, 10)
    assert samples["packager_fetched_bytes_total",] == 7
    assert samples["packager_fetch_retries_total",] == 1
