"""What VllmEngine does beyond the conformance suite, on vLLM itself: one engine for all tests of this file."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import get_args

import pytest
import pytest_asyncio
from fakes.engines import make_setup
from fakes.lora import write_adapter
from fakes.models import write_model
from tokenizers import Tokenizer
from vllm.config.cache import CacheDType
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.renderers import renderer_from_config
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from packager.errors import ContextLengthError, LoadError, RequestError
from packager.runtime.engine import Delta, GenerationRequest, Message, OutputForm, SamplingParams
from packager.runtime.engines import read_options
from packager.runtime.engines.vllm import VllmEngine
from packager.runtime.engines.vllm_options import Place, VllmOptions, engine_arguments
from packager.runtime.engines.vllm_requests import Prompts
from packager.spec.engine import VllmSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")
CONTEXT, SLOTS = 256, 4
OPTIONS = {"context_length": CONTEXT, "dtype": "float32", "eager": True, "kv_cache_gib": 0.125}
GREEDY = {"temperature": 0, "max_tokens": 16}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose own defaults are greedy, and a penalty."""
    folder = write_model(tmp_path_factory.mktemp("vllm") / "llama", context_length=CONTEXT)
    config = json.loads((folder / "generation_config.json").read_text())
    config |= {"temperature": 0.0, "repetition_penalty": 1.5, "max_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = {
        "one": write_adapter(folder / "one", seed=1),
        "two": write_adapter(folder / "two", seed=2),
        "none": write_adapter(folder / "none", strength=0),
    }
    adapter = VllmEngine(replace(make_setup(weights, SLOTS, **OPTIONS), adapters=adapters))
    adapter.facts = await adapter.start()
    yield adapter
    await adapter.stop()


def ask(prompt: str = "one two three", *, name: str = "r", output=None, adapter=None, **sampling) -> GenerationRequest:
    params = SamplingParams(**(GREEDY | sampling))
    return GenerationRequest(name, prompt=prompt, sampling=params, output=output, adapter=adapter)


async def read(engine: VllmEngine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


async def text(engine: VllmEngine, request: GenerationRequest) -> str:
    return "".join(delta.text for delta in await read(engine, request))


def arguments(*, cpu: bool = True, quantization: str = "none", gguf: Path | None = None, **options: object) -> dict:
    setup = replace(make_setup(Path("w"), quantization=quantization, **options), adapters={"a": Path("a")})
    return engine_arguments(setup, read_options(VllmOptions, setup), Place(cpu, quantized=False, gguf=gguf))


async def test_every_argument_is_one_of_the_installed_vllms():
    known = {field.name for field in fields(AsyncEngineArgs)}
    assert arguments().keys() | arguments(cpu=False, gguf=Path("w/m.gguf")).keys() <= known
    assert {"vllm_config", "executor_class", "log_stats", "log_requests"} <= signature(AsyncLLM).parameters.keys()


async def test_the_words_of_the_spec_are_vllms():
    assert set(get_args(VllmSpec.model_fields["kv_cache"].annotation)) <= set(get_args(CacheDType))
    assert set(get_args(VllmSpec.model_fields["max_lora_rank"].annotation)) <= set(get_args(MaxLoRARanks))
    assert arguments(quantization="fp8")["quantization"] in QUANTIZATION_METHODS
    assert resolve_name(arguments()["distributed_executor_backend"].replace(".Uni", ":Uni")) is UniProcExecutor


async def test_what_it_can_do(engine):
    features = engine.facts.features
    assert features.logprobs == 20
    assert features.outputs == {"json_object", "json_schema", "grammar", "regex"}
    assert features.chat
    assert not features.tools
    assert features.adapters == ("one", "two", "none")


async def test_what_is_not_asked_is_the_models_own_default(engine):
    long = {"max_tokens": 100, "ignore_eos": True}
    own = GenerationRequest("r", prompt="one two three", sampling=SamplingParams(**long))
    assert await text(engine, own) == await text(engine, ask(repetition_penalty=1.5, **long))
    assert await text(engine, own) != await text(engine, ask(repetition_penalty=1.0, **long))


async def test_the_models_own_max_tokens_is_not_ours(engine):
    """None means until the context is full."""
    last = (await read(engine, ask(max_tokens=None, ignore_eos=True)))[-1]
    assert last.finish_reason == "length"
    assert last.usage.prompt_tokens + last.usage.completion_tokens == CONTEXT


async def test_a_seed_repeats_what_chance_gave(engine):
    hot = {"temperature": 1.5, "repetition_penalty": 1.0}
    assert await text(engine, ask(seed=7, **hot)) == await text(engine, ask(seed=7, **hot))
    assert await text(engine, ask(seed=7, **hot)) != await text(engine, ask(seed=8, **hot))


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
async def test_what_leaves_one_token_to_choose_is_greedy(engine, narrow):
    assert await text(engine, ask(temperature=1.0, seed=1, **narrow)) == await text(engine, ask())


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
async def test_penalties_change_the_answer(engine, penalty):
    plain = ask(repetition_penalty=1.0, max_tokens=100, ignore_eos=True)
    punished = replace(plain, sampling=replace(plain.sampling, **{penalty: 2.0}))
    assert await text(engine, plain) != await text(engine, punished)


async def test_logprobs_are_the_chosen_tokens_and_the_likeliest(engine):
    deltas = await read(engine, ask(logprobs=3, repetition_penalty=1.0))
    said = [one for delta in deltas for one in delta.logprobs]
    assert len(said) == 16 == deltas[-1].usage.completion_tokens
    assert b"".join(one.token.raw for one in said).decode(errors="replace") == "".join(delta.text for delta in deltas)
    for one in said:
        assert one.token == one.top[0]
        assert len(one.top) == 3
        assert 0 >= one.top[0].logprob >= one.top[1].logprob >= one.top[2].logprob


async def test_an_unlikely_choice_is_not_among_the_likeliest(engine):
    hot = {"temperature": 2.0, "seed": 3, "repetition_penalty": 1.0}
    said = [one for delta in await read(engine, ask(logprobs=1, **hot)) for one in delta.logprobs]
    assert all(len(one.top) == 1 for one in said)
    assert any(one.token != one.top[0] for one in said)
    assert all(one.token.logprob <= one.top[0].logprob for one in said)


async def test_logprobs_without_alternatives(engine):
    said = [one for delta in await read(engine, ask(logprobs=0)) for one in delta.logprobs]
    assert len(said) == 16
    assert {one.top for one in said} == {()}
    assert not [one for delta in await read(engine, ask()) for one in delta.logprobs]


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


async def test_a_json_schema_is_followed(engine):
    form = OutputForm("json_schema", json.dumps(SCHEMA))
    value = json.loads(await text(engine, ask(output=form, max_tokens=None)))
    assert value.keys() == {"colour", "count"}
    assert value["colour"] in ("red", "green")
    assert value["count"] in range(1, 10)


async def test_a_json_object_begins_like_one(engine):
    """How it ends is the model's choice, and this one has none."""
    assert re.match(r"\{\s*[\"}]", await text(engine, ask(output=OutputForm("json_object"), repetition_penalty=1.0)))


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        (OutputForm("regex", "(yes|no) [0-9]{3}"), "(yes|no) [0-9]{3}"),
        (OutputForm("grammar", 'root ::= "a" [0-9] [0-9]'), "a[0-9]{2}"),
    ],
    ids=["regex", "grammar"],
)
async def test_a_form_is_followed_to_its_end(engine, form, fits):
    deltas = await read(engine, ask(output=form, max_tokens=100, repetition_penalty=1.0))
    assert re.fullmatch(fits, "".join(delta.text for delta in deltas))
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    "form",
    [
        OutputForm("json_schema", "no json"),
        OutputForm("json_schema", json.dumps({"type": "nonsense"})),
        OutputForm("json_schema", json.dumps({"$ref": "#/nowhere"})),
        OutputForm("json_schema", '{"not":' * 5000 + "{}" + "}" * 5000),
        OutputForm("json_schema", json.dumps({"type": "object", "properties": []})),
        OutputForm("json_schema", json.dumps({"type": "string", "pattern": "("})),
        OutputForm("regex", "("),
        OutputForm("regex", "a\x00b"),
        OutputForm("regex", "(?<name>a)\\k<name>"),
        OutputForm("grammar", "root ::= nothing"),
        OutputForm("grammar", ""),
    ],
    ids=lambda form: f"{form.kind}:{form.value[:24]!r}",
)
async def test_a_form_that_cannot_be_is_refused_and_the_engine_goes_on(engine, form):
    with pytest.raises(RequestError) as caught:
        await read(engine, ask(output=form))
    assert caught.value.problems[0].where == "response_format"
    assert engine.health().alive
    assert await text(engine, ask(max_tokens=2))


@pytest.mark.parametrize(
    ("wrong", "value"), [("top_p", 0.0), ("temperature", 3.0), ("min_p", 2.0), ("repetition_penalty", -1.0)]
)
async def test_a_value_that_vllm_refuses(engine, wrong, value):
    with pytest.raises(RequestError, match=wrong):
        await read(engine, ask(**{wrong: value}))


async def test_an_adapter_changes_the_answer_of_its_requests_alone(engine):
    base = await text(engine, ask())
    one, two = await text(engine, ask(adapter="one")), await text(engine, ask(adapter="two"))
    assert len({base, one, two}) == 3
    assert await text(engine, ask(adapter="none")) == base
    together = [text(engine, ask(name=str(n), adapter=name)) for n, name in enumerate((None, "one", "two"))]
    assert await asyncio.gather(*together) == [base, one, two]


def prompts(folder: Path, template: str | None = None, context: int = 4096) -> Prompts:
    """Prompts as a started engine has them, without its process."""
    config = AsyncEngineArgs(model=str(folder), max_model_len=256, enforce_eager=True).create_engine_config()
    return Prompts(renderer_from_config(config), template, context)


def chat(*contents: str) -> GenerationRequest:
    return GenerationRequest("r", messages=tuple(Message("user", content) for content in contents))


async def test_chats_are_the_templates(tmp_path):
    bare = write_model(tmp_path / "bare", chat_template=False)
    assert not await prompts(bare).has_template()
    ours = prompts(bare, "{% for message in messages %}<{{ message.content }}>{% endfor %}")
    assert await ours.has_template()
    plain = GenerationRequest("r", prompt="<one><two>")
    assert await ours.token_ids(chat("one", "two")) == await ours.token_ids(plain)


async def test_a_template_that_refuses_a_chat(weights):
    ours = prompts(weights, "{{ raise_exception('roles must alternate') }}")
    assert await ours.has_template()
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        await ours.token_ids(chat("one"))
    assert caught.value.problems[0].where == "messages"


async def test_what_is_no_template(weights):
    with pytest.raises(LoadError, match=r"cannot be read: .* \(line 2\)"):
        await prompts(weights, "one\n{% for %}").has_template()


@pytest.mark.parametrize("words", [2, 2000], ids=["on the loop", "in a thread"])
async def test_prompts_are_tokenized_as_they_are(weights, words):
    ours = prompts(weights, "{{ messages[0].content }}")
    text = "one " * words
    own = Tokenizer.from_file(str(weights / "tokenizer.json")).encode(text).ids
    assert await ours.token_ids(GenerationRequest("r", prompt=text)) == own
    assert await ours.token_ids(chat(text)) == own


async def test_a_prompt_without_a_token(weights):
    with pytest.raises(RequestError, match="no tokens"):
        await prompts(weights).token_ids(GenerationRequest("r", prompt=""))


async def test_a_prompt_that_fills_the_context_is_refused(engine):
    room = "a b c d e f g h "
    with pytest.raises(ContextLengthError) as caught:
        await read(engine, ask(room * 200))
    assert caught.value.problems[0].where == "prompt"
    with pytest.raises(ContextLengthError) as caught:
        await read(engine, chat(room * 200))
    assert caught.value.problems[0].where == "messages"


async def test_the_last_place_of_the_context_can_be_used(engine):
    """One token shorter than the context is answered, with one token."""
    (delta,) = await read(engine, ask("a", max_tokens=1))
    one_more = delta.usage.prompt_tokens
    words = "a" + " a" * (CONTEXT - 1 - one_more)
    usage = (await read(engine, ask(words, max_tokens=None, ignore_eos=True)))[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (CONTEXT - 1, 1)
    with pytest.raises(ContextLengthError, match=f"has {CONTEXT} tokens; the context holds {CONTEXT}"):
        await read(engine, ask(words + " a"))


async def test_text_is_not_held_back_for_a_stop_string_that_cannot_come(engine):
    """vLLM itself would hold back as many characters as the string has."""
    deltas = await read(engine, ask(stop=("\x00" * 50,)))
    assert deltas[0].text


async def test_of_two_stop_strings_the_first_in_the_text_wins(engine):
    whole = await text(engine, ask(max_tokens=32))
    at = len(whole) // 2
    longer, later = whole[at : at + 6], whole[at + 2 : at + 4]
    deltas = await read(engine, ask(max_tokens=32, stop=(later, longer)))
    assert "".join(delta.text for delta in deltas) == whole[: min(whole.index(later), whole.index(longer))]
    assert deltas[-1].finish_reason == "stop"
