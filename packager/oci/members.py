"""Gzip without a compressor.

A gzip file may be many complete members one after the other. Bytes that are DEFLATE already (entries of a
wheel) are wrapped in a member as they are; all other bytes go in as *stored* blocks. No bit of the result
depends on a compression library, level, thread count or processor.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

_zlib: Any = zlib
with suppress(ImportError):  # faster at the same job; what it inflates is checked, so no digest depends on it
    from isal import isal_zlib

    _zlib = isal_zlib

MEMBER_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Deflate, no flags, mtime 0, XFL 0, OS 255 (unknown)."""

BLOCK = 65_535
"""Most bytes a stored block can hold."""

SPAN = 16 * BLOCK
"""Raw bytes of one stored member: a long run is cut here, so members are made one by one, without state."""

_FEED = 32 * 1024
_INFLATED = 4 << 20

crc32 = _zlib.crc32

INFLATE_ERRORS: tuple[type[Exception], ...] = (zlib.error, _zlib.error)
"""What a decompressor raises for bytes that do not inflate."""


def decompressor(wbits: int) -> Any:
    """A new inflating object as `zlib.decompressobj(wbits)` gives it."""
    return _zlib.decompressobj(wbits)


def member_trailer(crc: int, size: int) -> bytes:
    """The last 8 bytes of a member: crc32 and length (mod 2**32) of what it inflates to."""
    return struct.pack("<II", crc, size & 0xFFFFFFFF)


def stored_member(data: bytes) -> bytes:
    """One complete gzip member that inflates to `data`, byte for byte a function of `data`."""
    pieces: list[bytes | memoryview] = [MEMBER_HEADER]
    last = max(0, (len(data) - 1) // BLOCK) * BLOCK
    view = memoryview(data)
    for start in range(0, last + 1, BLOCK):
        block = view[start : start + BLOCK]
        length = len(block)
        pieces.append(struct.pack("<BHH", start == last, length, length ^ 0xFFFF))
        pieces.append(block)
    pieces.append(member_trailer(crc32(data), len(data)))
    return b"".join(pieces)


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Inflate a stream of gzip members, in pieces of at most 4 MiB.

    Raises EOFError for a stream cut short, `zlib.error` for one that is no gzip.
    """
    inflater = decompressor(31)
    fresh = True
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), _FEED):  # small feeds: what is left after a member is copied
            pending: bytes | memoryview = view[start : start + _FEED]
            while pending:
                if inflater.eof:
                    inflater = decompressor(31)
                fresh = False
                yield inflater.decompress(pending, _INFLATED)
                pending = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    while not inflater.eof and not fresh:
        rest = inflater.decompress(b"", _INFLATED)
        if not rest:
            raise EOFError("the gzip stream ends too early")
        yield rest
