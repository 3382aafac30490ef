"""Digests of parts of a file: what lets a transfer go on where it broke off, and one bad part be fetched alone. Pure.

A *piece* is 1 MiB of a file, the last one shorter: what a journal records. A *chunk* is eight pieces: what a lock
records. The digest of a piece is the BLAKE3 of its bytes; that of a chunk is the BLAKE3 of its pieces' digests, so
that nothing is hashed twice. (The whole file's sha256 is checked as well, always.)
"""

import base64
import binascii
from collections.abc import Sequence

from blake3 import blake3

PIECE = 1 << 20
"""Bytes of a piece."""
PIECES = 8
"""Pieces of a chunk."""
DIGEST = 32
"""Bytes of a digest."""


def piece_count(size: int) -> int:
    """How many pieces a file of `size` bytes has."""
    return -(-size // PIECE)


def piece_size(size: int, number: int) -> int:
    """The bytes of piece `number` of a file of `size` bytes."""
    return min(PIECE, size - number * PIECE)


def pieces_of_chunk(size: int, chunk: int) -> range:
    """The numbers of the pieces of chunk `chunk` of a file of `size` bytes."""
    return range(chunk * PIECES, min(chunk * PIECES + PIECES, piece_count(size)))


def chunk_digest(pieces: Sequence[bytes]) -> bytes:
    """The digest of a chunk, of the digests of its pieces in order."""
    return blake3(b"".join(pieces)).digest()


def file_chunks(pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    """The digests of a file's chunks, of those of all its pieces in order."""
    return tuple(chunk_digest(pieces[start : start + PIECES]) for start in range(0, len(pieces), PIECES))


def encode_chunks(chunks: Sequence[bytes]) -> str:
    """Digests as a lock and a manifest hold them: base64 of all, in order."""
    return base64.b64encode(b"".join(chunks)).decode()


def decode_chunks(text: str, size: int) -> tuple[bytes, ...] | None:
    """The digests of the chunks of a file of `size` bytes; None where `text` does not hold as many."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not data or len(data) != DIGEST * -(-piece_count(size) // PIECES):
        return None
    return tuple(data[start : start + DIGEST] for start in range(0, len(data), DIGEST))


class PieceHasher:
    """Digests of all pieces of bytes that come in order, in any portions."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self._hasher, self._room = blake3(), PIECE

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            part, view = view[: self._room], view[self._room :]
            self._hasher.update(part)
            self._room -= len(part)
            if not self._room:
                self._end_piece()

    def finish(self) -> tuple[bytes, ...]:
        """The digests of all pieces; the last may be short."""
        if self._room < PIECE:
            self._end_piece()
        return tuple(self.digests)

    def _end_piece(self) -> None:
        self.digests.append(self._hasher.digest())
        self._hasher, self._room = blake3(), PIECE
