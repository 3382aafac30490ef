"""OpenAI's completion routes.

What we do not do is refused by name, unless its value changes nothing (`n: 1`, `logprobs: false`).
"""

import time
from collections.abc import Callable
from typing import Any

from ..engine import Delta, GenerationRequest, Usage
from ..fields import Fields
from .http import HttpError
from .sse import EventShape, Reply, encode_event, token_template

_Choice = dict[str, Any]


def parse_chat(body: Any, request_id: str, model: str) -> Reply:
    """POST /v1/chat/completions. Raises RequestError."""
    fields = Fields(body)
    _check_model(fields, model)
    messages = fields.messages("messages")
    if messages is None:
        raise fields.refusal("messages", "is missing")
    newer = fields.given("max_completion_tokens")
    sampling = fields.sampling("max_completion_tokens" if newer else "max_tokens")
    stream, usage = _streaming(fields)
    for name, values in _CHAT_NEUTRAL.items():
        fields.neutral(name, *values)
    fields.finish()
    request = GenerationRequest(request_id, messages=messages, sampling=sampling)
    head = _head("chatcmpl-" + request_id, "chat.completion", model)
    return Reply(request, stream, _chat_shape(head, usage=usage), _chat_whole(head))


def parse_completion(body: Any, request_id: str, model: str) -> Reply:
    """POST /v1/completions. Raises RequestError."""
    fields = Fields(body)
    _check_model(fields, model)
    fields.unwrap("prompt")
    prompt = fields.text("prompt")
    if prompt is None:
        raise fields.refusal("prompt", "is missing")
    sampling = fields.sampling()
    stream, usage = _streaming(fields)
    for name, values in _COMPLETION_NEUTRAL.items():
        fields.neutral(name, *values)
    fields.finish()
    request = GenerationRequest(request_id, prompt=prompt, sampling=sampling)
    head = _head("cmpl-" + request_id, "text_completion", model)
    return Reply(request, stream, _completion_shape(head, usage=usage), _completion_whole(head))


def models(model: str, created: int, context_length: int | None) -> Any:
    """GET /v1/models: the one model. `max_model_len` is vLLM's word, which clients look for."""
    entry = {"id": model, "object": "model", "created": created, "owned_by": "packager"}
    if context_length is not None:
        entry["max_model_len"] = context_length
    return {"object": "list", "data": [entry]}


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "metadata": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
_CHAT_NEUTRAL = _NEUTRAL | {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "modalities": (["text"],),
}
_COMPLETION_NEUTRAL = _NEUTRAL | {"logprobs": (0,), "echo": (False,), "best_of": (1,), "suffix": ("",)}
"""Parameters we do not have, with the values that ask for nothing."""


def _check_model(fields: Fields, model: str) -> None:
    asked = fields.text("model")
    if asked is None:
        raise fields.refusal("model", "is missing")
    if asked != model:
        raise HttpError(404, f"the model {asked!r} does not exist here; this server has {model!r}", where="model")
    fields.take("user")  # names the caller's own user, for abuse reports: it asks nothing of a model


def _streaming(fields: Fields) -> tuple[bool, bool]:
    """Whether to stream, and whether to end with a usage event."""
    stream, options = fields.flag("stream"), fields.take("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise fields.refusal("stream_options", "needs stream: true")
    inner = Fields(options, "stream_options")
    usage = inner.flag("include_usage")
    inner.neutral("include_obfuscation", False)
    inner.finish()
    return stream, usage


def _head(identity: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def _usage(usage: Usage | None) -> dict[str, int]:
    prompt, completion = usage or (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chat_shape(head: dict[str, Any], *, usage: bool) -> EventShape:
    head = head | {"object": "chat.completion.chunk"}

    def choice(delta: dict[str, str], finish: str | None = None) -> _Choice:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    return _shape(
        head,
        token=lambda text: choice({"content": text}),
        finish=lambda reason: choice({}, reason),
        opening=choice({"role": "assistant", "content": ""}),
        usage=usage,
    )


def _completion_shape(head: dict[str, Any], *, usage: bool) -> EventShape:
    def choice(text: str, finish: str | None = None) -> _Choice:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}

    return _shape(head, token=choice, finish=lambda reason: choice("", reason), opening=None, usage=usage)


def _shape(
    head: dict[str, Any],
    *,
    token: Callable[[str], _Choice],
    finish: Callable[[str | None], _Choice],
    opening: _Choice | None,
    usage: bool,
) -> EventShape:
    none: dict[str, Any] = {"usage": None} if usage else {}  # with include_usage every event has the field

    def closing(last: Delta) -> bytes:
        events = encode_event(head | {"choices": [finish(last.finish_reason)]} | none)
        return events + encode_event(head | {"choices": [], "usage": _usage(last.usage)}) if usage else events

    before, after = token_template(lambda text: head | {"choices": [token(text)]} | none)
    first = b"" if opening is None else encode_event(head | {"choices": [opening]} | none)
    return EventShape(first, before, after, closing)


def _chat_whole(head: dict[str, Any]) -> Callable[[str, Delta], Any]:
    def whole(text: str, last: Delta) -> Any:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish_reason}
        return head | {"choices": [choice], "usage": _usage(last.usage)}

    return whole


def _completion_whole(head: dict[str, Any]) -> Callable[[str, Delta], Any]:
    def whole(text: str, last: Delta) -> Any:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": last.finish_reason}
        return head | {"choices": [choice], "usage": _usage(last.usage)}

    return whole
