from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.runtime.engine import Likely, TokenLogprob
from packager.runtime.stops import HeldLogprobs, StopText


def run(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stop, out = StopText(stops), ""
    for piece in pieces:
        text, met = stop.feed(piece)
        out += text
        if met:
            return out, True
    return out + stop.rest(), False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ((), ["a", "b"], ("ab", False)),
        (("X",), ["aXb"], ("a", True)),
        (("END",), ["a E", "N", "D b"], ("a ", True)),
        (("END",), ["a E", "N", "X"], ("a ENX", False)),
        (("b", "ab"), ["cab"], ("c", True)),
        (("aab",), ["aa", "ab"], ("a", True)),
        (("END",), ["EN"], ("EN", False)),
    ],
)
def test_examples(stops, pieces, expected):
    assert run(stops, pieces) == expected


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.data())
def test_cutting_the_text_otherwise_changes_nothing(text, stops, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    pieces = [text[low:high] for low, high in pairwise(cuts)]
    at = min((text.find(stop) for stop in stops if stop in text), default=-1)
    got, met = run(tuple(stops), pieces)
    assert met == (at >= 0)
    if not met:
        assert got == text
    else:
        # Pieces decide only between stop strings that overlap: the output ends before one of them.
        assert any(text.startswith(got + stop) for stop in stops)


def pass_on(stops: tuple[str, ...], pieces: list[str]) -> list[tuple[str, list[str]]]:
    """What comes out of each step: text, and the tokens whose log probabilities go with it."""
    stop, held, out = StopText(stops), HeldLogprobs(), []
    for piece in pieces:
        text, met = stop.feed(piece)
        tokens = held.feed((TokenLogprob(Likely(piece.encode(), -1.0)),), piece, text)
        out.append((text, [one.token.text for one in tokens]))
        if met:
            return out
    out.append((stop.rest(), [one.token.text for one in held.rest()]))
    return out


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ((), ["a", "b"], [("a", ["a"]), ("b", ["b"]), ("", [])]),
        (("END",), ["a", "E", "NX"], [("a", ["a"]), ("", []), ("ENX", ["E", "NX"]), ("", [])]),
        (("END",), ["aE", "N", "D"], [("a", ["aE"]), ("", []), ("", [])]),
        (("END",), ["a", "EN"], [("a", ["a"]), ("", []), ("EN", ["EN"])]),
        (("END",), ["a", "", "END"], [("a", ["a"]), ("", []), ("", [])]),
        ((), ["a", ""], [("a", ["a"]), ("", []), ("", [""])]),
    ],
)
def test_log_probabilities_go_with_their_text(stops, pieces, expected):
    assert pass_on(stops, pieces) == expected
