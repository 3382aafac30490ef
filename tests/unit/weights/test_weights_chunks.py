"""Digests of parts of a file."""

import itertools

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from packager.weights.chunks import (
    PIECE,
    PIECES,
    PieceHasher,
    decode_chunks,
    encode_chunks,
    file_chunks,
    piece_count,
    piece_size,
    pieces_of_chunk,
)

DATA = bytes(range(256)) * (PIECE // 256) * (PIECES + 1) + b"the end"


def test_pieces_and_chunks_as_documented():
    hasher = PieceHasher()
    hasher.update(DATA)
    pieces = hasher.finish()
    assert pieces == tuple(blake3(DATA[at : at + PIECE]).digest() for at in range(0, len(DATA), PIECE))
    first, second = file_chunks(pieces)
    assert first == blake3(b"".join(pieces[:PIECES])).digest()
    assert second == blake3(b"".join(pieces[PIECES:])).digest()


@given(st.lists(st.integers(0, len(DATA)), max_size=6))
def test_portions_do_not_matter(cuts):
    whole, parts = PieceHasher(), PieceHasher()
    whole.update(DATA)
    edges = [0, *sorted(cuts), len(DATA)]
    for start, stop in itertools.pairwise(edges):
        parts.update(DATA[start:stop])
    assert parts.finish() == whole.finish()


@pytest.mark.parametrize(("size", "count", "last"), [(0, 0, 0), (1, 1, 1), (PIECE, 1, PIECE), (PIECE + 1, 2, 1)])
def test_sizes(size, count, last):
    assert piece_count(size) == count
    if count:
        assert piece_size(size, count - 1) == last
        assert pieces_of_chunk(size, 0) == range(count)


def test_a_long_file_has_whole_chunks_and_a_short_one():
    size = PIECE * PIECES * 2 + 5
    assert [pieces_of_chunk(size, chunk) for chunk in range(3)] == [range(8), range(8, 16), range(16, 17)]


def test_text_and_back():
    chunks = (b"a" * 32, b"b" * 32)
    size = PIECE * PIECES + 1
    assert decode_chunks(encode_chunks(chunks), size) == chunks
    assert decode_chunks(encode_chunks(chunks), PIECE) is None  # another file's
    assert decode_chunks("", size) is None
    assert decode_chunks("not base64!", size) is None
    assert decode_chunks(encode_chunks((b"short",)), 1) is None
