"""The inputs of `predict`: what `POST /predict` and `predict` in Python take."""

import uuid
from typing import Any

from ..errors import RequestError
from .engine import GenerationRequest
from .fields import Fields
from .structured import parse_output


def parse_inputs(inputs: Any, request_id: str | None = None) -> tuple[GenerationRequest, bool]:
    """A request, and whether to stream it, from the inputs of `predict`.

    One of `prompt` (text) and `messages` (a list of role and content), the fields of SamplingParams but `logprobs`,
    `response_format`, `adapter`, and `stream`. Raises RequestError naming the parameter that is off.
    """
    fields = Fields(inputs)
    prompt = fields.text("prompt")
    messages = fields.messages("messages")
    if (prompt is None) == (messages is None):
        raise RequestError("give one of prompt and messages", where="prompt")
    request = GenerationRequest(
        request_id or new_id(),
        prompt,
        messages,
        fields.sampling(),
        output=parse_output(fields),
        adapter=fields.text("adapter"),
    )
    stream = fields.flag("stream")
    fields.finish()
    return request, stream


def new_id() -> str:
    """A request id, unique in the world."""
    return uuid.uuid4().hex
