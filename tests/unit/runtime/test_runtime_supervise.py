import asyncio

import pytest
from fakes.engines import HeldEngine
from fakes.serving import make_manifest

from packager.errors import DeadlineError, EngineError, LoadError, OverloadedError, UnavailableError
from packager.runtime import supervise
from packager.runtime.engine import Delta, GenerationRequest, Usage
from packager.runtime.generation import MOST_WAITING
from packager.runtime.metrics import Metrics
from packager.runtime.supervise import Supervisor

END = Delta("", 0, "stop", Usage(3, 2))


def supervisor_of(engine, **serving):
    async def loader():
        return engine, await engine.start()

    return Supervisor(make_manifest(**serving), loader, Metrics())


@pytest.fixture
async def engine():
    return HeldEngine(slots=1)


@pytest.fixture
async def supervisor(engine):
    supervisor = supervisor_of(engine, max_queue=1)
    supervisor.start()
    await supervisor.loaded()
    yield supervisor
    await supervisor.stop()


def ask(name="r"):
    return GenerationRequest(name, prompt="p")


async def test_nothing_is_taken_before_it_is_ready():
    supervisor = supervisor_of(HeldEngine())
    assert (supervisor.state, supervisor.ready, supervisor.alive) == ("loading", False, True)
    with pytest.raises(UnavailableError, match="loading") as caught:
        supervisor.submit(ask())
    assert caught.value.problems[0].mend == "ask again when it is ready"  # not every server has /readyz
    assert supervisor.metrics.outcomes["refused"] == 1


async def test_the_engine_bounds_the_slots(supervisor):
    supervisor.submit(ask("a"))
    supervisor.submit(ask("b"))
    with pytest.raises(OverloadedError):
        supervisor.submit(ask("c"))
    assert (supervisor.metrics.running, supervisor.metrics.waiting) == (1, 1)


@pytest.mark.parametrize("failure", [LoadError("no weights"), OSError("disk")], ids=["ours", "foreign"])
async def test_a_failed_load_is_failed_and_not_alive(failure):
    async def loader():
        raise failure

    supervisor = Supervisor(make_manifest(), loader, Metrics())
    supervisor.start()
    with pytest.raises(LoadError, match=r"no weights|OSError: disk"):
        await supervisor.loaded()
    assert supervisor.failed.is_set()
    assert (supervisor.state, supervisor.ready, supervisor.alive) == ("failed", False, False)
    await supervisor.stop()
    assert supervisor.state == "failed"


class Engines:
    """A loader that gives a new engine each time; `made` are those it gave."""

    def __init__(self, failure=None):
        self.made = []
        self.failure = failure

    async def __call__(self):
        if self.made and self.failure:
            raise self.failure
        self.made.append(HeldEngine(slots=1))
        return self.made[-1], await self.made[-1].start()


@pytest.fixture
async def start():
    started = []

    async def start(engines, **serving):
        supervisor = Supervisor(make_manifest(**serving), engines, Metrics())
        supervisor.start()
        await supervisor.loaded()
        started.append(supervisor)
        return supervisor

    yield start
    for supervisor in started:
        await supervisor.stop()


async def until(holds):
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def test_a_dead_engine_fails_what_runs_and_what_waits_and_is_started_again(start):
    engines = Engines()
    supervisor = await start(engines)
    running, waiting = supervisor.submit(ask("a")), supervisor.submit(ask("b"))
    engines.made[0].dead = "segmentation fault"
    for generation in (running, waiting):
        with pytest.raises(EngineError, match="the engine died: segmentation fault"):
            await generation.batch()
    assert not supervisor.ready
    await until(lambda: supervisor.ready)
    assert engines.made[0].stopped
    assert engines.made[0].aborted == []
    assert supervisor.metrics.engine_restarts == 1
    generation = supervisor.submit(ask("next"))
    engines.made[1].give("next", END, None)
    assert (await generation.batch())[-1].finish_reason == "stop"


class Grave:
    """The `stop` of an engine that takes its time: `begun` when it is asked, ended when `end` is set."""

    def __init__(self):
        self.begun, self.end = asyncio.Event(), asyncio.Event()
        self.ended = False

    async def __call__(self):
        self.begun.set()
        await self.end.wait()
        self.ended = True


async def test_while_it_restarts_it_is_alive_and_takes_nothing(start):
    supervisor = await start(engines := Engines())
    grave = engines.made[0].stop = Grave()
    engines.made[0].dead = "gone"
    await grave.begun.wait()
    assert (supervisor.state, supervisor.ready, supervisor.alive) == ("restarting", False, True)
    with pytest.raises(UnavailableError, match="restarting"):
        supervisor.submit(ask("next"))
    grave.end.set()


async def test_beyond_the_budget_it_is_dead(start):
    supervisor = await start(engines := Engines(), engine_restarts=1)
    engines.made[0].dead = "gone"
    await until(lambda: len(engines.made) == 2 and supervisor.ready)
    assert not supervisor.failed.is_set()
    engines.made[1].dead = "gone again"
    await until(supervisor.failed.is_set)
    assert (supervisor.state, supervisor.alive, len(engines.made)) == ("dead", False, 2)
    assert engines.made[1].stopped
    with pytest.raises(UnavailableError, match="dead"):
        supervisor.submit(ask())


async def test_a_restart_that_fails_is_a_failed_load(start):
    supervisor = await start(engines := Engines(LoadError("no memory")))
    engines.made[0].dead = "gone"
    await until(supervisor.failed.is_set)
    assert supervisor.state == "failed"
    assert "no memory" in str(supervisor.error)


async def test_an_engine_that_cannot_be_stopped_is_not_started_again(start):
    supervisor = await start(engines := Engines())

    async def stop():
        raise OSError("still there")

    engines.made[0].stop = stop
    engines.made[0].dead = "gone"
    await until(supervisor.failed.is_set)
    assert (supervisor.state, len(engines.made)) == ("failed", 1)
    assert "OSError: still there" in str(supervisor.error)


async def test_draining_while_it_restarts_ends_the_restart_and_lets_the_dead_engine_be_buried(start):
    supervisor = await start(engines := Engines())
    grave = engines.made[0].stop = Grave()
    engines.made[0].dead = "gone"
    await grave.begun.wait()
    draining = asyncio.create_task(supervisor.drain(60))
    await until(lambda: supervisor.state == "draining")
    assert not grave.ended
    grave.end.set()
    await draining
    assert grave.ended
    await supervisor.stop()
    assert (supervisor.state, len(engines.made)) == ("stopped", 1)


async def test_stopping_in_the_moment_of_a_death_buries_the_engine(start, monkeypatch):
    """Before the supervisor's own task has seen that it died."""
    monkeypatch.setattr(supervise, "_HEALTH_SECONDS", 3600)
    supervisor = await start(engines := Engines())
    generation = supervisor.submit(ask())
    engines.made[0].dead = "gone"
    engines.made[0].give("r", EngineError("boom"))
    await generation.closed()
    assert supervisor.state == "restarting"
    await supervisor.stop()
    assert (supervisor.state, len(engines.made), engines.made[0].stopped) == ("stopped", 1, True)


async def test_a_burial_without_end_does_not_hold_up_a_stop(start, monkeypatch):
    monkeypatch.setattr(supervise, "ABORT_GRACE", 0.05)
    supervisor = await start(engines := Engines())
    grave = engines.made[0].stop = Grave()
    engines.made[0].dead = "gone"
    await grave.begun.wait()
    await supervisor.drain(0.05)
    await supervisor.stop()
    assert (supervisor.state, len(engines.made), grave.ended) == ("stopped", 1, False)


async def test_a_stream_that_failed_makes_it_look_at_once(start, monkeypatch):
    monkeypatch.setattr(supervise, "_HEALTH_SECONDS", 3600)
    supervisor = await start(engines := Engines(), engine_restarts=0)
    generation = supervisor.submit(ask())
    engines.made[0].dead = "gone"
    engines.made[0].give("r", EngineError("boom"))
    await generation.closed()
    assert supervisor.state == "dead"


@pytest.mark.parametrize(
    ("limit", "given", "why"),
    [
        ("first_token_seconds", [], "no token for 0.05 s"),
        ("token_gap_seconds", [Delta("a")], "no further token for 0.05 s"),
        ("total_seconds", [Delta("a")], "longer than 0.05 s"),
        ("token_gap_seconds", [Delta("a")] * (MOST_WAITING + 1), "the client did not read for 0.05 s"),
    ],
)
async def test_a_request_that_takes_too_long_fails_and_frees_its_slot(start, monkeypatch, limit, given, why):
    monkeypatch.setattr(supervise, "_HEALTH_SECONDS", 0.01)
    supervisor = await start(engines := Engines(), **{limit: 0.05})
    generation = supervisor.submit(ask())
    engines.made[0].give("r", *given)
    await generation.closed()
    assert engines.made[0].aborted == ["r"]
    assert supervisor.metrics.running == 0
    assert isinstance(generation.error, DeadlineError)
    assert why in str(generation.error)


async def test_time_in_the_queue_is_not_the_requests_fault(start, monkeypatch):
    monkeypatch.setattr(supervise, "_HEALTH_SECONDS", 0.01)
    supervisor = await start(Engines(), total_seconds=None, first_token_seconds=3600, token_gap_seconds=0.01)
    supervisor.submit(ask("a"))
    waiting = supervisor.submit(ask("b"))
    await asyncio.sleep(0.1)
    assert waiting.error is None


async def test_drain_waits_for_what_is_open(supervisor, engine):
    running, waiting = supervisor.submit(ask("a")), supervisor.submit(ask("b"))
    draining = asyncio.create_task(supervisor.drain(60))
    await asyncio.sleep(0)
    assert (supervisor.state, supervisor.ready, supervisor.alive) == ("draining", False, True)
    with pytest.raises(UnavailableError, match="draining"):
        supervisor.submit(ask("c"))
    engine.give("a", END, None)
    engine.give("b", END, None)
    await draining
    assert (running.outcome, waiting.outcome) == ("stop", "stop")


async def test_drain_fails_what_is_left(supervisor, engine):
    generation = supervisor.submit(ask())
    engine.give("r", Delta("a"))
    assert await generation.batch()
    await supervisor.drain(0.01)
    with pytest.raises(UnavailableError, match="stopping"):
        await generation.batch()
    assert engine.aborted == ["r"]
    assert supervisor.metrics.running == 0


async def test_stopping_while_loading_does_not_wait_for_the_load():
    async def loader():
        await asyncio.Event().wait()
        raise AssertionError

    supervisor = Supervisor(make_manifest(), loader, Metrics())
    supervisor.start()
    await asyncio.sleep(0)
    await supervisor.stop()
    assert supervisor.state == "stopped"


async def test_stop_gives_the_engine_back_once(supervisor, engine):
    await supervisor.stop()
    await supervisor.stop()
    assert engine.stopped
    assert supervisor.state == "stopped"


async def test_outcomes_are_counted(supervisor, engine):
    for name, last in (("a", END), ("b", EngineError("x"))):
        generation = supervisor.submit(ask(name))
        engine.give(name, last, None)
        await generation.closed()
    await asyncio.sleep(0)
    outcomes = supervisor.metrics.outcomes
    assert (outcomes["stop"], outcomes["error"], outcomes["abort"]) == (1, 1, 0)
