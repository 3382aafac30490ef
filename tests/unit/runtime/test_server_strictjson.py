"""Strict JSON: what is refused, and that refusing is never slow."""

import json

import pytest

from packager.errors import RequestError
from packager.runtime.server.strictjson import DEPTH, parse_json


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{", "not JSON"),
        (b"", "the body is empty"),
        (b"{} {}", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'[{"b": {"a": 1, "b": 0, "a": 2}}]', "'a' stands twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "too large for a double"),
        (b'{"a": -1e999}', "too large for a double"),
        (b'{"a": 18446744073709551616}', "more than 64 bits"),
        (b'{"a": -9223372036854775809}', "more than 64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "more than 64 bits"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"\\uDfff": 1}', "not JSON"),
        (b"[" * 100_000, "deeper than 64"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "deeper than 64"),
        (b'{"a":' * (DEPTH + 1) + b"1" + b"}" * (DEPTH + 1), "deeper than 64"),
    ],
)
def test_json_is_read_strictly(body, what):
    with pytest.raises(RequestError, match=what):
        parse_json(body)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, "é", -0, 1e308, 18446744073709551615, -9223372036854775808, true, null]}',
        '"\\ud83d\\ude00"',
        "[" * DEPTH + "]" * DEPTH,
        '{"a": "[[[[' + "[" * 100 + '"}',
    ],
)
def test_good_json(text):
    assert parse_json(text.encode()) == json.loads(text)


def test_a_duplicate_among_very_many_keys_is_found_at_once():
    """It would take hours to look for each key among all the others."""
    keys = ",".join(f'"{number}":0' for number in range(200_000))
    with pytest.raises(RequestError, match="'last' stands twice"):
        parse_json(b'{%b,"last":0,"last":0}' % keys.encode())


def test_a_refusal_does_not_repeat_what_is_long():
    key = "k" * 100_000
    with pytest.raises(RequestError) as caught:
        parse_json(f'{{"{key}": 1, "{key}": 2}}'.encode())
    assert len(str(caught.value)) < 200
