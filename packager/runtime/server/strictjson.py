"""Strict JSON: what two readers could understand differently, or what could harm the one behind us, is refused."""

import json
import math
import re
from collections import Counter
from typing import Any

import orjson

from ...errors import RequestError

DEPTH = 64
"""Objects and lists within each other. Schemas of tools are the deepest that is honest, at some twenty."""

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(body: bytes, what: str = "the body") -> Any:
    """The value of a JSON text in UTF-8, which errors call `what`.

    Raises RequestError: for a key that stands twice, NaN, integers beyond 64 bits, numbers beyond a double, half a
    surrogate pair, and nesting beyond DEPTH.
    """
    try:
        value = _DECODER.decode(body.decode())
        if _HALF_PAIR.search(body):
            orjson.loads(body)
    except UnicodeDecodeError:
        raise RequestError(f"{what} is not UTF-8") from None
    except json.JSONDecodeError as error:  # orjson's is one as well
        raise RequestError(f"{what} is empty" if not body else f"{what} is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:
        raise RequestError(f"{what} is not strict JSON: {error}") from None
    _check_depth(value, DEPTH, what)
    return value


def _check_depth(value: Any, left: int, what: str) -> None:
    if not isinstance(value, dict | list):
        return
    if not left:
        raise _too_deep(what)
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            _check_depth(item, left - 1, what)


def _too_deep(what: str) -> RequestError:
    return RequestError(f"{what} is nested deeper than {DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0][:40]!r} stands twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError("an integer has more than 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number is too large for a double")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_no_constant
)
