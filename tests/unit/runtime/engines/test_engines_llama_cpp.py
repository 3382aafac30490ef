"""llama.cpp with models that say what a test wants: tools, log probabilities, chat templates."""

import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.engines import make_setup
from fakes.gguf import write_tiny_gguf
from fakes.scripted import TOOL_TEMPLATE, write_scripted_gguf

from packager.errors import RequestError
from packager.runtime.engine import Delta, Engine, Features, GenerationRequest, Message, SamplingParams, Tools
from packager.runtime.engines import open_engine

PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
NOW = {"type": "function", "function": {"name": "now", "parameters": NOTHING}}
CALLING = ["Let me look. ", "<tool_call>", "\n", '{"name": "', "get_weather", '", "arguments": {"city": "']
CALLING += ["Paris", '"}}', "\n</tool_call>"]
QUESTION = (Message("user", "how is the weather?"),)
THINKING_TEMPLATE = TOOL_TEMPLATE.replace(
    "{% else %}{{ message.role }}: ",
    "{% else %}{{ message.role }}: {% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}",
)
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


@asynccontextmanager
async def started(path: Path, template: str | None = None) -> AsyncIterator[tuple[Engine, Features]]:
    adapter = open_engine("llama_cpp", replace(make_setup(path, threads=1), chat_template=template))
    facts = await adapter.start()
    try:
        yield adapter, facts.features
    finally:
        await adapter.stop()


async def chat(
    engine: Engine, messages: Sequence[Message] = QUESTION, tools: Tools | None = None, **sampling: object
) -> list[Delta]:
    params = SamplingParams(**{"max_tokens": 60, "temperature": 0} | sampling)
    request = GenerationRequest("r", messages=tuple(messages), sampling=params, tools=tools)
    return [delta async for delta in engine.stream(request)]


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def call_of(deltas: Sequence[Delta]) -> tuple[str, str]:
    """The name and the arguments of the one call, whose pieces must belong together."""
    first, *others = [piece for delta in deltas for piece in delta.tool_calls]
    assert first["id"]
    assert all("id" not in piece for piece in others)
    assert {piece["index"] for piece in (first, *others)} == {0}
    arguments = "".join(piece["function"]["arguments"] for piece in (first, *others))
    return first["function"]["name"], arguments


async def test_a_model_without_a_chat_template_cannot_chat(tmp_path):
    path = write_scripted_gguf(tmp_path / "a.gguf", ["word"], chat_template=None)
    async with started(path) as (_, features):
        assert (features.chat, features.tools) == (False, False)
    async with started(path, PLAIN_TEMPLATE) as (_, features):
        assert (features.chat, features.tools) == (True, False)
    async with started(path, TOOL_TEMPLATE) as (_, features):
        assert (features.chat, features.tools) == (True, True)


async def test_a_chat_template_from_the_spec_takes_the_place_of_the_weights_own(tmp_path):
    path = write_scripted_gguf(tmp_path / "a.gguf", ["word"])
    async with started(path, PLAIN_TEMPLATE) as (_, features):
        assert not features.tools


async def test_a_call_of_the_models_own_accord(tmp_path):
    async with started(write_scripted_gguf(tmp_path / "a.gguf", CALLING)) as (engine, _):
        deltas = await chat(engine, tools=Tools((WEATHER, NOW)))
    assert text_of(deltas) == "Let me look. "
    name, arguments = call_of(deltas)
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
    assert deltas[-1].finish_reason == "tool_calls"
    assert deltas[-1].usage.completion_tokens == sum(delta.tokens for delta in deltas) == len(CALLING) + 1


async def test_a_model_that_does_not_call(tmp_path):
    async with started(write_scripted_gguf(tmp_path / "a.gguf", ["It ", "rains."])) as (engine, _):
        deltas = await chat(engine, tools=Tools((WEATHER,)))
    assert (text_of(deltas), deltas[-1].finish_reason) == ("It rains.", "stop")


async def test_without_a_choice_to_call_the_text_is_what_the_model_wrote(tmp_path):
    """No tools, or none allowed: nothing of the text is taken for a call, or for thoughts."""
    script = ["<think>", "hm", "</think>", *CALLING]
    async with started(write_scripted_gguf(tmp_path / "a.gguf", script), THINKING_TEMPLATE) as (engine, _):
        for tools in (None, Tools((WEATHER,), "none")):
            deltas = await chat(engine, tools=tools)
            assert (text_of(deltas), deltas[-1].finish_reason) == ("".join(script), "stop")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "now"}}])
async def test_a_forced_call_is_valid_whatever_the_model_would_say(tmp_path, choice):
    async with started(write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048), TOOL_TEMPLATE) as (engine, _):
        for seed in range(5):
            deltas = await chat(engine, tools=Tools((NOW, WEATHER), choice), temperature=2, seed=seed, max_tokens=200)
            name, arguments = call_of(deltas)
            assert text_of(deltas) == ""
            assert deltas[-1].finish_reason == "tool_calls"
            if name == "get_weather":
                assert choice == "required"
                assert json.loads(arguments)["city"] in ("Paris", "Rome")
            else:
                assert json.loads(arguments) == {}


async def test_a_forced_call_that_is_cut_says_so(tmp_path):
    async with started(write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048), TOOL_TEMPLATE) as (engine, _):
        deltas = await chat(engine, tools=Tools((WEATHER,), "required"), max_tokens=45)
        assert deltas[-1].finish_reason == "length"
        name, arguments = call_of(deltas)
        assert name == "get_weather"
        assert '{"city": "Paris"}'.startswith(arguments) or '{"city": "Rome"}'.startswith(arguments)
        deltas = await chat(engine, tools=Tools((WEATHER,), "required"), max_tokens=5)
        assert [delta.tool_calls for delta in deltas if delta.tool_calls] == []
        assert deltas[-1].finish_reason == "length"


async def test_parameters_that_cannot_be_a_grammar(tmp_path):
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "string", "pattern": "a+"}}}
    async with started(write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048), TOOL_TEMPLATE) as (engine, _):
        with pytest.raises(RequestError, match="pattern is not supported") as caught:
            await chat(engine, tools=Tools((tool,), "required"))
        assert caught.value.problems[0].where == "tools"


async def test_tools_and_their_answers_are_in_the_prompt(tmp_path):
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    turns = (*QUESTION, Message("assistant", "", (call,)), Message("tool", "noon", (), "c1"))
    async with started(write_scripted_gguf(tmp_path / "a.gguf", ["word"])) as (engine, _):
        sizes = [
            (await chat(engine, messages, tools))[-1].usage.prompt_tokens
            for messages, tools in ((QUESTION, None), (QUESTION, Tools((NOW,))), (turns, Tools((NOW,))))
        ]
    # A token is a byte in these prompts.
    assert sizes[1] - sizes[0] > len(json.dumps(NOW)) - 10
    assert sizes[2] - sizes[1] > len('<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}noon')


async def test_a_last_message_of_the_assistant_is_a_message(tmp_path):
    """llama.cpp's own server would go on with it, and lose the template's end of it."""
    turns = (*QUESTION, Message("assistant", "It"))
    async with started(write_scripted_gguf(tmp_path / "a.gguf", ["word"])) as (engine, _):
        alone = (await chat(engine))[-1].usage.prompt_tokens
        both = (await chat(engine, turns))[-1].usage.prompt_tokens
    assert both - alone == len("assistant:\u2581It\n".encode())


async def test_messages_that_the_template_refuses(tmp_path):
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}"
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    async with started(path, strict + PLAIN_TEMPLATE) as (engine, _):
        with pytest.raises(RequestError, match="begin with the user") as caught:
            await chat(engine, [Message("system", "be brief")])
        assert caught.value.problems[0].where == "messages"
        assert (await chat(engine))[-1].usage.completion_tokens > 0


async def test_log_probabilities(tmp_path):
    async with started(write_tiny_gguf(tmp_path / "tiny.gguf")) as (engine, _):
        deltas = await chat(engine, max_tokens=6, logprobs=3)
        bare = await chat(engine, max_tokens=6, logprobs=0)
        none = await chat(engine, max_tokens=6)
    tokens = [one for delta in deltas for one in delta.logprobs]
    assert "".join(one.token.text for one in tokens) == text_of(deltas) == text_of(bare)
    for one in tokens:
        assert one.top[0] == one.token  # greedy
        assert [other.logprob for other in one.top] == sorted((other.logprob for other in one.top), reverse=True)
        assert len(one.top) == 3
        assert 0 < sum(math.exp(other.logprob) for other in one.top) <= 1
    assert [one.token.logprob for delta in bare for one in delta.logprobs] == pytest.approx(
        [one.token.logprob for one in tokens], abs=1e-4
    )
    assert all(one.top == () for delta in bare for one in delta.logprobs)
    assert all(delta.logprobs == () for delta in none)


async def test_a_stop_string_ends_the_log_probabilities_too(tmp_path):
    path = write_scripted_gguf(tmp_path / "a.gguf", ["one ", "two ", "three ", "four"])
    async with started(path) as (engine, _):
        deltas = await chat(engine, logprobs=0, stop=("wo th",))
    assert text_of(deltas) == "one t"
    assert [one.token.text for delta in deltas for one in delta.logprobs] == ["one ", "two "]


async def test_log_probabilities_of_a_call_are_refused(tmp_path):
    async with started(write_scripted_gguf(tmp_path / "a.gguf", CALLING)) as (engine, _):
        with pytest.raises(RequestError) as caught:
            await chat(engine, tools=Tools((WEATHER,)), logprobs=0)
        assert caught.value.problems[0].where == "logprobs"
        assert (await chat(engine, tools=Tools((WEATHER,), "none"), logprobs=0))[0].logprobs


async def test_ignoring_the_models_end(tmp_path):
    path = write_scripted_gguf(tmp_path / "a.gguf", ["word"])
    async with started(path) as (engine, _):
        assert (await chat(engine, max_tokens=9))[-1].usage.completion_tokens == 2
        last = (await chat(engine, max_tokens=9, ignore_eos=True))[-1]
    assert (last.finish_reason, last.usage.completion_tokens) == ("length", 9)
