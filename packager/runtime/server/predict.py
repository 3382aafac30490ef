"""POST /predict: the same inputs and answer as `predict` in Python; a stream comes as events."""

from typing import Any

from ..inputs import parse_inputs
from ..model import answer
from .sse import EventShape, Reply, encode_event, token_template

_BEFORE, _AFTER = token_template(lambda text: {"text": text})
_SHAPE = EventShape(b"", _BEFORE, _AFTER, lambda last: encode_event(answer("", last)))


def parse_predict(body: Any, request_id: str) -> Reply:
    """The request and its answer's forms. Raises RequestError."""
    request, stream = parse_inputs(body, request_id)
    return Reply(request, stream, _SHAPE, answer)
