import asyncio

import pytest
from fakes.engines import EagerEngine, HeldEngine, StubbornEngine

from packager.errors import EngineError, UnavailableError
from packager.runtime import generation as generation_module
from packager.runtime.admission import Admission
from packager.runtime.engine import Delta, GenerationRequest, Usage
from packager.runtime.generation import MOST_WAITING, Generation, Source
from packager.runtime.metrics import Metrics
from packager.runtime.turns import Turns

END = Delta("", 0, "stop", Usage(3, 2))


class Bench:
    """One engine, its admission, and what has ended."""

    def __init__(self, engine, slots=1, queue=4):
        self.engine, self.admission, self.metrics = engine, Admission(slots, queue), Metrics()
        self.ended = []
        self.source = Source(engine, self.metrics, Turns(3), self.ended.append)

    def start(self, name="r"):
        request = GenerationRequest(name, prompt="p")
        return Generation(request, self.admission.enter(), self.source)


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_tokens_come_as_they_are_given_and_all_that_wait_at_once():
    bench = Bench(HeldEngine())
    generation = bench.start()
    bench.engine.give("r", Delta("a"))
    assert [delta.text for delta in await generation.batch()] == ["a"]
    bench.engine.give("r", Delta("b"), Delta("c"), END, None)
    await settle()
    assert [delta.text for delta in await generation.batch()] == ["b", "c", ""]
    assert await generation.batch() == []
    assert (generation.outcome, generation.usage) == ("stop", Usage(3, 2))
    assert bench.metrics.generated_tokens == 3
    assert bench.metrics.prompt_tokens == 3


async def test_the_first_token_waits_for_no_other_and_later_ones_do():
    bench = Bench(HeldEngine())
    generation = bench.start()
    batches = []

    async def read():
        while batch := await generation.batch():
            batches.append("".join(delta.text for delta in batch))

    reader = asyncio.create_task(read())
    await settle()
    for text in "abc":
        bench.engine.give("r", Delta(text))
        await asyncio.sleep(0)
    await settle()
    assert batches == ["a", "bc"]
    generation.abort()
    await reader


async def test_the_slot_is_free_when_the_engine_ends_though_nobody_reads():
    bench = Bench(HeldEngine())
    bench.start()
    bench.engine.give("r", END, None)
    await settle()
    assert bench.admission.running == 0
    assert len(bench.ended) == 1


async def test_a_failure_comes_after_the_tokens_before_it():
    bench = Bench(HeldEngine())
    generation = bench.start()
    bench.engine.give("r", Delta("a"), EngineError("boom"))
    await settle()
    assert [delta.text for delta in await generation.batch()] == ["a"]
    with pytest.raises(EngineError, match="boom"):
        await generation.batch()
    assert generation.outcome == "error"
    assert bench.admission.running == 0


async def test_a_foreign_exception_is_translated():
    bench = Bench(HeldEngine())
    generation = bench.start()
    bench.engine.give("r", ZeroDivisionError("x"))
    with pytest.raises(EngineError, match="ZeroDivisionError: x"):
        await generation.batch()


@pytest.mark.parametrize(
    "last",
    [(None,), (Delta("", 0, "error", Usage(1, 0)), None), (Delta("", 0, "abort", Usage(1, 0)), None)],
    ids=["silence", "error reason", "abort that nobody asked for"],
)
async def test_an_end_that_is_none_is_a_failure(last):
    bench = Bench(HeldEngine())
    generation = bench.start()
    bench.engine.give("r", *last)
    with pytest.raises(EngineError):
        await generation.batch()


async def test_abort_before_its_task_has_begun():
    bench = Bench(HeldEngine())
    generation = bench.start()
    generation.abort()
    await generation.closed()
    assert bench.admission.running == 0
    assert [delta.finish_reason for delta in await generation.batch()] == ["abort"]


async def test_abort_while_it_waits_for_a_slot_never_reaches_the_engine():
    bench = Bench(HeldEngine())
    bench.start("first")
    generation = bench.start("second")
    await settle()
    generation.abort()
    await generation.closed()
    assert bench.admission.waiting == 0
    assert bench.engine.aborted == []
    assert generation.outcome == "abort"


async def test_abort_mid_stream_lets_the_engine_end_it():
    bench = Bench(HeldEngine())
    generation = bench.start()
    bench.engine.give("r", Delta("a"))
    await generation.batch()
    generation.abort()
    generation.abort()
    assert [delta.finish_reason for delta in await generation.batch()] == ["abort"]
    await generation.closed()
    assert bench.engine.aborted == ["r"]
    assert bench.admission.running == 0


async def test_an_engine_that_ignores_abort_is_cut_off(monkeypatch):
    monkeypatch.setattr(generation_module, "ABORT_GRACE", 0.01)
    bench = Bench(StubbornEngine())
    generation = bench.start()
    await settle()
    generation.abort()
    await generation.closed()
    await settle()
    assert bench.admission.running == 0
    assert generation.outcome == "abort"


async def test_fail_reaches_the_reader_though_the_engine_hangs():
    bench = Bench(StubbornEngine())
    generation = bench.start()
    await settle()
    generation.fail(UnavailableError("stopping"))
    with pytest.raises(UnavailableError, match="stopping"):
        await generation.batch()


async def test_a_slow_reader_holds_the_engine_back():
    bench = Bench(EagerEngine(count=MOST_WAITING * 3))
    generation = bench.start()
    await settle()
    assert bench.engine.given == MOST_WAITING
    assert len(await generation.batch()) == MOST_WAITING
    await settle()
    assert bench.engine.given == MOST_WAITING * 2
    assert len([delta async for delta in generation]) == MOST_WAITING * 2 + 1


async def test_a_reader_that_stopped_reading_can_be_aborted():
    bench = Bench(EagerEngine(count=MOST_WAITING * 3))
    generation = bench.start()
    await settle()
    generation.abort()
    await generation.closed()
    assert bench.admission.running == 0
