"""LMDeploy's adapter over a stand-in for the library, whose signatures are the wheel's (test_engines_signatures.py)."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from fakes import models
from fakes.engines import make_setup

from packager.errors import ContextLengthError, EngineError, LoadError, RequestError
from packager.runtime.engine import Delta, EngineSetup, GenerationRequest, Message, OutputForm, SamplingParams
from packager.runtime.engines import open_engine

VENDOR = Path(models.__file__).parent / "vendor"
BACKENDS = ("turbomind", "pytorch")
PROMPT = "one two three four"


@pytest.fixture(autouse=True)
def library(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(VENDOR))
    import lmdeploy.computing

    lmdeploy.computing.MADE.clear()
    return lmdeploy.computing


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "weights")


def write_folder(folder: Path, architecture: str = "LlamaForCausalLM") -> Path:
    folder.mkdir()
    config = {"architectures": [architecture], "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps(config))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}:"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


@pytest.fixture(params=BACKENDS)
async def started(request, folder, library) -> AsyncIterator[tuple]:
    engine = open_engine("lmdeploy", make_setup(folder, 4, backend=request.param))
    facts = await engine.start()
    yield engine, facts, library.MADE[-1]
    await engine.stop()


def asks(prompt: str = PROMPT, name: str = "r", output: OutputForm | None = None, **sampling) -> GenerationRequest:
    return GenerationRequest(name, prompt=prompt, sampling=SamplingParams(**sampling), output=output)


async def collect(engine, request) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


async def keep(stream, deltas: list[Delta]) -> None:
    """Read on, so that what came before a failure is kept."""
    async for delta in stream:
        deltas.append(delta)  # noqa: PERF401 - a comprehension would lose them


async def until(condition) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)


def text_of(deltas) -> str:
    return "".join(delta.text for delta in deltas)


def seen(llm):
    """What the engine below was asked last."""
    return llm.engine.computing.seen[-1]


async def start_of(setup: EngineSetup) -> None:
    engine = open_engine("lmdeploy", setup)
    try:
        await engine.start()
    finally:
        await engine.stop()


async def test_the_engine_that_computes_is_the_one_that_was_asked_for_and_says_so(started, request):
    _, facts, llm = started
    assert facts.backend == llm.backend == request.node.callspec.params["started"]
    assert type(llm.engine).__name__ == {"turbomind": "TurboMind", "pytorch": "Engine"}[facts.backend]
    assert (facts.engine, facts.version, facts.context_length, facts.slots) == ("lmdeploy", "1", 256, 4)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_format_of_the_cache_reaches_the_engine_that_computes(folder, library, backend):
    await start_of(make_setup(folder, backend=backend, kv_cache="int8"))
    assert library.MADE[-1].engine.engine_config.quant_policy.name == "INT8"


async def test_a_format_that_turbomind_lacks_is_lmdeploys_own_refusal_in_a_package_that_was_edited(folder):
    """The spec refuses it by name (tests/unit/lock/test_lock_gates.py)."""
    with pytest.raises(LoadError, match="LMDeploy cannot start: AssertionError: FP8 is not supported"):
        await start_of(make_setup(folder, kv_cache="fp8"))


async def test_turbomind_is_the_default(folder, library):
    await start_of(make_setup(folder))
    assert library.MADE[-1].backend == "turbomind"


async def test_a_model_that_turbomind_lacks_is_refused_and_not_given_to_the_other_engine(tmp_path, library):
    folder = write_folder(tmp_path / "mistral", "MistralForCausalLM")
    with pytest.raises(LoadError, match="TurboMind does not run this model") as caught:
        await start_of(make_setup(folder))
    assert caught.value.problems[0].mend == "build the package with `engine.backend: pytorch`"
    assert not library.MADE
    await start_of(make_setup(folder, backend="pytorch"))
    assert library.MADE[-1].backend == "pytorch"


async def test_without_turbominds_library_it_does_not_start(folder, monkeypatch):
    import lmdeploy.turbomind

    monkeypatch.setattr(lmdeploy.turbomind, "LIBRARY", False)
    with pytest.raises(LoadError, match="TurboMind cannot be loaded on this machine"):
        await start_of(make_setup(folder))
    await start_of(make_setup(folder, backend="pytorch"))


async def test_before_0_18_importing_turbomind_tells_whether_it_is_there(folder, monkeypatch):
    import lmdeploy.turbomind

    monkeypatch.delattr(lmdeploy.turbomind, "is_available")
    await start_of(make_setup(folder))
    monkeypatch.delattr(lmdeploy, "turbomind")
    monkeypatch.setitem(sys.modules, "lmdeploy.turbomind", None)  # as where its library does not load
    with pytest.raises(LoadError, match="TurboMind cannot be loaded on this machine"):
        await start_of(make_setup(folder))
    await start_of(make_setup(folder, backend="pytorch"))


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("CUDA out of memory\nmore"), "LMDeploy cannot start: RuntimeError: CUDA out of memory"),
        (AssertionError(), "LMDeploy cannot start: AssertionError"),
        (SystemExit(1), "LMDeploy cannot start: SystemExit: 1"),
    ],
)
async def test_what_keeps_it_from_starting_is_said(folder, library, monkeypatch, failure, said):
    monkeypatch.setattr(library, "REFUSAL", failure)
    with pytest.raises(LoadError) as caught:
        await start_of(make_setup(folder))
    assert caught.value.problems[0].what == said


async def test_a_model_that_fails_at_its_first_token_does_not_start(folder, library, monkeypatch):
    monkeypatch.setattr(library.Computing, "fail_at", 0)
    with pytest.raises(LoadError, match="the model is loaded, but does not run: LMDeploy failed"):
        await start_of(make_setup(folder))


async def test_code_of_the_weights_runs_only_where_it_was_vouched_for(folder, library):
    for vouched in (False, True):
        await start_of(replace(make_setup(folder), own_code=vouched))
        assert library.MADE[-1].trusted is vouched


async def test_the_log_is_not_on_standard_output_and_has_no_prompts(started):
    log = logging.getLogger("lmdeploy")
    assert (log.handlers, log.propagate, log.level) == ([], True, logging.ERROR)
    assert "lmdeploy" in sys.modules


async def test_text_usage_and_the_finish_reason(started):
    engine, _, _ = started
    deltas = await collect(engine, asks(max_tokens=6, temperature=0))
    assert all(delta.finish_reason is None and delta.usage is None for delta in deltas[:-1])
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].usage == (len(PROMPT) + 1, 6)
    assert sum(delta.tokens for delta in deltas) == 6
    assert text_of(deltas) == text_of(await collect(engine, asks(max_tokens=6, temperature=0)))


async def test_an_end_of_the_models_own_is_a_stop(started):
    engine, _, _ = started
    reasons = {(await collect(engine, asks(seed=seed)))[-1].finish_reason for seed in range(8)}
    assert "stop" in reasons
    assert (await collect(engine, asks(seed=1, ignore_eos=True)))[-1].finish_reason == "length"


async def test_sampling_in_lmdeploys_words(started):
    engine, _, llm = started
    asked = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5}
    await collect(engine, asks(max_tokens=3, seed=-1, ignore_eos=True, **asked))
    config = seen(llm)
    assert {name: getattr(config, name) for name in asked} == asked
    assert (config.do_sample, config.max_new_tokens, config.ignore_eos) == (True, 3, True)
    assert config.random_seed == 2**63 - 1
    assert config.stop_words is None


async def test_greedy_keeps_the_repetition_penalty(started):
    """LMDeploy's own `do_sample=False` drops it."""
    engine, _, llm = started
    await collect(engine, asks(max_tokens=1, temperature=0, repetition_penalty=1.5))
    assert (seen(llm).top_k, seen(llm).temperature, seen(llm).repetition_penalty) == (1, 1.0, 1.5)


async def test_what_is_not_asked_is_the_models_own_default_then_lmdeploys(folder, library):
    said = {"temperature": 0.3, "top_k": None, "eos_token_id": 3, "top_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(said))
    engine = open_engine("lmdeploy", make_setup(folder))
    await engine.start()
    await collect(engine, asks(max_tokens=1, top_p=0.5))
    config = seen(library.MADE[-1])
    await engine.stop()
    assert (config.temperature, config.top_p, config.top_k) == (0.3, 0.5, 50)


async def test_a_broken_generation_config_is_a_load_error(folder):
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(LoadError, match=r"generation_config\.json cannot be read"):
        await start_of(make_setup(folder))


async def test_a_value_that_lmdeploy_does_not_take_is_refused(started):
    engine, _, _ = started
    with pytest.raises(RequestError, match="LMDeploy refuses the request"):
        await collect(engine, asks(temperature=3.0))


async def test_the_answer_is_bound_by_the_context(started):
    engine, _, llm = started
    await collect(engine, asks(prompt="x" * 200, ignore_eos=True))
    assert seen(llm).max_new_tokens == 256 - 201
    with pytest.raises(ContextLengthError, match="the prompt has 256 tokens; the context holds 256"):
        await collect(engine, asks(prompt="x" * 255))
    with pytest.raises(ContextLengthError, match="the prompt has 5001 tokens"):
        await collect(engine, asks(prompt="x" * 5000))
    with pytest.raises(RequestError, match="no tokens"):
        await collect(engine, asks(prompt=""))


async def test_a_chat_is_the_template_of_the_weights_without_a_second_beginning(started):
    engine, _, _ = started
    messages = (Message("user", "héllo"),)
    deltas = await collect(engine, GenerationRequest("c", messages=messages, sampling=SamplingParams(max_tokens=2)))
    assert deltas[-1].usage.prompt_tokens == len("héllo:".encode())


async def test_without_a_template_chats_are_refused(folder):
    (folder / "tokenizer_config.json").unlink()
    engine = open_engine("lmdeploy", make_setup(folder))
    assert not (await engine.start()).features.chat
    with pytest.raises(RequestError, match="no chat template"):
        await collect(engine, GenerationRequest("c", messages=(Message("user", "x"),)))
    await engine.stop()


async def test_stop_strings_are_ours_also_across_tokens(started):
    engine, _, llm = started
    whole = text_of(await collect(engine, asks(max_tokens=40, temperature=0, ignore_eos=True)))
    stop = whole[10:13]
    deltas = await collect(engine, asks(max_tokens=40, temperature=0, ignore_eos=True, stop=("never", stop)))
    assert text_of(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert llm.session_mgr.request_handle_pool.qsize() == 4


async def test_logprobs_are_the_pytorch_engines_and_turbominds_are_not_given(started):
    """TurboMind's are of what its filters left: 0 for whatever a greedy request chose."""
    engine, facts, llm = started
    assert ("logprobs" in facts.features.sampling) == (facts.backend == "pytorch") == bool(facts.features.logprobs)
    if facts.backend == "turbomind":
        return
    deltas = await collect(engine, asks(max_tokens=5, temperature=0, logprobs=3))
    tokens = [one for delta in deltas for one in delta.logprobs]
    assert len(tokens) == 5
    assert all(one.token == one.top[0] and len(one.top) == 3 for one in tokens)
    assert b"".join(one.token.raw for one in tokens).decode(errors="replace").startswith(text_of(deltas))
    alone = await collect(engine, asks(max_tokens=2, logprobs=0, ignore_eos=True))
    assert seen(llm).logprobs == 1
    assert [one.top for delta in alone for one in delta.logprobs] == [(), ()]


async def test_what_the_engine_has_not_is_not_among_its_features(started):
    _, facts, _ = started
    assert not {"presence_penalty", "frequency_penalty"} & facts.features.sampling
    assert facts.features.outputs == {"json_object", "json_schema", "regex"}
    assert not facts.features.tools


@pytest.mark.parametrize(
    ("form", "lmdeploys"),
    [
        (OutputForm("json_object"), {"type": "json_object"}),
        (
            OutputForm("json_schema", '{"type": "object"}'),
            {"type": "json_schema", "json_schema": '{"type": "object"}'},
        ),
        (OutputForm("regex", "[0-9]+"), {"type": "regex_schema", "regex_schema": "[0-9]+"}),
    ],
)
async def test_forms_of_the_output(started, form, lmdeploys):
    engine, _, llm = started
    await collect(engine, asks(max_tokens=2, output=form))
    assert seen(llm).response_format == lmdeploys


async def test_a_form_that_lmdeploy_cannot_read_is_refused_by_name(started):
    engine, _, _ = started
    with pytest.raises(RequestError, match="Unsupported response format") as caught:
        await collect(engine, asks(output=OutputForm("json_schema", "{")))
    assert caught.value.problems[0].where == "response_format"


async def test_a_form_that_turbomind_would_pass_over_is_refused(started):
    """It logs that its grammar does not work with this tokenizer, and goes on without."""
    engine, _, llm = started
    llm.engine.computing.grammarless = True
    with pytest.raises(RequestError, match="cannot keep to this form") as caught:
        await collect(engine, asks(max_tokens=5, output=OutputForm("json_object")))
    assert caught.value.problems[0].where == "response_format"
    assert llm.session_mgr.request_handle_pool.qsize() == 4


async def test_forms_that_do_not_work_at_the_start_are_no_feature(folder, library, monkeypatch):
    monkeypatch.setattr(library.Computing, "grammarless", True)
    engine = open_engine("lmdeploy", make_setup(folder))
    assert (await engine.start()).features.outputs == frozenset()
    await engine.stop()


async def test_abort_frees_the_place_also_before_the_first_token(started):
    engine, _, llm = started
    reading = asyncio.create_task(collect(engine, asks(ignore_eos=True)))
    await asyncio.sleep(0)
    await engine.abort("r")
    await engine.abort("r")
    assert [delta.finish_reason for delta in await reading] == ["abort"]
    assert llm.session_mgr.request_handle_pool.qsize() == 4
    assert not llm.session_mgr.sessions
    await engine.abort("unknown")


async def test_abort_while_it_waits_for_a_place(started):
    """LMDeploy has nothing to cancel yet: the abort is said again when it has begun."""
    engine, _, llm = started
    others = [asyncio.create_task(collect(engine, asks(name=f"o{one}", ignore_eos=True))) for one in range(4)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(collect(engine, asks(ignore_eos=True)))
    await asyncio.sleep(0)
    await engine.abort("r")
    for one in range(4):
        await engine.abort(f"o{one}")
    assert [delta.finish_reason for delta in await waiting] == ["abort"]
    await asyncio.gather(*others)
    assert llm.session_mgr.request_handle_pool.qsize() == 4


async def test_abort_while_a_long_prompt_becomes_tokens(folder, library):
    engine = open_engine("lmdeploy", make_setup(folder, context_length=8192))
    await engine.start()
    reading = asyncio.create_task(collect(engine, asks(prompt="x" * 5000)))
    await asyncio.sleep(0)
    await engine.abort("r")
    assert [delta.finish_reason for delta in await reading] == ["abort"]
    assert not library.MADE[-1].session_mgr.sessions
    assert len(library.MADE[-1].engine.computing.seen) == 2  # both at the start: this one was never computed
    await engine.stop()


async def test_closing_the_stream_ends_the_request(started):
    engine, _, llm = started
    async with aclosing(engine.stream(asks(ignore_eos=True))) as stream:
        await anext(stream)
    assert llm.engine.computing.cancels
    assert llm.session_mgr.request_handle_pool.qsize() == 4
    assert not llm.session_mgr.sessions


async def test_a_cancelled_reader_is_cancelled_though_lmdeploy_swallows_it(started):
    engine, _, llm = started
    reading = asyncio.create_task(collect(engine, asks(ignore_eos=True)))
    await until(lambda: llm.session_mgr.request_handle_pool.qsize() == 3)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert llm.session_mgr.request_handle_pool.qsize() == 4


@pytest.mark.parametrize("step", range(4))
async def test_a_failure_at_any_token_is_a_failure(started, step):
    engine, _, llm = started
    llm.engine.computing.fail_at = step
    deltas = []
    with pytest.raises(EngineError, match="LMDeploy failed"):
        await keep(engine.stream(asks(ignore_eos=True)), deltas)
    assert len(deltas) == step
    assert all(delta.finish_reason is None for delta in deltas)
    llm.engine.computing.fail_at = None
    assert (await collect(engine, asks(max_tokens=2, ignore_eos=True)))[-1].usage.completion_tokens == 2


async def test_what_a_request_met_is_said(started):
    """0.18.0, async_engine.py safe_run: all that is raised becomes one error, which is said to be internal."""
    engine, _, llm = started
    llm.engine.computing.breaks = RuntimeError("CUDA error: device-side assert\nmore")
    with pytest.raises(
        EngineError, match=r"LMDeploy failed: \(internal_error\): RuntimeError: CUDA error: device-side assert$"
    ):
        await collect(engine, asks())


async def test_an_end_that_nobody_asked_for_is_a_failure(started):
    engine, _, llm = started
    stream = engine.stream(asks(ignore_eos=True))
    await anext(stream)
    for session in llm.session_mgr.sessions.values():
        await session.async_abort()
    with pytest.raises(EngineError, match="ended the request by itself"):
        await keep(stream, [])


@pytest.mark.parametrize("fault", ["dead", "mute"])
async def test_health_is_what_lmdeploy_says_of_itself(started, fault):
    engine, _, llm = started
    assert engine.health().alive
    setattr(llm.engine.computing, fault, "the loop has stopped")
    await until(lambda: not engine.health().alive)
    said = "LMDeploy failed: the loop has stopped" if fault == "dead" else "LMDeploy does not say how it is: no answer"
    assert engine.health().reason == said
    with pytest.raises(EngineError, match="LMDeploy"):
        await collect(engine, asks())


async def test_a_stop_ends_open_streams_and_closes_the_engine_where_it_must(started):
    engine, facts, llm = started
    stream = engine.stream(asks(ignore_eos=True))
    await anext(stream)
    stopping = asyncio.create_task(engine.stop())
    with pytest.raises(EngineError, match="stopped"):
        [delta async for delta in stream]
    await stopping
    await engine.stop()
    where = {"turbomind": "a thread", "pytorch": "the event loop"}[facts.backend]
    assert llm.engine.computing.closed_in == where
    assert engine.health().reason == "the engine was stopped"


async def test_a_stop_while_it_loads_leaves_nothing(folder, library, monkeypatch):
    import threading

    import lmdeploy.turbomind.turbomind

    began, go = threading.Event(), threading.Event()

    class Slow(lmdeploy.turbomind.turbomind.TurboMind):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            began.set()
            go.wait()

    monkeypatch.setattr(lmdeploy.turbomind.turbomind, "TurboMind", Slow)
    engine = open_engine("lmdeploy", make_setup(folder))
    starting = asyncio.create_task(engine.start())
    await asyncio.to_thread(began.wait)
    await engine.stop()
    go.set()
    with pytest.raises(LoadError, match="stopped while it started"):
        await starting
    await asyncio.sleep(0)
    assert library.MADE[-1].engine.computing.closed_in


async def test_a_package_without_weights_is_refused():
    with pytest.raises(LoadError, match="needs weights"):
        await start_of(make_setup(None))
