"""vLLM's own OpenAI server over our engine, behind our wrapper, on a real socket."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio
import uvicorn
from fakes.engines import make_setup
from fakes.lora import write_adapter
from fakes.models import write_model

from packager.errors import LoadError, PackagerError
from packager.runtime.admission import Admission
from packager.runtime.engine import GenerationRequest
from packager.runtime.engines.vllm import VllmEngine
from packager.runtime.engines.vllm_native import native_app
from packager.runtime.generation import Generation, Source
from packager.runtime.inputs import new_id
from packager.runtime.metrics import Metrics
from packager.runtime.serve import quiet_broken_streams
from packager.runtime.server.bounds import Bounds
from packager.runtime.server.http import Exchange
from packager.runtime.server.native import NativeCall, pass_on
from packager.runtime.turns import Turns

pytestmark = pytest.mark.asyncio(loop_scope="session")
OPTIONS = {"context_length": 256, "dtype": "float32", "eager": True, "kv_cache_gib": 0.125, "tool_parser": "hermes"}
TEMPLATE = "{% for message in messages %}{{ message.content }} é {% endfor %}"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "one two"}], "temperature": 0, "max_tokens": 8}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Native:
    """The app in our wrapper, with four slots."""

    def __init__(self, engine: VllmEngine, inner) -> None:
        self.engine, self.inner = engine, inner
        self.admission, self.metrics, self.turns = Admission(4, 4), Metrics(), Turns(16)
        self.last: Generation

    async def __call__(self, scope, receive, send) -> None:
        exchange = Exchange(scope, receive, send, new_id(), Bounds())
        try:
            call = NativeCall(self.inner, scope, await exchange.body())
            source = Source(call, self.metrics, self.turns, lambda _: None)
            self.last = Generation(GenerationRequest(exchange.id, prompt=""), self.admission.enter(), source)
            await pass_on(exchange, self.last, call)
        except PackagerError as error:
            await exchange.answer_error(error)

    def requests(self) -> int:
        """What vLLM itself counts as open."""
        return self.engine._process._llm.get_num_unfinished_requests()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def native(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Native]:
    folder = tmp_path_factory.mktemp("native")
    weights = write_model(folder / "llama")
    adapters = {"one": write_adapter(folder / "one")}
    setup = replace(make_setup(weights, 4, **OPTIONS), adapters=adapters, chat_template=TEMPLATE)
    engine = VllmEngine(setup)
    await engine.start()
    yield Native(engine, await engine.native_app())
    await engine.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(native: Native) -> AsyncIterator[httpx.AsyncClient]:
    quiet_broken_streams()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(native, lifespan="off", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
        yield client
    server.should_exit = True
    await task


async def events(client: httpx.AsyncClient, body: dict) -> list[dict]:
    async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_stream_and_whole_answer_are_the_same(client, native):
    whole = (await client.post("/v1/chat/completions", json=CHAT)).json()
    text = whole["choices"][0]["message"]["content"]
    assert text
    assert native.last.usage == (whole["usage"]["prompt_tokens"], 8)
    pieces = await events(client, CHAT)
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in pieces) == text


async def test_it_is_the_packages_template(client, native):
    answer = (await client.post("/v1/chat/completions", json=CHAT)).json()
    ids = native.engine._model.llm.get_tokenizer().encode("one two é ", add_special_tokens=False)
    assert answer["usage"]["prompt_tokens"] == len(ids)


async def test_tools_and_response_format(client):
    forced = {"type": "function", "function": {"name": "weather"}}
    pieces = await events(client, CHAT | {"tools": [WEATHER], "tool_choice": forced, "max_tokens": 100})
    calls = [call for event in pieces for call in event["choices"][0]["delta"].get("tool_calls") or ()]
    assert calls[0]["function"]["name"] == "weather"
    arguments = json.loads("".join(call["function"].get("arguments") or "" for call in calls))
    assert arguments["city"] in ("Rome", "Oslo")
    schema = {"name": "answer", "schema": WEATHER["function"]["parameters"]}
    body = CHAT | {"response_format": {"type": "json_schema", "json_schema": schema}, "max_tokens": 100}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert json.loads(answer["choices"][0]["message"]["content"])["city"] in ("Rome", "Oslo")


async def test_adapters_are_models(client):
    listed = (await client.get("/v1/models")).json()["data"]
    assert [one["id"] for one in listed] == ["tiny", "one"]
    base, tuned = [
        (await client.post("/v1/chat/completions", json=CHAT | {"model": name})).json() for name in ("tiny", "one")
    ]
    assert base["choices"][0]["message"]["content"] != tuned["choices"][0]["message"]["content"]


async def test_what_it_refuses_passes(client, native):
    answer = await client.post("/v1/chat/completions", json=CHAT | {"model": "nobody"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "NotFoundError")
    assert native.admission.running == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_leaving_ends_the_request_in_the_engine(client, native, stream):
    body = CHAT | {"stream": stream, "max_tokens": 240, "ignore_eos": True}
    sending = asyncio.create_task(
        client.send(client.build_request("POST", "/v1/chat/completions", json=body), stream=True)
    )
    async with asyncio.timeout(120):
        while not native.requests():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
        if stream:
            answer = await sending
            await anext(answer.aiter_bytes())
            await answer.aclose()
        else:
            sending.cancel()
        await native.last.closed()
        while native.requests():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
    assert native.last.outcome == "abort"
    assert native.admission.running == 0


async def test_a_tool_parser_that_vllm_does_not_have():
    with pytest.raises(LoadError, match="no tool parser 'warp'") as caught:
        await native_app(None, make_setup(), "warp")
    assert "hermes" in caught.value.problems[0].mend


async def test_another_app_can_be_made(native):
    """As it is after a restart: in one process, with the metrics of the first one still there."""
    assert await native.engine.native_app() is not native.inner


async def test_a_killed_engine_breaks_the_stream(client, native):
    """Last: it ends the engine. vLLM itself would end the stream as if it were complete."""
    body = CHAT | {"stream": True, "max_tokens": 240, "ignore_eos": True}
    text = ""
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for chunk in answer.aiter_text():
                if not text:
                    os.kill(native.engine._process._family._core.pid, signal.SIGKILL)
                text += chunk
    except httpx.RemoteProtocolError:
        assert '"type":"engine_error"' in text
        assert "[DONE]" not in text
        return
    pytest.fail("the stream ended as if it were complete")
