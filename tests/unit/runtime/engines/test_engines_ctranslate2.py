"""What the ctranslate2 adapter does beside the conformance suite: sampling, log probabilities, broken folders."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import pytest_asyncio
from fakes.converted import convert
from fakes.engines import make_setup
from fakes.models import write_model
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from packager.errors import EngineError, LoadError, RequestError
from packager.runtime.engine import Delta, Engine, EngineFacts, GenerationRequest, Message, SamplingParams
from packager.runtime.engines import open_engine
from packager.runtime.features import refuse_unsupported

pytestmark = pytest.mark.asyncio(loop_scope="module")
TESTS = Path(__file__).resolve().parents[3]
PROMPT = "one two three four five"
BROKEN = "List:"
"""The ninth token of the answer is the beginning of a character."""
CPU_ONLY = pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="says what a machine without GPU does")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("llama")
    return convert(write_model(root / "source"), root / "converted")


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A folder to change."""
    return Path(shutil.copytree(llama, tmp_path / "copy"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(llama: Path) -> AsyncIterator[Engine]:
    adapter, _ = await started(llama)
    yield adapter
    await adapter.stop()


async def started(folder: Path, **options: object) -> tuple[Engine, EngineFacts]:
    adapter = open_engine("ctranslate2", make_setup(folder, **{"context_length": 256, "threads": 1} | options))
    return adapter, await adapter.start()


def ask(prompt: str | tuple[Message, ...] = PROMPT, max_tokens: int = 16, **sampling: object) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, **sampling)
    if isinstance(prompt, str):
        return GenerationRequest("r", prompt=prompt, sampling=params)
    return GenerationRequest("r", messages=prompt, sampling=params)


async def read(engine: Engine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


async def text(engine: Engine, request: GenerationRequest) -> str:
    return "".join(delta.text for delta in await read(engine, request))


async def once(folder: Path, request: GenerationRequest) -> list[Delta]:
    adapter, _ = await started(folder)
    try:
        return await read(adapter, request)
    finally:
        await adapter.stop()


async def test_greedy_is_what_transformers_writes(engine: Engine, llama: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = llama.parent / "source"
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0][prompt["input_ids"].shape[1] :]
    assert await text(engine, ask(max_tokens=32)) == tokenizer.decode(ids, skip_special_tokens=True)


async def test_an_answer_cut_within_a_character_is_whole(engine: Engine, llama: Path) -> None:
    """Its last bytes are U+FFFD, as the tokenizer writes them; they meet stop strings as all text does."""
    tokenizer, generator = Tokenizer.from_file(str(llama / "tokenizer.json")), ctranslate2.Generator(str(llama))
    tokens = tokenizer.encode(BROKEN).tokens
    (own,) = generator.generate_batch([tokens], max_length=40, include_prompt_in_result=False)
    whole = [tokenizer.decode(own.sequences_ids[0][:count]) for count in range(1, 41)]
    cut = next(count for count, expected in enumerate(whole, 1) if expected.endswith("\ufffd"))
    assert [await text(engine, ask(BROKEN, count)) for count in range(1, 41)] == whole
    *before, last = await read(engine, ask(BROKEN, cut, stop=("\ufffd",)))
    assert last.finish_reason == "stop"
    assert "".join(delta.text for delta in (*before, last)) == whole[cut - 1].split("\ufffd")[0]


async def test_aborted_when_all_is_written(engine: Engine) -> None:
    stream = engine.stream(ask(max_tokens=1))
    assert (await anext(stream)).tokens == 1
    await engine.abort("r")
    (last,) = [delta async for delta in stream]
    assert (last.finish_reason, last.text, last.usage.completion_tokens) == ("abort", "", 1)


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 0, "top_p": 0.5}, {"top_k": 1}, {"top_p": 0}, {"top_p": 1e-6}]
)
async def test_greedy_in_other_words(engine: Engine, sampling: dict[str, float]) -> None:
    assert await text(engine, ask(**sampling)) == await text(engine, ask())


@pytest.mark.parametrize("sampling", [{"temperature": 1.5}, {"top_k": 50}, {"top_p": 0.9}, {"top_k": 10**9}])
async def test_sampled_answers_differ(engine: Engine, sampling: dict[str, float]) -> None:
    assert len({await text(engine, ask(**sampling)) for _ in range(8)}) > 1


async def test_a_low_temperature_is_nearly_greedy(engine: Engine) -> None:
    assert await text(engine, ask(temperature=0.001)) == await text(engine, ask())


async def test_top_k_bounds_the_choice(engine: Engine) -> None:
    best = [step.top for delta in await read(engine, ask(max_tokens=1, logprobs=3)) for step in delta.logprobs]
    allowed = {likely.raw for likely in best[0]}
    drawn = {(await read(engine, ask(max_tokens=1, top_k=3, logprobs=0)))[0].logprobs[0].token.raw for _ in range(40)}
    assert drawn <= allowed
    assert len(drawn) > 1


async def test_a_repetition_penalty_changes_the_answer(engine: Engine) -> None:
    long = await text(engine, ask(max_tokens=64))
    assert await text(engine, ask(max_tokens=64, repetition_penalty=5.0)) != long
    assert await text(engine, ask(max_tokens=64, repetition_penalty=1.0)) == long


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("min_p", 0.1), ("presence_penalty", 0.5), ("frequency_penalty", 0.5)]
)
async def test_what_the_library_lacks_is_refused(llama: Path, name: str, value: float) -> None:
    adapter, facts = await started(llama)
    await adapter.stop()
    with pytest.raises(RequestError, match=name):
        refuse_unsupported(ask(**{name: value}), facts.features, "ctranslate2")
    refuse_unsupported(
        ask(temperature=1.0, top_p=0.5, top_k=5, repetition_penalty=1.1, logprobs=20, stop=("a",), ignore_eos=True),
        facts.features,
        "ctranslate2",
    )


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_log_probabilities_are_the_models(engine: Engine, llama: Path, count: int) -> None:
    steps = [step for delta in await read(engine, ask(logprobs=count)) for step in delta.logprobs]
    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    generator = ctranslate2.Generator(str(llama))
    tokens = tokenizer.encode(PROMPT).tokens
    for step in steps:
        scores = np.array(generator.forward_batch([tokens], return_log_probs=True))[0, -1]
        chosen = int(scores.argmax())
        assert step.token.logprob == pytest.approx(scores[chosen], abs=1e-4)
        assert [likely.logprob for likely in step.top] == pytest.approx(np.sort(scores)[::-1][:count], abs=1e-4)
        assert step.top[:1] in ((), (step.token,))
        tokens.append(tokenizer.id_to_token(chosen))
    assert len(steps) == 16


async def test_log_probabilities_of_the_text(engine: Engine) -> None:
    deltas = await read(engine, ask(logprobs=0))
    raw = b"".join(step.token.raw for delta in deltas for step in delta.logprobs)
    assert raw.decode(errors="replace") == "".join(delta.text for delta in deltas)


async def test_log_probabilities_end_at_a_stop_string(engine: Engine) -> None:
    whole = await text(engine, ask())
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    deltas = await read(engine, ask(stop=(stop,), logprobs=0))
    raw = b"".join(step.token.raw for delta in deltas for step in delta.logprobs).decode(errors="replace")
    assert raw.startswith("".join(delta.text for delta in deltas))
    assert stop not in raw


async def test_alternatives_that_would_take_all_memory_are_refused(llama: Path) -> None:
    adapter, _ = await started(llama, context_length=100_000)
    with pytest.raises(RequestError, match="limited to 16384 tokens") as caught:
        await read(adapter, ask(max_tokens=16_385, logprobs=1))
    assert caught.value.problems[0].where == "logprobs"
    assert len(await read(adapter, ask(max_tokens=4, logprobs=1))) == 5
    await adapter.stop()


def ids_of(answer: str, folder: Path) -> list[int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(answer).ids


@pytest.mark.parametrize("as_list", [True, False])
async def test_the_ends_that_hugging_face_lists(engine: Engine, copy: Path, as_list: bool) -> None:
    steps = [step for delta in await read(engine, ask(logprobs=0)) for step in delta.logprobs]
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    generated = [tokenizer.encode(step.token.text).ids for step in steps]
    (end,) = generated[5]
    at = generated.index([end])
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, end] if as_list else end}))
    *before, last = await once(copy, ask())
    assert (last.finish_reason, last.usage.completion_tokens) == ("stop", at + 1)
    assert "".join(delta.text for delta in before) == "".join(step.token.text for step in steps[:at])
    assert (await once(copy, ask(ignore_eos=True)))[-1].usage.completion_tokens == 16


async def test_a_stop_string_stops_the_library_too(engine: Engine) -> None:
    deltas = await read(engine, ask(logprobs=0))
    third = deltas[2].text
    usage = (await read(engine, ask(stop=(third,))))[-1].usage
    assert usage.completion_tokens == 1 + next(at for at, delta in enumerate(deltas) if third in delta.text)


async def test_special_tokens_at_the_start_come_from_the_tokenizer_or_the_template(copy: Path) -> None:
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    plain = len(tokenizer.encode(PROMPT).ids)
    tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)], pair=None
    )
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(copy / "tokenizer.json"))
    assert (await once(copy, ask()))[-1].usage.prompt_tokens == plain + 1
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ bos_token }}{{ messages[0].content }}"
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    assert (await once(copy, ask((Message("user", PROMPT),))))[-1].usage.prompt_tokens == plain + 1


async def test_an_empty_prompt_begins_with_the_models_first_token(engine: Engine) -> None:
    deltas = await read(engine, ask(""))
    assert deltas[-1].usage == (1, 16)
    assert "".join(delta.text for delta in deltas) == await text(engine, ask("<|endoftext|>"))
    assert sum((await read(engine, ask("", max_tokens=1000, ignore_eos=True)))[-1].usage) == 256


async def test_a_token_that_the_model_lacks(copy: Path) -> None:
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|image|>"])
    tokenizer.save(str(copy / "tokenizer.json"))
    with pytest.raises(RequestError, match=r"no token '<\|image\|>'"):
        await once(copy, ask("a <|image|>"))


async def test_a_model_without_a_chat_template(copy: Path) -> None:
    (copy / "tokenizer_config.json").unlink()
    adapter, facts = await started(copy)
    assert not facts.features.chat
    with pytest.raises(RequestError, match="no chat template"):
        await read(adapter, ask((Message("user", PROMPT),)))
    assert await text(adapter, ask())
    await adapter.stop()


async def test_the_older_form_of_the_vocabulary(copy: Path, engine: Engine) -> None:
    tokens = json.loads((copy / "vocabulary.json").read_text())
    (copy / "vocabulary.json").unlink()
    (copy / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens))
    assert "".join(delta.text for delta in await once(copy, ask())) == await text(engine, ask())


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def cut(folder: Path) -> None:
    data = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data[: len(data) // 2])


def put_null(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"unk_token": None}))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (remove("model.bin"), "cannot load the model: Unable to open file 'model.bin'"),
        (cut, "cannot load the model: File model.bin is incomplete"),
        (write("model.bin", "GGUF" * 99), "cannot load the model: Unsupported model binary version"),
        (remove("config.json"), "config.json: a file of the model is missing"),
        (write("config.json", "{"), "config.json: a file of the model cannot be read"),
        (write("config.json", "[]"), "config.json: a file of the model holds no dict"),
        (put_null, "unk_token is null"),
        (remove("vocabulary.json"), "vocabulary.json: a file of the model is missing"),
        (write("vocabulary.json", '["a", "b"]'), "is not the tokenizer of this model: its token"),
        (remove("tokenizer.json"), "tokenizer.json: the model has no tokenizer"),
        (write("tokenizer.json", "{}"), "tokenizer.json: the tokenizer cannot be read"),
        (write("tokenizer_config.json", "{"), "tokenizer_config.json: the tokenizer's settings cannot be read"),
        (write("chat_template.jinja", "{% for %}"), "chat_template.jinja: the chat template cannot be read"),
        (write("generation_config.json", "nothing"), "generation_config.json: a file of the model cannot be read"),
    ],
)
async def test_a_broken_folder(copy: Path, damage: Callable[[Path], object], what: str) -> None:
    damage(copy)
    with pytest.raises(LoadError, match=what) as caught:
        await started(copy)
    assert caught.value.problems[0].mend
    assert str(copy) in caught.value.problems[0].where


async def test_no_weights() -> None:
    with pytest.raises(LoadError, match="needs weights"):
        await open_engine("ctranslate2", make_setup()).start()


@CPU_ONLY
@pytest.mark.parametrize("compute_type", ["float16", "bfloat16", "int8_float16", "int8_bfloat16"])
async def test_a_compute_type_that_the_device_lacks_is_refused(llama: Path, compute_type: str) -> None:
    if compute_type in ctranslate2.get_supported_compute_types("cpu"):
        assert (await started(llama, compute_type=compute_type))[1].engine == "ctranslate2"
        return
    with pytest.raises(LoadError, match=f"Requested {compute_type} compute type") as caught:
        await started(llama, compute_type=compute_type)
    assert "float32, int8, int8_float32" in caught.value.problems[0].mend


@pytest.mark.parametrize("compute_type", ["float32", "int8", "int8_float32"])
async def test_compute_types_of_every_device(llama: Path, compute_type: str) -> None:
    adapter, _ = await started(llama, compute_type=compute_type)
    assert await text(adapter, ask())
    await adapter.stop()


@pytest.mark.parametrize("quantization", ["float16", "int8_float16", "bfloat16"])
async def test_auto_takes_a_16_bit_folder_on_any_device(llama: Path, tmp_path: Path, quantization: str) -> None:
    folder = convert(llama.parent / "source", tmp_path / quantization, quantization)
    assert len(await once(folder, ask())) == 17


async def test_a_failure_of_the_library_ends_that_request_alone(tmp_path: Path) -> None:
    """A model with learned positions, and a context that goes beyond them: the library fails in mid-answer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    source = write_model(tmp_path / "source")
    shape = GPT2Config(vocab_size=2048, n_positions=32, n_embd=64, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=2)
    torch.manual_seed(7)
    GPT2LMHeadModel(shape).save_pretrained(source)
    adapter, _ = await started(convert(source, tmp_path / "converted"))
    stream = adapter.stream(ask(max_tokens=64, ignore_eos=True))
    for _ in range(8):
        assert (await anext(stream)).finish_reason is None
    with pytest.raises(EngineError, match=r"CTranslate2 failed: .*position"):
        [delta async for delta in stream]
    assert (await read(adapter, ask(max_tokens=4, ignore_eos=True)))[-1].usage.completion_tokens == 4
    await adapter.stop()


LIVES = """
import asyncio, sys
from pathlib import Path
from fakes.engines import make_setup
from packager.errors import EngineError
from packager.runtime.engine import GenerationRequest, SamplingParams
from packager.runtime.engines import open_engine

async def life():
    engine = open_engine("ctranslate2", make_setup(Path(sys.argv[1]), 4, context_length=256, threads=1))
    await engine.start()
    stream = engine.stream(GenerationRequest("r", prompt="w " * 50, sampling=SamplingParams(max_tokens=100)))
    await anext(stream)
    stopping = asyncio.create_task(engine.stop())
    try:
        async for _ in stream:
            pass
    except EngineError:
        pass
    await stopping

async def lives():
    for _ in range(100):
        await life()

asyncio.run(lives())
"""


async def test_stopped_in_mid_answer_the_process_lives_on(llama: Path) -> None:
    """The library drops its callback in a thread of its own; were the generator to go with it, the process would abort."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", LIVES, str(llama), cwd=TESTS)
    assert await process.wait() == 0
