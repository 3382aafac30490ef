"""OpenAI's routes on the wire: several choices, log probabilities, tools, response formats, refusals."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, get_type_hints

import httpx
import pytest
from fakes.engines import HeldEngine
from fakes.serving import ThreadServer, make_manifest, thread_server, wait_until
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params

from packager.runtime.engine import (
    SAMPLING,
    Delta,
    EngineFacts,
    Features,
    GenerationRequest,
    Likely,
    TokenLogprob,
    Usage,
)
from packager.runtime.metrics import Metrics
from packager.runtime.supervise import Supervisor

WORDS = "one two three"
CHAT: dict[str, Any] = {"model": "hello", "messages": [{"role": "user", "content": WORDS}]}
TEXT: dict[str, Any] = {"model": "hello", "prompt": WORDS}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadServer]:
    with thread_server(tmp_path_factory.mktemp("server"), max_concurrency=4, max_queue=4) as server:
        yield server.wait_ready()


def ask(server: ThreadServer, path: str, body: dict[str, Any], **more: Any) -> Any:
    answer = httpx.post(server.url + path, json=body | more, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(server: ThreadServer, path: str, body: dict[str, Any], **more: Any) -> list[Any]:
    """The events of a stream that is complete."""
    answer = httpx.post(server.url + path, json=body | more | {"stream": True}, timeout=60)
    assert answer.status_code == 200, answer.text
    *lines, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def refusal(server: ThreadServer, path: str, body: dict[str, Any], **more: Any) -> tuple[int, str | None]:
    answer = httpx.post(server.url + path, json=body | more, timeout=60)
    return answer.status_code, answer.json()["error"]["param"]


class Scripted(HeldEngine):
    """A HeldEngine that can do everything, with a LoRA adapter. What it says is told by the order of requests."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.requests: list[GenerationRequest] = []
        self.lines: defaultdict[int, asyncio.Queue[Delta | Exception | None]] = defaultdict(asyncio.Queue)

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.tokens[request.id] = self.lines[len(self.requests)]
        self.requests.append(request)
        return super().stream(request)

    async def start(self) -> EngineFacts:
        features = Features(SAMPLING, 20, frozenset(("json_object",)), tools=True, adapters=("poet",))
        return EngineFacts("held", "1", "tiny", 100, self.slots, features)


class Held:
    """A server of two slots and no queue."""

    def __init__(self) -> None:
        self.engine = Scripted(2)
        manifest = make_manifest(max_concurrency=2, max_queue=0)
        self.server = ThreadServer(Supervisor(manifest, self._load, Metrics()))
        self.url = self.server.url

    async def _load(self) -> tuple[HeldEngine, EngineFacts]:
        return self.engine, await self.engine.start()

    def give(self, at: int, *items: Delta | Exception | None) -> None:
        """The next things that the request `at`, come or yet to come, is answered with."""
        self.server.call_soon(lambda: [self.engine.lines[at].put_nowait(item) for item in items])


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    with held.server:
        held.server.wait_ready()
        yield held


# Several choices


def test_choices_of_a_chat(server):
    answer = ask(server, CHATS, CHAT, n=3, max_tokens=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["one two"] * 3
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}


def test_choices_of_a_stream(server):
    *chunks, last = events(server, CHATS, CHAT, n=3, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    for index in range(3):
        first, *deltas, finish = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert first["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"]["content"] for choice in deltas) == WORDS
        assert (finish["delta"], finish["finish_reason"]) == ({}, "stop")


def test_prompts_and_choices_of_completions(server):
    answer = ask(server, COMPLETIONS, {"model": "hello", "prompt": ["a b c", "d e"]}, n=2)
    assert [choice["text"] for choice in answer["choices"]] == ["a b c", "a b c", "d e", "d e"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
    chunks = events(server, COMPLETIONS, {"model": "hello", "prompt": ["a b c", "d e"]})
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["a b c", "d e"]


def test_choices_come_as_they_come_and_each_has_a_seed_of_its_own(held):
    held.give(1, Delta("second"))
    body = CHAT | {"n": 2, "seed": 7, "stream": True}
    with httpx.stream("POST", held.url + CHATS, json=body, timeout=30) as answer:
        lines = (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: {"))
        assert next(lines)["choices"][0] == {
            "index": 1,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        assert next(lines)["choices"][0]["delta"] == {"content": "second"}
        held.give(0, Delta("first"), Delta("", 0, "length", Usage(5, 1)), None)
        assert next(lines)["choices"][0]["index"] == 0
        assert next(lines)["choices"][0]["delta"] == {"content": "first"}
        assert next(lines)["choices"][0]["finish_reason"] == "length"
        held.give(1, Delta("", 0, "stop", Usage(5, 1)), None)
        assert next(lines)["choices"][0]["finish_reason"] == "stop"
    assert [request.sampling.seed for request in held.engine.requests] == [7, 8]


def test_all_choices_are_taken_or_none(held):
    metrics = held.server.supervisor.metrics
    held.give(0, Delta("a"))
    with httpx.stream("POST", held.url + COMPLETIONS, json=TEXT | {"stream": True}, timeout=30):
        refused = httpx.post(held.url + CHATS, json=CHAT | {"n": 2}, timeout=60)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        wait_until(lambda: metrics.running == 1, "the choice that was taken is given back")
        assert held.engine.aborted
        held.give(0, Delta("", 0, "stop", Usage(1, 1)), None)
    wait_until(lambda: metrics.running == 0, "the slots are free")


def test_more_choices_than_ever_fit(held):
    assert refusal(held.server, CHATS, CHAT, n=3) == (400, "n")


def test_leaving_ends_all_choices(held):
    held.give(0, Delta("a"))
    with httpx.stream("POST", held.url + CHATS, json=CHAT | {"n": 2, "stream": True}, timeout=30):
        pass
    wait_until(lambda: held.server.supervisor.metrics.running == 0, "the slots are free")
    assert len(held.engine.aborted) == 2


# Log probabilities


def token(raw: bytes, logprob: float, *top: tuple[bytes, float]) -> TokenLogprob:
    return TokenLogprob(Likely(raw, logprob), tuple(Likely(*one) for one in top))


MOON = "\N{CRESCENT MOON}".encode()
PIECES = (
    Delta("a", logprobs=(token(b"a", -0.5, (b"a", -0.5), (b"b", -2.0)),)),
    Delta("", logprobs=(token(MOON[:2], -1.0, (b"c", -0.25)),)),
    Delta(MOON.decode(), logprobs=(token(MOON[2:], float("-inf"), (b"d", -0.125)),)),
    Delta("", 0, "stop", Usage(3, 3)),
    None,
)


def likely(raw: bytes, logprob: float) -> dict[str, Any]:
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}


CHAT_LOGPROBS = [
    likely(b"a", -0.5) | {"top_logprobs": [likely(b"a", -0.5), likely(b"b", -2.0)]},
    likely(MOON[:2], -1.0) | {"top_logprobs": [likely(b"c", -0.25)]},
    likely(MOON[2:], -9999.0) | {"top_logprobs": [likely(b"d", -0.125)]},
]
TEXT_LOGPROBS = {
    "tokens": ["a", "\ufffd", "\ufffd\ufffd"],
    "token_logprobs": [-0.5, -1.0, -9999.0],
    "top_logprobs": [{"a": -0.5, "b": -2.0}, {"\ufffd": -1.0, "c": -0.25}, {"\ufffd\ufffd": -9999.0, "d": -0.125}],
    "text_offset": [0, 1, 1],
}


def in_thread(work: Callable[[], Any]) -> "Future[Any]":
    return ThreadPoolExecutor(1).submit(work)


def test_log_probabilities_of_a_chat(held):
    whole = in_thread(lambda: ask(held.server, CHATS, CHAT, logprobs=True, top_logprobs=2))
    held.give(0, *PIECES)
    assert whole.result()["choices"][0]["logprobs"] == {"content": CHAT_LOGPROBS, "refusal": None}
    streamed = in_thread(lambda: events(held.server, CHATS, CHAT, logprobs=True, top_logprobs=2))
    held.give(1, *PIECES)
    choices = [chunk["choices"][0] for chunk in streamed.result()]
    assert [choice["logprobs"]["content"] for choice in choices if choice["logprobs"]] == [
        [one] for one in CHAT_LOGPROBS
    ]
    assert [choice["delta"].get("content") for choice in choices] == ["", "a", "", MOON.decode(), None]
    assert [request.sampling.logprobs for request in held.engine.requests] == [2, 2]


def test_log_probabilities_of_completions(held):
    whole = in_thread(lambda: ask(held.server, COMPLETIONS, TEXT, logprobs=2))
    held.give(0, *PIECES)
    assert whole.result()["choices"][0]["logprobs"] == TEXT_LOGPROBS
    streamed = in_thread(lambda: events(held.server, COMPLETIONS, TEXT, logprobs=2))
    held.give(1, *PIECES)
    tables = [chunk["choices"][0]["logprobs"] for chunk in streamed.result()]
    assert tables.pop() is None
    for name, column in TEXT_LOGPROBS.items():
        assert [table[name] for table in tables] == [[one] for one in column]


def test_log_probabilities_without_alternatives(server):
    choice = ask(server, CHATS, CHAT, logprobs=True, max_tokens=1)["choices"][0]
    assert choice["logprobs"]["content"] == [likely(b"one", 0.0) | {"top_logprobs": []}]
    choice = ask(server, COMPLETIONS, TEXT, logprobs=0, max_tokens=1)["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"one": 0.0}]
    assert ask(server, CHATS, CHAT)["choices"][0]["logprobs"] is None


# Tools and response formats


def test_a_tool_that_must_be_called(server):
    answer = ask(server, CHATS, CHAT, tools=[NOW], tool_choice="required")
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["id"].startswith("call_")
    assert (call["type"], call["function"]["name"]) == ("function", "now")
    assert json.loads(call["function"]["arguments"]) == {"text": WORDS}


def test_a_tool_call_in_a_stream(server):
    chunks = events(server, CHATS, CHAT, tools=[NOW], tool_choice={"type": "function", "function": {"name": "now"}})
    opening, first, *others, finish = [chunk["choices"][0] for chunk in chunks]
    assert opening["delta"] == {"role": "assistant", "content": ""}
    (begun,) = first["delta"]["tool_calls"]
    assert (begun["index"], begun["type"], begun["function"]["name"]) == (0, "function", "now")
    rest = [piece for choice in others for piece in choice["delta"]["tool_calls"]]
    assert all(piece.keys() == {"index", "function"} for piece in rest)
    arguments = "".join(piece["function"]["arguments"] for piece in (begun, *rest))
    assert json.loads(arguments) == {"text": WORDS}
    assert (finish["delta"], finish["finish_reason"]) == ({}, "tool_calls")


def test_several_calls_after_text(held):
    def piece(index: int, arguments: str, **begun: str) -> dict[str, Any]:
        function = {"arguments": arguments} | ({"name": begun["name"]} if begun else {})
        return {"index": index, "function": function} | ({"id": begun["id"]} if begun else {})

    whole = in_thread(lambda: ask(held.server, CHATS, CHAT, tools=[NOW], parallel_tool_calls=True))
    held.give(
        0,
        Delta("Let me see."),
        Delta("", tool_calls=(piece(0, "{", id="c0", name="now"),)),
        Delta("", tool_calls=(piece(0, "}"), piece(1, '{"a"', id="c1", name="now"))),
        Delta("", 0, "tool_calls", Usage(1, 4), tool_calls=(piece(1, ":1}"),)),
        None,
    )
    message = whole.result()["choices"][0]["message"]
    assert message["content"] == "Let me see."
    assert [(one["id"], one["function"]["arguments"]) for one in message["tool_calls"]] == [
        ("c0", "{}"),
        ("c1", '{"a":1}'),
    ]
    wait_until(lambda: held.server.supervisor.metrics.outcomes["tool_calls"] == 1, "it is counted")


def test_a_json_object(server):
    answer = ask(server, CHATS, CHAT, response_format={"type": "json_object"})
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"text": WORDS}
    chunks = events(server, COMPLETIONS, TEXT, response_format={"type": "json_object"})
    assert json.loads("".join(chunk["choices"][0]["text"] for chunk in chunks)) == {"text": WORDS}
    answer = httpx.post(
        server.url + "/predict", json={"prompt": WORDS, "response_format": {"type": "json_object"}}, timeout=60
    )
    assert json.loads(answer.json()["text"]) == {"text": WORDS}


# Failures


@pytest.fixture(scope="module", params=range(4))
def failing(request, tmp_path_factory) -> Iterator[ThreadServer]:
    """Fails after as many of the three tokens as the parameter says; after all of them too."""
    with thread_server(tmp_path_factory.mktemp("failing"), fail_after=request.param) as server:
        yield server.wait_ready()


REQUESTS = [
    (CHATS, CHAT),
    (CHATS, CHAT | {"n": 2}),
    (CHATS, CHAT | {"logprobs": True}),
    (CHATS, CHAT | {"tools": [NOW], "tool_choice": "required"}),
    (COMPLETIONS, TEXT),
    (COMPLETIONS, TEXT | {"n": 2, "logprobs": 1}),
    ("/predict", {"prompt": WORDS}),
]


def read_to_its_break(answer: httpx.Response) -> bytes:
    """What came of a stream that broke off; nothing of it may look like an end."""
    received: list[bytes] = []
    with pytest.raises(httpx.RemoteProtocolError):
        received.extend(answer.iter_bytes())
    data = b"".join(received)
    assert data.count(b'data: {"error":') == 1
    assert b"[DONE]" not in data
    return data


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_a_failure_at_any_token_is_a_failure(failing, path, body):
    whole = httpx.post(failing.url + path, json=body, timeout=60)
    assert (whole.status_code, whole.json()["error"]["type"]) == (500, "engine_error")
    with httpx.stream("POST", failing.url + path, json=body | {"stream": True}, timeout=60) as answer:
        if answer.status_code == 200:
            assert b'"finish_reason":"' not in read_to_its_break(answer)
        else:
            assert answer.status_code == 500
    wait_until(lambda: failing.supervisor.metrics.running == 0, "nothing runs on")


@pytest.mark.parametrize(("path", "body"), [(CHATS, CHAT), (COMPLETIONS, TEXT)])
def test_one_choice_that_fails_fails_the_others(held, path, body):
    held.give(0, Delta("a"), Delta("", 0, "stop", Usage(1, 1)), None)
    with httpx.stream("POST", held.url + path, json=body | {"n": 2, "stream": True}, timeout=30) as answer:
        held.give(1, Delta("b"), RuntimeError("broken"))
        read_to_its_break(answer)
    held.give(2, Delta("a"))
    held.give(3, RuntimeError("broken"))
    assert httpx.post(held.url + path, json=body | {"n": 2}, timeout=60).status_code == 500
    wait_until(lambda: held.server.supervisor.metrics.running == 0, "the other one is ended")


@pytest.mark.parametrize(("path", "body"), [(CHATS, CHAT), (CHATS, CHAT | {"logprobs": True}), (COMPLETIONS, TEXT)])
def test_what_the_engine_aborts_by_itself_is_no_clean_end(held, path, body):
    end = Delta("", 0, "abort", Usage(1, 1))
    held.give(0, Delta("a"), end, None)
    assert httpx.post(held.url + path, json=body, timeout=60).status_code == 500
    held.give(1, Delta("a"))
    with httpx.stream("POST", held.url + path, json=body | {"stream": True}, timeout=30) as answer:
        held.give(1, end, None)
        assert b"abort" not in read_to_its_break(answer)


# Refusals

CHAT_SUPPORTED = {
    *(
        "messages",
        "model",
        "frequency_penalty",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "presence_penalty",
    ),
    *(
        "parallel_tool_calls",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
    ),
    *("tools", "top_logprobs", "top_p", "user", "safety_identifier"),
}
CHAT_UNSUPPORTED = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": "auto",
    "functions": [{"name": "now"}],
    "logit_bias": {"5": 1},
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "prediction": {"type": "content", "content": "a"},
    "prompt_cache_key": "a",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "service_tier": "priority",
    "store": True,
    "verbosity": "low",
    "web_search_options": {},
}
TEXT_SUPPORTED = {
    *(
        "model",
        "prompt",
        "frequency_penalty",
        "logprobs",
        "max_tokens",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
    ),
    *("stream_options", "temperature", "top_p", "user"),
}
TEXT_UNSUPPORTED = {"best_of": 2, "echo": True, "logit_bias": {"5": 1}, "suffix": "a"}


def test_every_parameter_of_openais_client_is_known_here():
    """A new one is put into one of the tables above."""
    chats = set(get_type_hints(chat_params.CompletionCreateParamsStreaming))
    texts = set(get_type_hints(completion_params.CompletionCreateParamsStreaming))
    assert chats == CHAT_SUPPORTED | CHAT_UNSUPPORTED.keys()
    assert texts == TEXT_SUPPORTED | TEXT_UNSUPPORTED.keys()


@pytest.mark.parametrize("name", CHAT_UNSUPPORTED)
def test_what_a_chat_does_not_have_is_refused_by_name(server, name):
    assert refusal(server, CHATS, CHAT, **{name: CHAT_UNSUPPORTED[name]}) == (400, name)


@pytest.mark.parametrize("name", TEXT_UNSUPPORTED)
def test_what_a_completion_does_not_have_is_refused_by_name(server, name):
    assert refusal(server, COMPLETIONS, TEXT, **{name: TEXT_UNSUPPORTED[name]}) == (400, name)


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (CHATS, {"n": 0}, "n"),
        (CHATS, {"n": 17}, "n"),
        (CHATS, {"max_tokens": 0}, "max_tokens"),
        (CHATS, {"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        (CHATS, {"top_logprobs": 2}, "top_logprobs"),
        (CHATS, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHATS, {"logprobs": 5}, "logprobs"),
        (CHATS, {"tool_choice": "required"}, "tool_choice"),
        (CHATS, {"tools": [NOW], "response_format": {"type": "json_object"}}, "response_format"),
        (CHATS, {"response_format": {"type": "regex", "regex": "a"}}, "response_format"),
        (CHATS, {"stream_options": {"include_usage": True}}, "stream_options"),
        (
            CHATS,
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
        (CHATS, {"prompt": "a"}, "prompt"),
        (CHATS, {"use_beam_search": True}, "use_beam_search"),
        (COMPLETIONS, {"tools": [NOW]}, "tools"),
        (COMPLETIONS, {"logprobs": 21}, "logprobs"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [1, 2]}, "prompt"),
        (COMPLETIONS, {"prompt": [[1, 2]]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", ""]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", None]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 129}, "prompt"),
        (COMPLETIONS, {"prompt": 5}, "prompt"),
    ],
)
def test_what_is_off_is_named(server, path, more, param):
    assert refusal(server, path, CHAT if path == CHATS else TEXT, **more) == (400, param)


def test_both_names_of_one_limit(server):
    asked = {**CHAT, "max_tokens": 5, "max_completion_tokens": 5}
    said = httpx.post(server.url + CHATS, json=asked, timeout=60).json()["error"]["message"]
    assert said == "max_tokens cannot be had together with max_completion_tokens, its newer name"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_what_is_missing_is_named(server, missing):
    assert refusal(server, CHATS, {name: value for name, value in CHAT.items() if name != missing}) == (400, missing)


def test_values_that_ask_for_nothing_pass(server):
    neutral = {"n": 1, "logit_bias": {}, "store": False, "service_tier": "auto", "tools": [], "tool_choice": "none"}
    more = neutral | {"response_format": {"type": "text"}, "logprobs": False, "top_logprobs": 0, "user": "u"}
    assert ask(server, CHATS, CHAT, **more)["choices"][0]["message"]["content"] == WORDS
    more = {"best_of": 1, "echo": False, "suffix": "", "logit_bias": {}, "metadata": {}}
    assert ask(server, COMPLETIONS, TEXT, **more)["choices"][0]["text"] == WORDS


def test_ignoring_the_end(server):
    answer = ask(server, COMPLETIONS, TEXT, ignore_eos=True, max_tokens=7)
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (7, "length")


# Models


def test_an_adapter_is_a_model(held):
    listed = httpx.get(held.url + "/v1/models", timeout=60).json()["data"]
    assert [(one["id"], one.get("parent"), one["max_model_len"]) for one in listed] == [
        ("hello", None, 100),
        ("poet", "hello", 100),
    ]
    assert [httpx.get(held.url + f"/v1/models/{name}", timeout=60).json() for name in ("hello", "poet")] == listed
    assert httpx.get(held.url + "/v1/models/painter", timeout=60).status_code == 404
    whole = in_thread(lambda: ask(held.server, CHATS, CHAT | {"model": "poet"}))
    held.give(0, Delta("", 0, "stop", Usage(1, 0)), None)
    assert whole.result()["model"] == "poet"
    assert held.engine.requests[0].adapter == "poet"
    unknown = httpx.post(held.url + CHATS, json=CHAT | {"model": "painter"}, timeout=60)
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    assert "hello, poet" in unknown.json()["error"]["message"]
    predicted = in_thread(lambda: ask(held.server, "/predict", {"prompt": "a", "adapter": "poet"}))
    held.give(1, Delta("", 0, "stop", Usage(1, 0)), None)
    assert predicted.result()["finish_reason"] == "stop"
    assert held.engine.requests[1].adapter == "poet"
    unknown = httpx.post(held.url + "/predict", json={"prompt": "a", "adapter": "painter"}, timeout=60)
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "adapter")
