"""What OpenAI's two completion routes have in common, and /v1/models.

What we do not do is refused by name, unless its value changes nothing (`n: 1`, `logit_bias: {}`).
"""

import time
from dataclasses import replace
from typing import Any, NamedTuple

from ..engine import Delta, EngineFacts, GenerationRequest, Usage
from ..fields import Fields
from .choices import Choices, Envelope, Form
from .sse import EventShape, Reply, encode_event, token_template

MOST_LOGPROBS = 20
"""Alternatives a token, as OpenAI has it."""
_MOST_CHOICES = 16
_LEAST_LOGPROB = -9999.0
"""OpenAI's word for a token that cannot be; JSON has no infinity."""


class Asked(NamedTuple):
    """The fields that both routes have: the model by its name, the adapter that the name means, choices a prompt, stream, usage at its end."""

    model: str
    adapter: str | None
    choices: int
    stream: bool
    usage: bool


def take_shared(fields: Fields, model: str) -> Asked:
    """Read them. Another model than `model` is taken for an adapter, until the engine says which there are."""
    name = fields.text("model")
    if name is None:
        raise fields.refusal("model", "is missing")
    for caller in ("user", "safety_identifier"):  # name the caller's own user, for abuse reports: nothing for a model
        fields.take(caller)
    for field, values in _NEUTRAL.items():
        fields.neutral(field, *values)
    choices = fields.integer("n", 1, _MOST_CHOICES) or 1
    stream, usage = _streaming(fields)
    return Asked(name, None if name == model else name, choices, stream, usage)


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "metadata": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""Parameters we do not have, with the values that ask for nothing."""


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
    inner.neutral("continuous_usage_stats", False)
    inner.finish()
    return stream, usage


def make_envelope(identity: str, kind: str, event_kind: str, asked: Asked) -> Envelope:
    """What stands around the choices of an answer of the kind `kind`, in OpenAI's words."""
    head = {"id": identity, "object": kind, "created": int(time.time()), "model": asked.model}
    return Envelope(head, head | {"object": event_kind}, asked.usage)


def make_reply(requests: list[GenerationRequest], asked: Asked, envelope: Envelope, form: Form) -> Reply | Choices:
    """How to answer `requests`, one of each prompt, whose choices are requests of their own."""
    spread = tuple(choice for request in requests for choice in _choices(request, asked.choices))
    first = spread[0]
    if len(spread) > 1 or first.sampling.logprobs is not None or first.tools is not None:
        return Choices(spread, asked.choices, asked.stream, envelope, form)
    return _plain(first, asked, envelope, form)


def _choices(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """The request `count` times; with a seed each has the next one, so that they differ and can be had again."""
    if count == 1:
        return [request]
    sampling = request.sampling
    seeds = [None if sampling.seed is None else sampling.seed + at for at in range(count)]
    return [
        replace(request, id=f"{request.id}-{at}", sampling=replace(sampling, seed=seed))
        for at, seed in enumerate(seeds)
    ]


def _plain(request: GenerationRequest, asked: Asked, envelope: Envelope, form: Form) -> Reply:
    """One choice of text alone: all of an event but its token is encoded here."""
    before, after = token_template(lambda text: envelope.chunk(form.piece(0, Delta(text)) or {}))
    opening = form.opening(0)

    def closing(last: Delta) -> bytes:
        return encode_event(envelope.chunk(form.finish(0, last))) + envelope.ending(last.usage or Usage(0, 0))

    def whole(text: str, last: Delta) -> Any:
        choice = form.whole(0, [Delta(text), last._replace(text="")])
        return envelope.whole([choice], last.usage or Usage(0, 0))

    first = b"" if opening is None else encode_event(envelope.chunk(opening))
    return Reply(request, asked.stream, EventShape(first, before, after, closing), whole)


def floored(logprob: float) -> float:
    """The log probability as JSON can write it."""
    return max(logprob, _LEAST_LOGPROB)


def models(model: str, created: int, facts: EngineFacts | None) -> Any:
    """GET /v1/models: the model, and its adapters once the engine has them. `max_model_len` is vLLM's word, which clients look for."""
    names = [model, *(facts.features.adapters if facts else ())]
    return {"object": "list", "data": [_model(name, model, created, facts) for name in names]}


def _model(name: str, base: str, created: int, facts: EngineFacts | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "packager"}
    if facts is not None:
        entry["max_model_len"] = facts.context_length
    return entry if name == base else entry | {"parent": base}
