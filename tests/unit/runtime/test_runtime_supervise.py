import asyncio

import pytest
from fakes.engines import HeldEngine
from fakes.serving import make_manifest

from packager.errors import EngineError, LoadError, OverloadedError, UnavailableError
from packager.runtime import supervise
from packager.runtime.engine import Delta, GenerationRequest, Usage
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
    with pytest.raises(UnavailableError, match="loading"):
        supervisor.submit(ask())
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


async def test_a_dead_engine_fails_open_streams_and_is_not_ready(supervisor, engine, monkeypatch):
    generation = supervisor.submit(ask())
    engine.dead = "segmentation fault"
    with pytest.raises(EngineError, match="the engine died: segmentation fault"):
        await generation.batch()
    assert (supervisor.state, supervisor.alive) == ("dead", False)
    with pytest.raises(UnavailableError, match="dead"):
        supervisor.submit(ask("next"))


async def test_a_stream_that_failed_makes_it_look_at_once(supervisor, engine, monkeypatch):
    monkeypatch.setattr(supervise, "_HEALTH_SECONDS", 3600)
    generation = supervisor.submit(ask())
    engine.dead = "gone"
    engine.give("r", EngineError("boom"))
    await generation.closed()
    assert supervisor.state == "dead"


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
