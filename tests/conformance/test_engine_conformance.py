"""What every engine must do, whatever it is: one suite, each engine in turn (cases.py).

A test that stops an engine, or looks at its start, takes `fresh`.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from asking import LONG, PROMPT, ask, read, text_of
from cases import CONTEXT, SLOTS, Case, make_weights
from fakes.engines import make_setup

from packager.errors import ContextLengthError, EngineError, LoadError
from packager.runtime.engine import Engine, GenerationRequest, Message, SamplingParams
from packager.runtime.engines import open_engine

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.every_model
async def test_the_text_is_the_engines_own(engine: Engine, case: Case, models: Path) -> None:
    weights = make_weights(case.weights, case.kind, models)
    script = Path(__file__).with_name("direct.py")
    argv = [sys.executable, str(script), case.kind, str(weights or ""), "24", str(CONTEXT), PROMPT]
    argv += [case.quantization] if case.quantization != "none" else []
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    own = json.loads(printed.splitlines()[-1])
    deltas = await read(engine, ask(max_tokens=24))
    assert text_of(deltas) == own["text"]
    assert deltas[-1].usage.completion_tokens == own["tokens"]


async def test_only_the_last_delta_has_reason_and_usage(engine: Engine) -> None:
    *before, last = await read(engine, ask())
    assert len(before) >= 2
    assert all(delta.finish_reason is None and delta.usage is None for delta in before)
    assert last.finish_reason is not None
    assert last.usage is not None


@pytest.mark.every_model
async def test_max_tokens_is_a_length_end(engine: Engine) -> None:
    deltas = await read(engine, ask(max_tokens=3))
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].usage.completion_tokens == 3
    assert sum(delta.tokens for delta in deltas) == 3


async def test_usage_counts_the_prompt(engine: Engine) -> None:
    short = (await read(engine, ask(prompt="a b", max_tokens=1)))[-1].usage
    longer = (await read(engine, ask(prompt="a b c d", max_tokens=1)))[-1].usage
    assert 0 < short.prompt_tokens < longer.prompt_tokens


@pytest.mark.every_model
async def test_the_same_request_gives_the_same_text(engine: Engine) -> None:
    assert text_of(await read(engine, ask())) == text_of(await read(engine, ask()))


@pytest.mark.every_model
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
    async for delta in slow_engine.stream(ask(max_tokens=100, prompt=LONG)):
        deltas.append(delta)
        await slow_engine.abort("r")
        await slow_engine.abort("r")
    assert deltas[-1].finish_reason == "abort"
    assert len(deltas) < 50


async def test_abort_before_the_first_token(slow_engine: Engine) -> None:
    reading = asyncio.create_task(read(slow_engine, ask(prompt=LONG, max_tokens=100)))
    await asyncio.sleep(0)  # the stream has begun, and waits for its first token
    await slow_engine.abort("r")
    deltas = await reading
    assert [delta.finish_reason for delta in deltas] == ["abort"]


async def test_an_aborted_slot_serves_the_next_request(slow_engine: Engine) -> None:
    for number in range(6):
        reading = asyncio.create_task(read(slow_engine, ask(f"r{number}", prompt=LONG, max_tokens=100)))
        await asyncio.sleep(0)
        await slow_engine.abort(f"r{number}")
        await reading
    assert (await read(slow_engine, ask("last")))[-1].finish_reason in ("stop", "length")


async def test_aborting_what_is_unknown_or_over_does_nothing(engine: Engine) -> None:
    await engine.abort("unknown")
    await read(engine, ask("over"))
    await engine.abort("over")


async def test_closing_the_stream_frees_it(slow_engine: Engine) -> None:
    stream = slow_engine.stream(ask(max_tokens=100, prompt=LONG))
    await anext(stream)
    await stream.aclose()
    assert (await read(slow_engine, ask("next")))[-1].finish_reason in ("stop", "length")


async def test_a_life(fresh: Engine, case: Case) -> None:
    """Start, facts, a stream that is open when the engine stops, health all along."""
    assert not fresh.health().alive
    facts = await fresh.start()
    assert (facts.engine, facts.model, facts.context_length, facts.slots) == (case.kind, "tiny", CONTEXT, SLOTS)
    assert fresh.health().alive
    stream = fresh.stream(ask(max_tokens=100, prompt=LONG))
    await anext(stream)
    stopping = asyncio.create_task(fresh.stop())
    with pytest.raises(EngineError, match="stopped"):
        [delta async for delta in stream]
    await stopping
    await fresh.stop()
    assert not fresh.health().alive
    assert fresh.health().reason


async def test_started_and_stopped_at_once_it_ends(case: Case, models: Path) -> None:
    """An engine whose own threads are still starting must not wait for them for ever."""
    for _ in range(case.starts):
        adapter = case.open(models)
        await adapter.start()
        async with asyncio.timeout(300):
            await adapter.stop()


async def test_an_unknown_option_is_refused(case: Case) -> None:
    with pytest.raises(LoadError, match="'warp'"):
        open_engine(case.kind, make_setup(warp=9))
