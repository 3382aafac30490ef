"""Protobuf's text format, as Triton reads `config.pbtxt`: written from plain values. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """A value of an enum, which the text format of protobuf writes without quotes."""

    __slots__ = ()


def text_format(message: Mapping[str, Any]) -> str:
    """A message of plain values in protobuf's text format; a list is a repeated field."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(one))
                yield "}"
            else:
                # JSON's escapes of strings are among the text format's, its numbers and booleans are the same.
                yield f"{name}: {one if isinstance(one, Word) else json.dumps(one, ensure_ascii=False)}"


def tensors(kind: str, dims: list[int], names: str, **flags: bool | Mapping[str, Any]) -> list[dict[str, Any]]:
    """Inputs or outputs of a model that differ in nothing but their names, which spaces part."""
    return [{"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": dims, **flags} for name in names.split()]


def parameters(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A model's parameters: Triton has texts alone, and numbers and booleans are written as JSON writes them."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [{"key": key, "value": {"string_value": text}} for key, text in texts.items()]
