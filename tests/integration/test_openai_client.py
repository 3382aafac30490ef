"""The `openai` client, unchanged, against real servers: echo under both hosts, and llama.cpp with a model of its own."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from fakes.packages import make_package
from fakes.scripted import TOOL_TEMPLATE
from fakes.serving import ProcessServer, thread_server, wait_until
from pydantic import BaseModel

WORDS = "one two three"
CHAT: dict[str, Any] = {"model": "hello", "messages": [{"role": "user", "content": WORDS}]}
HELLO = Path(__file__).resolve().parents[2] / "examples/hello/hello.gguf"


class Weather(BaseModel):
    """An answer and a function's arguments."""

    city: str
    degrees: int
    sky: list[str] | None = None


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "degrees": {"type": "integer", "minimum": -60, "maximum": 60},
        "sky": {"type": "array", "items": {"enum": ["clear", "rain"]}, "maxItems": 2},
    },
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "report", "description": "Report the weather", "parameters": SCHEMA}}


def client_of(server: ProcessServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module", params=["packager", "bentoml"])
def echo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """Two slots, room for two more; a stream fails after 50 tokens."""
    folder = tmp_path_factory.mktemp("echo") / "package"
    package = make_package(folder, options={"fail_after": 50}, max_concurrency=2, max_queue=2)
    if request.param == "bentoml":
        (package / "bentofile.yaml").write_text('service: "service:Service"\n')
    with ProcessServer(package, request.param) as server, client_of(server.wait_ready()) as client:
        yield client


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The model of examples/hello, with a chat template that knows tools."""
    folder = tmp_path_factory.mktemp("hello") / "package"
    package = make_package(folder, engine="llama_cpp", weights=HELLO, options={"threads": 1}, max_queue=16)
    manifest = json.loads((package / "model/manifest.json").read_text())
    (package / "model/template.jinja").write_text(TOOL_TEMPLATE)
    (package / "model/manifest.json").write_text(json.dumps(manifest | {"chat_template": "template.jinja"}))
    with ProcessServer(package) as server, client_of(server.wait_ready()) as client:
        yield client


def test_choices_in_a_stream(echo):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = echo.chat.completions.create(**CHAT, n=3, **options)
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [WORDS] * 3
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 9)


def test_choices_of_a_whole_answer(echo):
    whole = echo.completions.create(model="hello", prompt=["a b", "c"], n=2)
    assert [choice.text for choice in whole.choices] == ["a b", "a b", "c", "c"]


def test_the_clients_own_helpers_for_streams(echo):
    with echo.chat.completions.stream(**CHAT, tools=[TOOL], tool_choice="required") as stream:
        message = stream.get_final_completion().choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"text": WORDS}


def test_errors(echo):
    with pytest.raises(openai.BadRequestError) as bad:
        echo.chat.completions.create(**CHAT, logit_bias={"5": 1})
    assert (bad.value.param, bad.value.code) == ("logit_bias", "invalid_request")
    with pytest.raises(openai.BadRequestError) as bad:
        echo.chat.completions.create(
            **CHAT, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
        )
    assert bad.value.param == "response_format"
    with pytest.raises(openai.NotFoundError) as unknown:
        echo.chat.completions.create(**CHAT | {"model": "gpt-9"})
    assert unknown.value.param == "model"


def test_more_choices_than_the_server_takes(echo):
    with pytest.raises(openai.BadRequestError, match="5 choices are more than the 4 requests") as bad:
        echo.completions.create(model="hello", prompt="a", n=5)
    assert bad.value.param == "n"


async def test_a_server_that_is_full(tmp_path):
    with thread_server(tmp_path, delay_ms=60_000, max_concurrency=1, max_queue=0) as server:
        metrics = server.wait_ready().supervisor.metrics
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            first = asyncio.create_task(client.chat.completions.create(**CHAT))
            await asyncio.to_thread(wait_until, lambda: metrics.running == 1, "it runs")
            with pytest.raises(openai.RateLimitError) as full:
                await client.chat.completions.create(**CHAT)
            assert full.value.response.headers["retry-after"] == "1"
            first.cancel()
            await asyncio.to_thread(wait_until, lambda: metrics.running == 0, "leaving ends it")


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"logprobs": True}])
def test_a_failure_in_the_middle_of_a_stream(echo, more):
    received = []
    messages = [{"role": "user", "content": "w " * 100}]
    with pytest.raises(openai.APIError, match="the engine failed; the answer is not complete"):
        received.extend(echo.chat.completions.create(model="hello", messages=messages, stream=True, **more))
    assert received
    assert all(choice.finish_reason is None for chunk in received for choice in chunk.choices)
    with pytest.raises(openai.InternalServerError):
        echo.chat.completions.create(model="hello", messages=messages, **more)


async def test_the_asynchronous_client(echo):
    base = str(echo.base_url)
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(**CHAT, n=2, logprobs=True, top_logprobs=1)
        assert [choice.message.content for choice in whole.choices] == [WORDS, WORDS]
        for choice in whole.choices:
            assert [bytes(token.bytes).decode() for token in choice.logprobs.content] == ["one", " two", " three"]
        stream = await client.chat.completions.create(**CHAT, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == WORDS
        stream = await client.chat.completions.create(
            **CHAT | {"messages": [{"role": "user", "content": "w " * 100}]}, stream=True
        )
        with pytest.raises(openai.APIError, match="not complete"):
            [chunk async for chunk in stream]


def test_log_probabilities(hello):
    settings = {"max_tokens": 8, "temperature": 0}
    whole = hello.chat.completions.create(**CHAT, **settings, logprobs=True, top_logprobs=3).choices[0]
    tokens = whole.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == whole.message.content
    assert all(token.top_logprobs[0].token == token.token for token in tokens)
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    chunks = hello.chat.completions.create(**CHAT, **settings, logprobs=True, top_logprobs=3, stream=True)
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    old = hello.completions.create(model="hello", prompt="Python is", **settings, logprobs=2).choices[0]
    assert "".join(old.logprobs.tokens) == old.text
    assert [old.text[at] for at in old.logprobs.text_offset] == [token[0] for token in old.logprobs.tokens]
    assert all(len(top) in (2, 3) for top in old.logprobs.top_logprobs)


def test_seeds_of_choices(hello):
    settings = {"max_tokens": 8, "temperature": 1.5, "seed": 3}
    first = [choice.message.content for choice in hello.chat.completions.create(**CHAT, **settings, n=3).choices]
    again = [choice.message.content for choice in hello.chat.completions.create(**CHAT, **settings, n=3).choices]
    assert first == again
    assert len(set(first)) == 3


@pytest.mark.parametrize("seed", range(3))
def test_a_json_schema(hello, seed):
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    settings = {"response_format": form, "temperature": 1.5, "seed": seed, "max_tokens": 200}
    whole = hello.chat.completions.create(**CHAT, **settings).choices[0]
    assert whole.finish_reason == "stop"
    jsonschema.validate(json.loads(whole.message.content), SCHEMA)
    chunks = hello.chat.completions.create(**CHAT, **settings, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content


def test_the_clients_own_parsing_of_a_pydantic_model(hello):
    settings = {"temperature": 0, "max_tokens": 400, "stop": ["\n\n\n"]}
    parsed = hello.chat.completions.parse(**CHAT, **settings, response_format=Weather).choices[0].message.parsed
    assert isinstance(parsed, Weather)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "report"}}])
def test_a_tool_that_must_be_called(hello, choice):
    settings = {"tools": [TOOL], "tool_choice": choice, "temperature": 1, "seed": 1, "max_tokens": 200}
    whole = hello.chat.completions.create(**CHAT, **settings).choices[0]
    (call,) = whole.message.tool_calls
    assert (whole.finish_reason, whole.message.content, call.function.name) == ("tool_calls", None, "report")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    with hello.chat.completions.stream(**CHAT, **settings) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert streamed.function.arguments == call.function.arguments
    answered = [*CHAT["messages"], whole.message, {"role": "tool", "tool_call_id": call.id, "content": "noted"}]
    after = hello.chat.completions.create(
        model="hello", messages=answered, tools=[TOOL], tool_choice="none", max_tokens=4
    )
    assert after.choices[0].finish_reason in ("stop", "length")


def test_a_grammar_and_what_cannot_be_one(hello):
    form = {"type": "grammar", "grammar": 'root ::= "yes" | "no"'}
    answer = hello.chat.completions.create(**CHAT, extra_body={"response_format": form}).choices[0]
    assert answer.message.content in ("yes", "no")
    for body in (
        {"response_format": {"type": "grammar", "grammar": "root ::= (("}},
        {"response_format": {"type": "regex", "regex": "a+"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"pattern": "a"}}}},
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            hello.chat.completions.create(**CHAT, extra_body=body)
        assert bad.value.param == "response_format"
