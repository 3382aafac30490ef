"""The header of a GGUF file, as far as the adapter must know it before the engine opens it."""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...errors import LoadError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 20
"""Bytes: longer keys and strings mean a damaged file. Chat templates are far shorter."""
_LENGTH = struct.Struct("<Q")
_TEMPLATE, _TOOL_TEMPLATE = "tokenizer.chat_template", "tokenizer.chat_template.tool_use"


class Header(NamedTuple):
    """`context_length` is how many tokens the model was trained for; `chat_templates` are Jinja texts, none for a model that cannot chat."""

    context_length: int
    chat_templates: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read the header. Raises LoadError when the file is no such GGUF."""
    try:
        with path.open("rb") as file:
            return _header(_read_fields(file))
    except OSError as error:
        raise LoadError(f"the weights cannot be read: {error.strerror}", where=str(path)) from error
    except (struct.error, OverflowError, ValueError) as error:
        raise LoadError(f"this is no complete GGUF file: {error}", where=str(path), mend="give a GGUF file") from error


def _read_fields(file: BinaryIO) -> Mapping[str, object]:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Fields(data).read()


def _header(fields: Mapping[str, object]) -> Header:
    lengths = [value for key, value in fields.items() if key.endswith(".context_length") and isinstance(value, int)]
    if not lengths:
        raise ValueError("its header names no context length")
    templates = [fields.get(name) for name in (_TEMPLATE, _TOOL_TEMPLATE)]
    return Header(lengths[0], tuple(text for text in templates if isinstance(text, str)))


class _Fields:
    """Walks over a header's keys and values. A large vocabulary has half a million strings, so those of arrays are passed over."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> dict[str, object]:
        self._at = 4
        _version, _tensors, count = self._unpack("IQQ")
        fields = {}
        for _ in range(count):
            key = self._string()
            fields[key] = self._value(self._unpack("I")[0])
        return fields

    def _value(self, kind: int) -> object:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            self._pass_over(*self._unpack("IQ"))
            return None
        if kind not in _SCALARS:
            raise ValueError(f"unknown value type {kind}")
        return self._unpack(_SCALARS[kind])[0]

    def _pass_over(self, kind: int, size: int) -> None:
        if kind in _SCALARS:
            self._at += struct.calcsize("<" + _SCALARS[kind]) * size
        elif kind == _STRING:
            at, data, length = self._at, self._data, _LENGTH.unpack_from
            for _ in range(size):
                at += 8 + length(data, at)[0]
            self._at = at
        else:
            raise ValueError(f"an array of the unknown type {kind}")

    def _string(self) -> str:
        (size,) = self._unpack("Q")
        if size > _LONGEST:
            raise ValueError(f"a string of {size} bytes")
        self._at += size
        return self._data[self._at - size : self._at].decode(errors="replace")

    def _unpack(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values
