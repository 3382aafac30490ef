"""The header of a GGUF file, as far as the adapter must know it before the engine opens it."""

import struct
from pathlib import Path
from typing import BinaryIO

from ...errors import LoadError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 20
"""Bytes: longer keys and strings mean a damaged file. Chat templates are far shorter."""


def trained_context(path: Path) -> int:
    """Tokens of context the model was trained for. Raises LoadError when the file is no such GGUF."""
    try:
        with path.open("rb") as file:
            return _search(file)
    except OSError as error:
        raise LoadError(f"the weights cannot be read: {error.strerror}", where=str(path)) from error
    except (struct.error, ValueError) as error:
        raise LoadError(f"this is no complete GGUF file: {error}", where=str(path), mend="give a GGUF file") from error


def _search(file: BinaryIO) -> int:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    _version, _tensors, count = _unpack(file, "IQQ")
    for _ in range(count):
        key = _string(file)
        (kind,) = _unpack(file, "I")
        value = _value(file, kind)
        if key.endswith(".context_length") and isinstance(value, int):
            return value
    raise ValueError("its header names no context length")


def _value(file: BinaryIO, kind: int) -> object:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, size = _unpack(file, "IQ")
        if inner in _SCALARS:
            file.seek(struct.calcsize("<" + _SCALARS[inner]) * size, 1)
        else:
            for _ in range(size):
                _value(file, inner)
        return None
    if kind not in _SCALARS:
        raise ValueError(f"unknown value type {kind}")
    return _unpack(file, _SCALARS[kind])[0]


def _string(file: BinaryIO) -> str:
    (size,) = _unpack(file, "Q")
    if size > _LONGEST:
        raise ValueError(f"a string of {size} bytes")
    return file.read(size).decode(errors="replace")


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
