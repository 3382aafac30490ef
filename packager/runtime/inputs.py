"""Reading a request's fields: strict types, nothing ignored, every refusal names its parameter."""

import uuid
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError
from .engine import GenerationRequest, Message, SamplingParams

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""`developer` is what newer OpenAI clients call `system`."""
_MOST_STOPS = 16
_SEED_LIMIT = 2**63 - 1


def parse_inputs(inputs: Any, request_id: str | None = None) -> tuple[GenerationRequest, bool]:
    """A request, and whether to stream it, from the inputs of `predict`.

    One of `prompt` (text) and `messages` (a list of role and content), the fields of SamplingParams,
    and `stream`. Raises RequestError naming the parameter that is off.
    """
    fields = Fields(inputs)
    prompt = fields.text("prompt")
    messages = fields.messages("messages")
    if (prompt is None) == (messages is None):
        raise RequestError("give one of prompt and messages", where="prompt")
    request = GenerationRequest(request_id or new_id(), prompt, messages, fields.sampling())
    stream = fields.flag("stream")
    fields.finish()
    return request, stream


def new_id() -> str:
    """A request id, unique in the world."""
    return uuid.uuid4().hex


class Fields:
    """A JSON object whose fields are taken one by one; null counts as not given."""

    def __init__(self, value: Any, where: str = "") -> None:
        if not isinstance(value, Mapping):
            raise RequestError("must be a JSON object", where=where)
        self._left = {name: item for name, item in value.items() if item is not None}
        self._where = where

    def take(self, name: str) -> Any:
        """The field's value, or None when it is not given."""
        return self._left.pop(name, None)

    def given(self, name: str) -> bool:
        """Whether the field is there and has not been taken."""
        return name in self._left

    def unwrap(self, name: str) -> None:
        """Replace a list of one by what it holds."""
        value = self._left.get(name)
        if isinstance(value, list) and len(value) == 1:
            self._left[name] = value[0]

    def text(self, name: str) -> str | None:
        """A field that is text and not empty."""
        value = self.take(name)
        if value is None:
            return None
        if not _is_text(value):
            raise self.refusal(name, "must be a string of valid Unicode")
        if not value:
            raise self.refusal(name, "must not be empty")
        return str(value)

    def flag(self, name: str) -> bool:
        """A boolean; not given means false."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self.refusal(name, "must be true or false")
        return bool(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """An integer between `low` and `high`, both included."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refusal(name, f"must be an integer from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number between `low` and `high`, both included."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.refusal(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def neutral(self, name: str, *values: Any) -> None:
        """A field we do not support: let it pass with a value that changes nothing, refuse it else."""
        value = self.take(name)
        if value is not None and not any(type(value) is type(item) and value == item for item in values):
            raise self.refusal(name, "is not supported by this model server")

    def sampling(self, max_tokens: str = "max_tokens") -> SamplingParams:
        """The sampling parameters; `max_tokens` is the name that field has here."""
        return SamplingParams(
            max_tokens=self.integer(max_tokens, 1, 2**31 - 1),
            temperature=self.number("temperature", 0, 2),
            top_p=self.number("top_p", 0, 1),
            top_k=self.integer("top_k", 0, 2**31 - 1),
            min_p=self.number("min_p", 0, 1),
            seed=self.integer("seed", 0, _SEED_LIMIT),
            presence_penalty=self.number("presence_penalty", -2, 2),
            frequency_penalty=self.number("frequency_penalty", -2, 2),
            repetition_penalty=self.number("repetition_penalty", 0.01, 10),
            stop=self.stops("stop"),
        )

    def stops(self, name: str) -> tuple[str, ...]:
        """A stop string or a list of them."""
        value = self.take(name)
        stops = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(_is_text(s) and s for s in stops):
            raise self.refusal(name, f"must be a string, or up to {_MOST_STOPS} strings, none of them empty")
        return tuple(stops)

    def messages(self, name: str) -> tuple[Message, ...] | None:
        """A chat: at least one message."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, list) or not value:
            raise self.refusal(name, "must be a list of at least one message")
        return tuple(_message(item, f"{name}[{at}]") for at, item in enumerate(value))

    def finish(self) -> None:
        """Refuse what nobody took: an ignored parameter would be a lie."""
        for name in self._left:
            raise self.refusal(name, "is not supported by this model server")

    def refusal(self, name: str, what: str) -> RequestError:
        """The error for one field."""
        where = f"{self._where}.{name}" if self._where else name
        return RequestError(f"{where} {what}", where=where)


def _message(value: Any, where: str) -> Message:
    fields = Fields(value, where)
    role = fields.take("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise fields.refusal("role", f"must be one of {', '.join(_ROLES)}")
    content = _content(fields)
    for name in ("tool_calls", "function_call", "audio", "refusal"):
        fields.neutral(name, [])
    fields.finish()
    return Message(_ROLES[role], content)


def _content(fields: Fields) -> str:
    """Text, or OpenAI's list of text parts."""
    value = fields.take("content")
    if _is_text(value):
        return str(value)
    if not isinstance(value, list):
        raise fields.refusal("content", "must be a string or a list of text parts")
    for part in value:
        if not isinstance(part, Mapping) or part.keys() != {"type", "text"}:
            raise fields.refusal("content", 'holds a part that is not {"type": "text", "text": ...}')
        if part["type"] != "text" or not _is_text(part["text"]):
            raise fields.refusal("content", "holds a part that is not text: only text is supported")
    return "".join(part["text"] for part in value)


def _is_text(value: Any) -> bool:
    """Whether `value` is a string that has UTF-8 bytes (JSON can spell half a surrogate pair)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
