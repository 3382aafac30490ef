"""POST /v1/chat/completions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..engine import Delta, GenerationRequest, Likely, TokenLogprob
from ..fields import Fields
from ..structured import parse_output, parse_tools
from .choices import Choices, Json
from .openai import MOST_LOGPROBS, floored, make_envelope, make_reply, take_shared
from .sse import Reply

_NEUTRAL: dict[str, tuple[Any, ...]] = {"functions": ([],), "modalities": (["text"],)}


def parse_chat(body: Any, request_id: str, model: str) -> Reply | Choices:
    """The request and its answer's form. Raises RequestError."""
    fields = Fields(body)
    asked = take_shared(fields, model)
    messages = fields.messages("messages")
    if messages is None:
        raise fields.refusal("messages", "is missing")
    newer = fields.given("max_completion_tokens")
    if newer and fields.given("max_tokens"):
        raise fields.refusal("max_tokens", "cannot be had together with max_completion_tokens, its newer name")
    sampling = fields.sampling("max_completion_tokens" if newer else "max_tokens")
    logprobs, output, tools = _logprobs(fields), parse_output(fields), parse_tools(fields)
    if output is not None and tools is not None and tools.choice != "none":
        raise fields.refusal("response_format", "cannot be had together with tools that the model may call")
    for name, values in _NEUTRAL.items():
        fields.neutral(name, *values)
    fields.finish()
    request = GenerationRequest(
        request_id,
        messages=messages,
        sampling=replace(sampling, logprobs=logprobs),
        output=output,
        tools=tools,
        adapter=asked.adapter,
    )
    envelope = make_envelope(f"chatcmpl-{request_id}", "chat.completion", "chat.completion.chunk", asked)
    return make_reply([request], asked, envelope, ChatForm(logprobs=logprobs is not None))


def _logprobs(fields: Fields) -> int | None:
    """How many alternatives a token, or None for no log probabilities."""
    wanted, top = fields.flag("logprobs"), fields.integer("top_logprobs", 0, MOST_LOGPROBS)
    if top and not wanted:
        raise fields.refusal("top_logprobs", "needs logprobs: true")
    return (top or 0) if wanted else None


class ChatForm:
    """Choices as messages; `logprobs` says whether they were asked for."""

    def __init__(self, *, logprobs: bool) -> None:
        self._logprobs = logprobs

    def opening(self, index: int) -> Json:
        return _event(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, delta: Delta) -> Json | None:
        added: Json = {}
        if delta.text or delta.logprobs:
            added["content"] = delta.text
        if delta.tool_calls:
            added["tool_calls"] = [_typed(call) for call in delta.tool_calls]
        return _event(index, added, _logprobs_json(delta.logprobs) if delta.logprobs else None) if added else None

    def finish(self, index: int, last: Delta) -> Json:
        return _event(index, {}) | {"finish_reason": last.finish_reason}

    def whole(self, index: int, deltas: Sequence[Delta]) -> Json:
        message: Json = {"role": "assistant", "content": "".join(delta.text for delta in deltas)}
        if calls := _joined(deltas):
            message |= {"content": message["content"] or None, "tool_calls": calls}
        logprobs = _logprobs_json([one for delta in deltas for one in delta.logprobs]) if self._logprobs else None
        finish = deltas[-1].finish_reason
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def _event(index: int, delta: Json, logprobs: Json | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _typed(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A piece of a call; the one that begins it says what kind of tool it calls."""
    return {**call, "type": "function"} if "id" in call else call


def _joined(deltas: Sequence[Delta]) -> list[Json]:
    """Whole calls from their pieces."""
    calls: dict[int, Json] = {}
    for piece in [piece for delta in deltas for piece in delta.tool_calls]:
        function = piece["function"]
        if "id" in piece:
            begun = {"name": function["name"], "arguments": ""}
            calls[piece["index"]] = {"id": piece["id"], "type": "function", "function": begun}
        calls[piece["index"]]["function"]["arguments"] += function.get("arguments", "")
    return [calls[at] for at in sorted(calls)]


def _logprobs_json(tokens: Sequence[TokenLogprob]) -> Json:
    content = [
        {**_likely_json(one.token), "top_logprobs": [_likely_json(other) for other in one.top]} for one in tokens
    ]
    return {"content": content, "refusal": None}


def _likely_json(one: Likely) -> Json:
    return {"token": one.text, "logprob": floored(one.logprob), "bytes": list(one.raw)}
