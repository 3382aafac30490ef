"""The thread that computes: what shares a forward, what waits, what fails and what does not."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import psutil
import pytest
import pytest_asyncio
import torch
from fakes.engines import make_setup
from fakes.models import write_model

from packager.errors import EngineError
from packager.runtime.engine import Delta, GenerationRequest, SamplingParams
from packager.runtime.engines.transformers import TransformersEngine
from packager.runtime.engines.transformers_batching import Batcher
from packager.runtime.engines.transformers_rows import ROOM, Network, Rows

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTEXT, SLOTS = 1024, 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TransformersEngine]:
    folder = write_model(tmp_path_factory.mktemp("llama"), context_length=CONTEXT)
    adapter = TransformersEngine(make_setup(folder, SLOTS, threads=1))
    await adapter.start()
    yield adapter
    await adapter.stop()


@contextmanager
def hooked(engine: TransformersEngine, hook: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """`hook` is called with the tokens of every forward, before it."""
    handle = engine._model.network.model.register_forward_pre_hook(
        lambda _, given, __: hook(given[0]), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def bounded(engine: TransformersEngine, network: Network | None = None, **bounds: int) -> Iterator[Batcher]:
    """Another thread for the same model, with other bounds."""
    usual, model = engine._batcher, engine._model
    engine._batcher = Batcher(network or model.network, replace(model.bounds, **bounds))
    try:
        yield engine._batcher
    finally:
        engine._batcher.stop()
        engine._batcher = usual


def ask(name: str = "r", prompt: str = "one two three", max_tokens: int = 30, **sampling: Any) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, **sampling)
    return GenerationRequest(name, prompt=prompt, sampling=params)


async def read(engine: TransformersEngine, request: GenerationRequest) -> str:
    deltas = [delta async for delta in engine.stream(request)]
    assert deltas[-1].usage.completion_tokens == request.sampling.max_tokens
    return "".join(delta.text for delta in deltas)


async def read_all(engine: TransformersEngine, requests: list[GenerationRequest]) -> list[str | BaseException]:
    return await asyncio.gather(*(read(engine, request) for request in requests), return_exceptions=True)


async def test_requests_share_forwards(engine: TransformersEngine) -> None:
    requests = [ask(f"r{number}", "w " * (number + 1)) for number in range(SLOTS)]
    alone = [await read(engine, request) for request in requests]
    shapes = []
    with hooked(engine, lambda tokens: shapes.append(tuple(tokens.shape))):
        assert await read_all(engine, requests) == alone
    assert (SLOTS, 1) in shapes
    assert len(shapes) < 30 * SLOTS / 2


async def test_no_more_rows_than_slots(engine: TransformersEngine) -> None:
    rows = []
    with hooked(engine, lambda tokens: rows.append(len(tokens))):
        answers = await read_all(engine, [ask(f"r{number}") for number in range(2 * SLOTS)])
    assert len(set(answers)) == 1
    assert max(rows) == SLOTS


async def test_when_memory_gets_short_the_last_one_waits(engine: TransformersEngine) -> None:
    requests = [ask(f"r{number}", "w " * (number + 1), max_tokens=2 * ROOM + 40) for number in range(SLOTS)]
    alone = [await read(engine, request) for request in requests]
    rows = []
    with (
        bounded(engine, columns=SLOTS * 2 * ROOM),  # all until they hold two rooms each
        hooked(engine, lambda tokens: rows.append(tuple(tokens.shape))),
    ):
        assert await read_all(engine, requests) == alone
    assert (SLOTS, 1) in rows
    assert (SLOTS - 1, 1) in rows
    assert any(tokens > 100 for _, tokens in rows), "what it had written is computed anew"


async def test_a_long_prompt_lets_others_write(engine: TransformersEngine) -> None:
    shapes = []
    with bounded(engine, piece=16), hooked(engine, lambda tokens: shapes.append(tuple(tokens.shape))):
        stream = engine.stream(ask("writer", max_tokens=200))
        await anext(stream)
        await read(engine, ask("long", "w " * 100, max_tokens=1))
        await stream.aclose()
    pieces = [at for at, (_, tokens) in enumerate(shapes) if tokens == 16]
    assert len(pieces) >= 6
    assert max(tokens for _, tokens in shapes) == 16
    assert all((1, 1) in shapes[before:after] for before, after in pairwise(pieces))


def failing(kind: type[Exception], text: str, when: Callable[[torch.Tensor], bool]) -> Callable[[torch.Tensor], None]:
    def hook(tokens: torch.Tensor) -> None:
        if when(tokens):
            raise kind(text)

    return hook


async def test_a_failed_forward_fails_its_streams_at_once(engine: TransformersEngine) -> None:
    requests = [ask(f"r{number}") for number in range(SLOTS)]
    with hooked(engine, failing(RuntimeError, "a kernel broke", lambda tokens: len(tokens) == SLOTS)):
        failures = await read_all(engine, requests)
    assert {str(one) for one in failures} == {"transformers failed: RuntimeError: a kernel broke"}
    assert {type(one) for one in failures} == {EngineError}
    assert engine.health().alive
    assert await read(engine, ask())


async def test_a_failed_prompt_fails_alone(engine: TransformersEngine) -> None:
    alone = await read(engine, ask())
    with hooked(engine, failing(ValueError, "too odd", lambda tokens: tokens.shape[1] > 20)):
        good, bad = await read_all(engine, [ask("good"), ask("bad", "w " * 30)])
    assert good == alone
    assert isinstance(bad, EngineError)


async def test_out_of_memory_is_no_death(engine: TransformersEngine) -> None:
    with hooked(engine, failing(torch.OutOfMemoryError, "no 20 GiB", lambda _: True)):
        (failure,) = await read_all(engine, [ask()])
    assert str(failure) == "the device is out of memory: no 20 GiB"
    assert engine.health().alive


class LostNetwork(Network):
    """On a GPU whose context has gone."""

    def lost(self) -> str:
        return "the GPU failed: CUDA error: device-side assert triggered"


async def test_a_lost_device_is_the_end(engine: TransformersEngine) -> None:
    network = engine._model.network
    lost = LostNetwork(network.model, network.joins, network.takes, network.cache_word)
    with bounded(engine, lost):
        with hooked(engine, failing(RuntimeError, "CUDA error", lambda tokens: len(tokens) == SLOTS)):
            failures = await read_all(engine, [ask(f"r{number}") for number in range(2 * SLOTS)])
        assert all(isinstance(one, EngineError) for one in failures)
        assert not engine.health().alive
        assert "device-side assert" in engine.health().reason
        with pytest.raises(EngineError, match="device-side assert"):
            await read(engine, ask())
    assert engine.health().alive


async def test_numbers_that_are_none_fail_the_stream(engine: TransformersEngine) -> None:
    def spoil(_: Any, __: Any, output: Any) -> Any:
        output.logits[:, :, 7] = float("nan")
        return output

    handle = engine._model.network.model.register_forward_hook(spoil)
    (failure,) = await read_all(engine, [ask()])
    handle.remove()
    assert isinstance(failure, EngineError)
    assert "no numbers" in str(failure)
    assert engine.health().alive


async def test_an_abort_does_not_wait_for_the_forward(engine: TransformersEngine) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: torch.Tensor) -> None:
        begun.set()
        go_on.wait()

    with hooked(engine, hold):
        reading = asyncio.create_task(_deltas(engine, ask(max_tokens=100)))
        await asyncio.to_thread(begun.wait)
        await engine.abort("r")
        (last,) = await reading
        go_on.set()
    assert (last.finish_reason, last.usage.completion_tokens) == ("abort", 0)
    assert last.usage.prompt_tokens > 0


async def _deltas(engine: TransformersEngine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


async def test_stopping_ends_what_runs_and_what_waits(engine: TransformersEngine) -> None:
    with bounded(engine, slots=1) as batcher:
        streams = [engine.stream(ask(f"r{number}", max_tokens=900)) for number in range(2)]
        reading = [asyncio.create_task(anext(stream)) for stream in streams]
        await reading[0]
        await asyncio.to_thread(batcher.stop)
        with pytest.raises(EngineError, match="stopped"):
            await reading[1]
        with pytest.raises(EngineError, match="stopped"):
            [delta async for delta in streams[0]]


def wait_until_no_rows_are_left() -> None:
    """The thread drops the last ones after their last Delta."""
    late = time.monotonic() + 120
    while any(type(one) is Rows for one in gc.get_objects()):
        assert time.monotonic() < late
        gc.collect()


async def test_200_aborted_requests_leave_nothing(engine: TransformersEngine) -> None:
    process = psutil.Process()
    await read(engine, ask())

    async def abort_some(count: int) -> None:
        for number in range(count):
            stream = engine.stream(ask(f"r{number}", "w " * 100, max_tokens=500))
            if number % 2:
                await anext(stream)
                await engine.abort(f"r{number}")
            else:
                asyncio.get_running_loop().call_soon(asyncio.ensure_future, engine.abort(f"r{number}"))
            assert [delta async for delta in stream][-1].finish_reason == "abort"

    await abort_some(20)  # what is made once is made
    threads, before = threading.active_count(), process.memory_info().rss
    await abort_some(200)
    assert threading.active_count() == threads
    assert not engine._calls
    await asyncio.to_thread(wait_until_no_rows_are_left)
    assert process.memory_info().rss - before < 20 * 2**20
