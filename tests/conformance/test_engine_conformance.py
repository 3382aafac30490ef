"""What every engine must do, whatever it is: one suite, each engine in turn.

A new adapter is one line in ENGINES.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.engines import make_setup
from fakes.gguf import write_tiny_gguf
from fakes.packages import ROOT

from packager.errors import ContextLengthError, EngineError, LoadError
from packager.runtime.engine import Delta, Engine, EngineFacts, GenerationRequest, Message, SamplingParams
from packager.runtime.engines import open_engine

CONTEXT = 256
PROMPT = "one two three four five six seven eight nine ten"


@dataclass(frozen=True)
class Case:
    """An engine to test: its options, options that slow it down, and its weights: none, tiny or hello."""

    kind: str
    options: dict[str, object]
    slow: dict[str, object]
    weights: str = ""


LLAMA_CPP = ("llama_cpp", {"context_length": CONTEXT, "threads": 1}, {"batch": 32})
ENGINES = [
    Case("echo", {"context_length": CONTEXT}, {"delay_ms": 20}),
    Case(*LLAMA_CPP, "tiny"),
    Case(*LLAMA_CPP, "hello"),
]


@pytest.fixture(scope="session")
def weights_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    tiny = write_tiny_gguf(tmp_path_factory.mktemp("weights") / "tiny.gguf")
    return {"": None, "tiny": tiny, "hello": ROOT / "examples/hello/hello.gguf"}


@pytest.fixture(params=ENGINES, ids=lambda case: "-".join(filter(None, (case.kind, case.weights))))
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def adapter(case: Case, weights_files: dict[str, Path | None]) -> Engine:
    """Not started."""
    return open_engine(case.kind, make_setup(weights_files[case.weights], **case.options))


@pytest.fixture
async def engine(adapter: Engine) -> AsyncIterator[Engine]:
    await adapter.start()
    yield adapter
    await adapter.stop()


@pytest.fixture
async def slow_engine(case: Case, weights_files: dict[str, Path | None]) -> AsyncIterator[Engine]:
    adapter = open_engine(case.kind, make_setup(weights_files[case.weights], **(case.options | case.slow)))
    await adapter.start()
    yield adapter
    await adapter.stop()


def ask(name: str = "r", *, prompt: str = PROMPT, max_tokens: int | None = 8, **sampling) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, seed=1, **sampling)
    return GenerationRequest(name, prompt=prompt, sampling=params)


async def read(engine: Engine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def test_facts_say_what_was_started(adapter: Engine, case: Case) -> None:
    facts = await adapter.start()
    assert facts == EngineFacts(case.kind, "1", "tiny", CONTEXT, 2)
    await adapter.stop()


async def test_started_and_stopped_at_once_it_ends(case: Case, weights_files: dict[str, Path | None]) -> None:
    """An engine whose own threads are still starting must not wait for them for ever."""
    for _ in range(10):
        adapter = open_engine(case.kind, make_setup(weights_files[case.weights], **case.options))
        await adapter.start()
        async with asyncio.timeout(30):
            await adapter.stop()


async def test_only_the_last_delta_has_reason_and_usage(engine: Engine) -> None:
    *before, last = await read(engine, ask())
    assert len(before) >= 2
    assert all(delta.finish_reason is None and delta.usage is None for delta in before)
    assert last.finish_reason is not None
    assert last.usage is not None


async def test_max_tokens_is_a_length_end(engine: Engine) -> None:
    deltas = await read(engine, ask(max_tokens=3))
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].usage.completion_tokens == 3
    assert sum(delta.tokens for delta in deltas) == 3


async def test_usage_counts_the_prompt(engine: Engine) -> None:
    short = (await read(engine, ask(prompt="a b", max_tokens=1)))[-1].usage
    longer = (await read(engine, ask(prompt="a b c d", max_tokens=1)))[-1].usage
    assert 0 < short.prompt_tokens < longer.prompt_tokens


async def test_the_same_request_gives_the_same_text(engine: Engine) -> None:
    assert text_of(await read(engine, ask())) == text_of(await read(engine, ask()))


async def test_chat(engine: Engine) -> None:
    messages = (Message("system", "be brief"), Message("user", PROMPT))
    request = GenerationRequest("chat", messages=messages, sampling=SamplingParams(max_tokens=4, temperature=0))
    deltas = await read(engine, request)
    assert text_of(deltas)
    assert deltas[-1].usage.completion_tokens == 4


async def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    whole = text_of(await read(engine, ask()))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    deltas = await read(engine, ask(stop=(stop,)))
    assert text_of(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"


async def test_a_stop_string_that_never_comes_loses_no_text(engine: Engine) -> None:
    whole = text_of(await read(engine, ask()))
    assert text_of(await read(engine, ask(stop=(whole[-1] + "never",)))) == whole


async def test_more_streams_than_slots_all_complete(engine: Engine) -> None:
    answers = await asyncio.gather(*(read(engine, ask(f"r{number}")) for number in range(5)))
    assert len({text_of(deltas) for deltas in answers}) == 1


async def test_a_prompt_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(ContextLengthError) as caught:
        await read(engine, ask(prompt="word " * (CONTEXT + 1)))
    assert str(CONTEXT) in str(caught.value)
    assert caught.value.problems[0].where == "prompt"


async def test_the_context_bounds_the_answer(engine: Engine) -> None:
    usage = (await read(engine, ask(max_tokens=None)))[-1].usage
    assert usage.prompt_tokens + usage.completion_tokens <= CONTEXT


async def test_abort_mid_stream(slow_engine: Engine) -> None:
    deltas = []
    async for delta in slow_engine.stream(ask(max_tokens=100, prompt="w " * 50)):
        deltas.append(delta)
        await slow_engine.abort("r")
        await slow_engine.abort("r")
    assert deltas[-1].finish_reason == "abort"
    assert len(deltas) < 50


async def test_abort_before_the_first_token(slow_engine: Engine) -> None:
    reading = asyncio.create_task(read(slow_engine, ask(prompt="w " * 50, max_tokens=100)))
    await asyncio.sleep(0)  # the stream has begun, and waits for its first token
    await slow_engine.abort("r")
    deltas = await reading
    assert [delta.finish_reason for delta in deltas] == ["abort"]


async def test_an_aborted_slot_serves_the_next_request(slow_engine: Engine) -> None:
    for number in range(6):
        reading = asyncio.create_task(read(slow_engine, ask(f"r{number}", prompt="w " * 50, max_tokens=100)))
        await asyncio.sleep(0)
        await slow_engine.abort(f"r{number}")
        await reading
    assert (await read(slow_engine, ask("last")))[-1].finish_reason in ("stop", "length")


async def test_aborting_what_is_unknown_or_over_does_nothing(engine: Engine) -> None:
    await engine.abort("unknown")
    await read(engine, ask("over"))
    await engine.abort("over")


async def test_closing_the_stream_frees_it(slow_engine: Engine) -> None:
    stream = slow_engine.stream(ask(max_tokens=100, prompt="w " * 50))
    await anext(stream)
    await stream.aclose()
    assert (await read(slow_engine, ask("next")))[-1].finish_reason in ("stop", "length")


async def test_stop_fails_open_streams(slow_engine: Engine) -> None:
    stream = slow_engine.stream(ask(max_tokens=100, prompt="w " * 50))
    await anext(stream)
    stopping = asyncio.create_task(slow_engine.stop())
    with pytest.raises(EngineError, match="stopped"):
        [delta async for delta in stream]
    await stopping


async def test_health_follows_start_and_stop(adapter: Engine) -> None:
    assert not adapter.health().alive
    await adapter.start()
    assert adapter.health().alive
    await adapter.stop()
    await adapter.stop()
    assert not adapter.health().alive
    assert adapter.health().reason


def test_an_unknown_option_is_refused(case: Case) -> None:
    with pytest.raises(LoadError, match="'warp'"):
        open_engine(case.kind, make_setup(warp=9))
