"""A Generation as server-sent events.

All but the token is encoded once a request: an event costs two concatenations and the
escaping of its token. Tokens that wait already go out in one write, each as an event of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from ...errors import PackagerError
from ..engine import Delta, GenerationRequest
from ..generation import Generation
from .http import Exchange

_CONTENT_TYPE = b"text/event-stream; charset=utf-8"
_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))  # nginx would hold the tokens back
DONE = b"data: [DONE]\n\n"
"""What ends a stream that is complete."""
_MARK = "\x00"
_ENCODED_MARK = b'"\\u0000"'


class BrokenStreamError(Exception):
    """Raised after a failed stream's error event, so that the server closes the connection unfinished.

    An ASGI app has no other way to say that what was sent is not the whole answer.
    """


@dataclass(frozen=True, slots=True)
class EventShape:
    """How a stream looks: what opens it, what stands around a token, its closing events by the last Delta, its end."""

    opening: bytes
    before: bytes
    after: bytes
    closing: Callable[[Delta], bytes]
    done: bytes = DONE


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed request and the two forms its answer can take: `whole(text, last Delta)`, or events."""

    request: GenerationRequest
    stream: bool
    shape: EventShape
    whole: Callable[[str, Delta], Any]


def encode_event(value: Any) -> bytes:
    """One event with a JSON value."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def token_template(make: Callable[[str], Any]) -> tuple[bytes, bytes]:
    """What stands before and after the token in the events that `make` gives for a text."""
    before, after = encode_event(make(_MARK)).split(_ENCODED_MARK)
    return before, after


async def start_events(exchange: Exchange) -> None:
    """Send the head of a stream of events."""
    await exchange.start(200, _CONTENT_TYPE, _HEADERS)


async def break_off(exchange: Exchange, error: PackagerError) -> NoReturn:
    """End a stream that failed.

    A failure before anything was sent is an ordinary error answer (raised from here). A later one is an
    event with `error`, no end mark, and a transfer that does not end: BrokenStreamError.
    """
    if not exchange.status:
        raise error
    await exchange.write(encode_event(exchange.error_shape(error)), more=True)
    raise BrokenStreamError(exchange.id) from error


async def leave_off(exchange: Exchange) -> None:
    """End a stream whose client has left (an abort has no other cause), for hosts that wait for its end."""
    if exchange.status:
        await exchange.write(b"", more=False)
    else:
        await exchange.answer_nobody()


async def stream_events(exchange: Exchange, generation: Generation, shape: EventShape) -> None:
    """Answer with the generation's events."""
    opening = shape.opening
    try:
        while batch := await generation.batch():
            last = batch[-1]
            if last.finish_reason == "abort":
                await leave_off(exchange)
                return
            if not exchange.status:
                await start_events(exchange)
            await exchange.write(opening + _events(batch, shape), more=True)
            opening = b""
    except PackagerError as error:
        await break_off(exchange, error)
    await exchange.write(shape.closing(last) + shape.done, more=False)


def _events(batch: list[Delta], shape: EventShape) -> bytes:
    texts = [orjson.dumps(delta.text) for delta in batch if delta.text]
    return shape.before + (shape.after + shape.before).join(texts) + shape.after if texts else b""
