"""Reading a JSON object's fields: strict types, nothing ignored, every refusal names its parameter."""

import json
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError
from .engine import Message, SamplingParams

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""`developer` is what newer OpenAI clients call `system`."""
_MOST_STOPS = 16
_SEED_LIMIT = 2**63 - 1


class Fields:
    """A JSON object whose fields are taken one by one; null counts as not given."""

    def __init__(self, value: Any, where: str = "") -> None:
        if not isinstance(value, Mapping):
            raise RequestError(f"{where or 'the body'} must be a JSON object", where=where)
        self._left = {name: item for name, item in value.items() if item is not None}
        self._where = where

    def take(self, name: str) -> Any:
        """The field's value, or None when it is not given."""
        return self._left.pop(name, None)

    def given(self, name: str) -> bool:
        """Whether the field is there and has not been taken."""
        return name in self._left

    def text(self, name: str) -> str | None:
        """A field that is text and not empty."""
        value = self.take(name)
        if value is None:
            return None
        if not is_text(value):
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
            ignore_eos=self.flag("ignore_eos"),
        )

    def stops(self, name: str) -> tuple[str, ...]:
        """A stop string or a list of them."""
        value = self.take(name)
        stops = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(is_text(s) and s for s in stops):
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

    def path(self, name: str) -> str:
        """The field's name as errors give it, from the top of the body."""
        return f"{self._where}.{name}" if self._where else name

    def refusal(self, name: str, what: str) -> RequestError:
        """The error for one field."""
        where = self.path(name)
        return RequestError(f"{where} {what}", where=where)


def _message(value: Any, where: str) -> Message:
    fields = Fields(value, where)
    role = fields.take("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise fields.refusal("role", f"must be one of {', '.join(_ROLES)}")
    calls = _tool_calls(fields) if role == "assistant" else ()
    answers = fields.text("tool_call_id") if role == "tool" else None
    if role == "tool" and answers is None:
        raise fields.refusal("tool_call_id", "is missing: it says which call this answers")
    content = "" if calls and not fields.given("content") else _content(fields)
    speaker = fields.text("name")
    for name in ("tool_calls", "annotations"):
        fields.neutral(name, [])
    fields.finish()
    return Message(_ROLES[role], content, calls, answers, speaker)


def _tool_calls(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    """The calls that an assistant made earlier, as OpenAI's JSON."""
    value = fields.take("tool_calls")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise fields.refusal("tool_calls", "must be a list")
    return tuple(_tool_call(call, fields.path(f"tool_calls[{at}]")) for at, call in enumerate(value))


def _tool_call(value: Any, where: str) -> Mapping[str, Any]:
    call = Fields(value, where)
    identity, kind = call.text("id"), call.take("type")
    if identity is None or kind != "function":
        raise call.refusal("id" if identity is None else "type", 'is missing, or is not "function" as a type')
    function = Fields(call.take("function"), call.path("function"))
    name, arguments = function.text("name"), function.take("arguments")
    if name is None:
        raise function.refusal("name", "is missing")
    if not _is_object(arguments):
        raise function.refusal("arguments", "must be a JSON object, written as a string")
    call.finish()
    function.finish()
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}


def _is_object(text: Any) -> bool:
    """Whether `text` spells a JSON object; nothing at all counts as no arguments."""
    try:
        return text == "" or (is_text(text) and isinstance(json.loads(text), dict))
    except (ValueError, RecursionError):
        return False


def _content(fields: Fields) -> str:
    """Text, or OpenAI's list of text parts."""
    value = fields.take("content")
    if is_text(value):
        return str(value)
    if not isinstance(value, list):
        raise fields.refusal("content", "must be a string or a list of text parts")
    for part in value:
        if not isinstance(part, Mapping) or part.keys() != {"type", "text"}:
            raise fields.refusal("content", 'holds a part that is not {"type": "text", "text": ...}')
        if part["type"] != "text" or not is_text(part["text"]):
            raise fields.refusal("content", "holds a part that is not text: only text is supported")
    return "".join(part["text"] for part in value)


def is_text(value: Any) -> bool:
    """Whether `value` is a string that has UTF-8 bytes (JSON can spell half a surrogate pair)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
