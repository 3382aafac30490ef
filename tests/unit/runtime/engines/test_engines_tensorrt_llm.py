"""TensorRT-LLM's two adapters over a stand-in for the library: arguments, streams, aborts, failures, a life."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from fakes import compiled, models
from fakes.engines import make_setup
from tokenizers import Tokenizer

from packager.errors import ContextLengthError, EngineError, LoadError, RequestError
from packager.runtime.engine import Delta, GenerationRequest, Message, SamplingParams
from packager.runtime.engines import ADAPTERS, open_engine

VENDOR = Path(models.__file__).parent / "vendor"
KINDS = ("tensorrt_llm_engine", "tensorrt_llm")
PROMPT = "one two three four"


@pytest.fixture(autouse=True)
def library(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(VENDOR))
    import tensorrt_llm.llmapi

    return tensorrt_llm.llmapi


@pytest.fixture
def folder(tmp_path) -> Path:
    """Weights that both open: a compiled engine's, whose config.json says how long its model's texts were."""
    path = compiled.write_engine(tmp_path / "weights")
    config = compiled.config() | {"max_position_embeddings": 4096}
    (path / "config.json").write_text(json.dumps(config))
    (path / "engine.json").write_text(json.dumps(compiled.description()))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(models.TOKENIZER / name, path / name)
    return path


@pytest.fixture(params=KINDS)
async def started(request, folder, library) -> AsyncIterator[tuple]:
    engine = open_engine(request.param, make_setup(folder, 4))
    facts = await engine.start()
    yield engine, facts, library.BaseLLM.latest
    await engine.stop()


def asks(prompt: str = PROMPT, name: str = "r", **sampling) -> GenerationRequest:
    return GenerationRequest(name, prompt=prompt, sampling=SamplingParams(**sampling))


async def collect(engine, request) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


def text_of(deltas) -> str:
    return "".join(delta.text for delta in deltas)


async def test_a_stream(started):
    engine, facts, llm = started
    deltas = await collect(engine, asks())
    assert text_of(deltas) == PROMPT
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    last = deltas[-1]
    prompt = len(llm.requests[-1].prompt_token_ids)
    assert (last.finish_reason, last.usage) == ("stop", (prompt, prompt + 1))
    assert sum(delta.tokens for delta in deltas) == prompt + 1
    assert (facts.context_length, facts.slots) == (4096, 4)
    assert facts.features.chat


async def test_a_model_with_eyes_says_its_length_one_level_deeper(folder, library):
    config = folder / "config.json"
    config.write_text(json.dumps({"text_config": {"max_position_embeddings": 2048}}))
    engine = open_engine("tensorrt_llm", make_setup(folder, 4))
    assert (await engine.start()).context_length == 2048
    await engine.stop()
    config.write_text(json.dumps({"text_config": "none"}))
    with pytest.raises(LoadError, match="does not say for how many tokens"):
        await open_engine("tensorrt_llm", make_setup(folder, 4)).start()


async def test_messages_take_the_chat_template(started):
    engine, _, _ = started
    request = GenerationRequest("r", messages=(Message("user", "hello there"),))
    assert "hello there" in text_of(await collect(engine, request))


async def test_the_end_of_the_limit(started):
    engine, _, llm = started
    deltas = await collect(engine, asks(max_tokens=2))
    assert (deltas[-1].finish_reason, deltas[-1].usage.completion_tokens) == ("length", 2)
    assert not llm.aborted


async def test_a_stop_string_ends_it_in_the_engine_too(started):
    engine, _, llm = started
    deltas = await collect(engine, asks(stop=("wo th",)))
    assert text_of(deltas) == "one t"
    assert deltas[-1].finish_reason == "stop"
    assert llm.aborted == [llm.requests[-1].request_id]


async def test_abort_before_the_first_token_and_in_the_middle(started):
    engine, _, llm = started
    llm.gate.clear()
    waiting = asyncio.create_task(collect(engine, asks(name="early")))
    await llm.running_are(1)
    await engine.abort("early")
    await engine.abort("early")
    await engine.abort("unknown")
    llm.gate.set()
    (last,) = await waiting
    assert (last.finish_reason, last.usage.completion_tokens) == ("abort", 0)
    seen = []
    async for delta in engine.stream(asks(name="late", ignore_eos=True)):
        seen.append(delta)
        if len(seen) == 3:
            await engine.abort("late")
    assert seen[-1].finish_reason == "abort"
    await llm.running_are(0)


async def test_a_stream_that_is_closed_is_aborted(started):
    engine, _, llm = started
    async with aclosing(engine.stream(asks(ignore_eos=True))) as stream:
        await anext(stream)
    assert llm.aborted == [llm.requests[-1].request_id]
    await llm.running_are(0)


async def test_a_request_that_ends_is_not_aborted(started):
    engine, _, llm = started
    await collect(engine, asks())
    await engine.abort("r")
    assert llm.aborted == []


async def test_a_refused_request_leaves_the_engine_alive(started, library):
    engine, _, llm = started
    llm.fails_after, llm.error = 2, library.RequestError("the request is too long")
    with pytest.raises(EngineError, match="the request is too long"):
        await collect(engine, asks())
    llm.fails_after = None
    assert engine.health().alive
    assert text_of(await collect(engine, asks())) == PROMPT


async def test_an_executor_that_broke_ends_the_engine_and_every_stream(started):
    engine, _, llm = started
    llm.gate.clear()
    others = [asyncio.create_task(collect(engine, asks(name=str(number)))) for number in range(2)]
    await llm.running_are(2)
    llm.fails_after = 0
    llm.gate.set()
    for one in others:
        with pytest.raises(EngineError, match="the executor broke"):
            await one
    assert not engine.health().alive
    with pytest.raises(EngineError, match="the executor broke"):
        await collect(engine, asks())


async def test_an_executor_whose_process_has_ended_is_no_engine(started):
    """1.2 tells it to the next request alone (executor.py _handle_background_error): open streams would wait for ever."""
    engine, _, llm = started
    assert engine.health().alive
    llm.gate.clear()
    waiting = asyncio.create_task(collect(engine, asks(name="open")))
    await llm.running_are(1)
    (process,) = llm._executor.mpi_futures
    process.set_exception(RuntimeError("CUDA error: an illegal memory access was encountered\nat kernel.cu:7"))
    health = engine.health()
    assert not health.alive
    said = "TensorRT-LLM's executor has ended: CUDA error: an illegal memory access was encountered"
    assert health.reason == said
    for one in (waiting, collect(engine, asks())):
        with pytest.raises(EngineError, match="illegal memory access"):
            await one
    assert not llm.aborted  # to say it would wait for a process that is gone
    await engine.stop()  # which raises what the process met, after all is closed
    assert llm.shut
    assert engine.health().reason == "the engine was stopped"
    llm.gate.set()


async def test_a_shutdown_that_fails_is_not_passed_over(started):
    engine, _, llm = started

    def fail() -> None:
        raise RuntimeError("cannot join")

    llm.shutdown = fail
    with pytest.raises(RuntimeError, match="cannot join"):
        await engine.stop()
    llm.shutdown = lambda: None


async def test_stop_ends_streams_of_an_engine_that_gives_nothing_more(started):
    engine, _, llm = started
    llm.gate.clear()
    waiting = asyncio.create_task(collect(engine, asks()))
    await llm.running_are(1)
    await engine.stop()
    await engine.stop()
    with pytest.raises(EngineError, match="was stopped"):
        await asyncio.wait_for(waiting, 5)
    assert llm.shut
    llm.gate.set()


async def test_a_cancellation_that_nobody_asked_for_is_a_failure(started):
    engine, _, llm = started
    llm.gate.clear()
    waiting = asyncio.create_task(collect(engine, asks()))
    await llm.running_are(1)
    llm.requests[-1].abort()
    llm.gate.set()
    with pytest.raises(EngineError, match="ended the request by itself"):
        await waiting


async def test_a_prompt_that_is_too_long(started):
    engine, _, _ = started
    for prompt in ("word " * 3000, "a b " * 1500):
        with pytest.raises(ContextLengthError):
            await collect(engine, asks(prompt * 2))
    with pytest.raises(RequestError, match="no tokens"):
        await collect(engine, asks(""))


async def test_a_prompt_of_a_compiled_engine_is_read_in_one_step(folder):
    described = compiled.description()
    described["limits"]["max_num_tokens"] = 20
    (folder / "engine.json").write_text(json.dumps(described))
    engine = open_engine("tensorrt_llm_engine", make_setup(folder))
    await engine.start()
    with pytest.raises(ContextLengthError, match="it can have 20 of the 4096"):
        await collect(engine, asks("word " * 30))
    assert text_of(await collect(engine, asks())) == PROMPT
    await engine.stop()


async def test_a_compiled_engine_reads_as_many_tokens_in_a_step_as_it_was_compiled_for(folder, library):
    """Unless told, 1.2's LLM has 8192 read at most, and refuses longer prompts (llm_args.py, trtGptModel.h)."""
    config = json.loads((folder / "config.json").read_text())
    config["build_config"] |= {"max_seq_len": 16384, "max_input_len": 16000, "max_num_tokens": 16000}
    (folder / "config.json").write_text(json.dumps(config))
    described = compiled.description()
    described["limits"] |= {"max_seq_len": 16384, "max_input_len": 16000, "max_num_tokens": 16000}
    (folder / "engine.json").write_text(json.dumps(described))
    engine = open_engine("tensorrt_llm_engine", make_setup(folder))
    await engine.start()
    assert (await collect(engine, asks("word " * 10000, max_tokens=1)))[-1].finish_reason == "length"
    await engine.stop()


async def test_a_tokenizer_that_the_library_cannot_open(started, library):
    """Texts become tokens here: what transformers 5 has saved ("TokenizersBackend") the images' 4.57 does not know.

    A tokenizer that LLM is given by name it must open; one that lies with the weights it tries to (llmapi/tokenizer.py
    tokenizer_factory, load_hf_tokenizer of 1.2).
    """
    engine, _, llm = started
    assert llm.tokenizer is None
    assert text_of(await collect(engine, asks())) == PROMPT


async def test_what_the_library_refuses(started):
    engine, _, llm = started

    def refuse(*_: object) -> None:
        raise ValueError("no such thing")

    llm.check = refuse
    with pytest.raises(RequestError, match="refuses the request: no such thing"):
        await collect(engine, asks())
    assert engine.health().alive


async def test_how_the_compiled_engine_is_loaded(folder, library):
    options = {"gpu_memory": 0.5, "prefix_caching": False, "context_length": 100, "kv_cache": "fp8"}
    engine = open_engine("tensorrt_llm_engine", make_setup(folder, 7, **options))
    facts = await engine.start()
    llm = library.BaseLLM.latest
    assert type(llm).__name__ == "_TrtLLM"
    assert (llm.model, llm.tensor_parallel_size) == (folder, 1)
    cache = llm.kwargs.pop("kv_cache_config")
    assert llm.kwargs == {"pipeline_parallel_size": 1, "max_batch_size": 7, "max_num_tokens": 8192}
    assert (cache.enable_block_reuse, cache.free_gpu_memory_fraction, cache.dtype) == (False, 0.5, "auto")
    assert facts.context_length == 100
    assert "seed" in facts.features.sampling
    await engine.stop()


async def test_how_the_pytorch_engine_is_loaded(folder, library):
    engine = open_engine("tensorrt_llm", make_setup(folder, 7, tensor_parallel=2, kv_cache="fp8"))
    facts = await engine.start()
    llm = library.BaseLLM.latest
    assert type(llm).__name__ == "LLM"
    assert llm.tensor_parallel_size == 2
    cache = llm.kwargs.pop("kv_cache_config")
    arguments = {"pipeline_parallel_size": 1, "max_batch_size": 7, "max_seq_len": 4096, "enable_chunked_prefill": True}
    assert llm.kwargs == arguments
    assert cache.dtype == "fp8"
    assert "seed" not in facts.features.sampling
    await engine.stop()


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (
            "[TRT] The engine plan file is generated on an incompatible device, expecting compute 8.0 got compute 9.0, please rebuild.",
            "the engine was compiled for another compute capability (8.0 and 9.0 were compared)",
        ),
        ("CUDA out of memory\nat executor.cpp:12", "CUDA out of memory"),
    ],
)
async def test_a_load_that_fails_says_why(folder, library, raw, what):
    library.BaseLLM.failure = RuntimeError(raw)
    engine = open_engine("tensorrt_llm_engine", make_setup(folder))
    with pytest.raises(LoadError) as caught:
        await engine.start()
    assert caught.value.problems[0].what == f"TensorRT-LLM cannot load it: {what}"
    await engine.stop()


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (
            "[TensorRT-LLM][ERROR] Assertion failed: Failed to deserialize cuda engine.",
            "TensorRT cannot read the engine: it was compiled with or for something else",
        ),
        ("CUDA out of memory\nat executor.cpp:12", "Executor worker returned error: CUDA out of memory"),
        ("", "Executor worker returned error: MemoryError"),
    ],
)
async def test_why_the_executors_process_could_not_start(folder, library, raw, what):
    """1.2's proxy.py raises one text for whatever its worker met, with that as the cause."""
    failure = RuntimeError("Executor worker returned error")
    failure.__cause__ = RuntimeError(raw) if raw else MemoryError()
    library.BaseLLM.failure = failure
    with pytest.raises(LoadError) as caught:
        await open_engine("tensorrt_llm_engine", make_setup(folder)).start()
    assert caught.value.problems[0].what == f"TensorRT-LLM cannot load it: {what}"


async def test_a_context_that_was_not_compiled(folder):
    engine = open_engine("tensorrt_llm_engine", make_setup(folder, context_length=5000))
    with pytest.raises(LoadError, match="more than the 4096 tokens"):
        await engine.start()


async def test_files_that_are_missing(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LoadError, match="no tokenizer"):
        await open_engine("tensorrt_llm_engine", make_setup(folder)).start()
    (folder / "engine.json").unlink()
    with pytest.raises(LoadError, match=r"engine\.json cannot be read"):
        await open_engine("tensorrt_llm_engine", make_setup(folder)).start()


async def test_nothing_says_what_ends_an_answer(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))
    with pytest.raises(LoadError, match="which token ends an answer"):
        await open_engine("tensorrt_llm", make_setup(folder)).start()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    engine = open_engine("tensorrt_llm", make_setup(folder))
    await engine.start()
    await engine.stop()


async def test_a_token_that_ends_an_answer_is_no_text(folder):
    """Also one that the tokenizer does not call special."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROMPT, add_special_tokens=False).ids
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids[-1]}))
    engine = open_engine("tensorrt_llm", make_setup(folder))
    await engine.start()
    text = text_of(await collect(engine, asks()))
    assert text
    assert PROMPT.startswith(text)
    assert text != PROMPT
    assert text_of(await collect(engine, asks(ignore_eos=True, max_tokens=len(ids) + 1))).startswith(PROMPT)
    await engine.stop()


def test_the_adapters_are_listed():
    assert set(KINDS) <= set(ADAPTERS)


async def test_an_engine_that_the_spec_describes_needs_no_file_of_it(folder):
    (folder / "engine.json").unlink()
    described = compiled.description()
    described["limits"]["max_seq_len"] = 100
    engine = open_engine("tensorrt_llm_engine", replace(make_setup(folder), compiled=described))
    assert (await engine.start()).context_length == 100
    await engine.stop()
