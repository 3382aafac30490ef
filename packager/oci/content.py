"""What a file in a layer holds, and how it enters the layer's gzip stream."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..digest import CHUNK
from ..errors import IntegrityError
from .members import INFLATE_ERRORS, MEMBER_HEADER, SPAN, crc32, decompressor, member_trailer, stored_member

_FEED = 128 * 1024
"""Compressed bytes inflated in one step: what comes out is hashed while it is still in the processor's cache."""
_INFLATED = 1 << 20
"""Most bytes inflated in one step: bounds memory however well the entry is compressed."""


class Content(Protocol):
    """The bytes of one regular file; each method starts afresh and reads lazily.

    `size` is the uncompressed length in bytes. `raw` gives the bytes themselves, `members` complete gzip
    members that inflate to them. `pairs` gives both in step (either side of a pair may be empty), reading
    the source once, and checks what can be checked: IntegrityError when the source is not what was said.
    """

    @property
    def size(self) -> int: ...
    def raw(self) -> Iterator[bytes]: ...
    def members(self) -> Iterator[bytes]: ...
    def pairs(self) -> Iterator[tuple[bytes, bytes]]: ...


@dataclass(frozen=True, slots=True)
class InlineContent:
    """Bytes in memory, for generated files."""

    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Length of the data in bytes."""
        return len(self.data)

    def raw(self) -> Iterator[bytes]:
        """The data, cut where stored members are cut."""
        for start in range(0, len(self.data), SPAN):
            yield self.data[start : start + SPAN]

    def members(self) -> Iterator[bytes]:
        """Stored members."""
        return map(stored_member, self.raw())

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Each span and its stored member."""
        return ((span, stored_member(span)) for span in self.raw())


@dataclass(frozen=True, slots=True)
class FileContent:
    """`size` bytes of the file at `path` from `offset` on: a whole file, or an entry stored in a zip as it is."""

    path: Path
    size: int
    offset: int = 0

    def raw(self) -> Iterator[bytes]:
        """The bytes, cut where stored members are cut."""
        return _read(self.path, self.offset, self.size, SPAN)

    def members(self) -> Iterator[bytes]:
        """Stored members."""
        return map(stored_member, self.raw())

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Each span and its stored member."""
        return ((span, stored_member(span)) for span in self.raw())


@dataclass(frozen=True, slots=True)
class DeflatedContent:
    """A zip entry's own DEFLATE stream: `compressed` bytes of `path` at `offset`.

    `size` and `crc32` are those of the inflated bytes, from the zip's central directory.
    """

    path: Path
    offset: int
    compressed: int
    size: int
    crc32: int

    def raw(self) -> Iterator[bytes]:
        """The inflated bytes, checked against size and crc32."""
        return (raw for raw, _ in self.pairs() if raw)

    def members(self) -> Iterator[bytes]:
        """One member around the entry's own bytes; nothing is inflated."""
        yield MEMBER_HEADER
        yield from _read(self.path, self.offset, self.compressed, CHUNK)
        yield member_trailer(self.crc32, self.size)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Inflated bytes and the member's bytes in step; raises IntegrityError where they do not agree."""
        yield b"", MEMBER_HEADER
        inflater, crc, done = decompressor(-15), 0, 0
        for chunk in _read(self.path, self.offset, self.compressed, _FEED):
            member, pending, full = chunk, chunk, False
            while pending or full:
                try:
                    raw = inflater.decompress(pending, _INFLATED)
                except INFLATE_ERRORS as error:
                    raise self._broken(f"it does not inflate ({error})") from error
                if inflater.eof and inflater.unused_data:
                    raise self._broken("bytes follow the end of its DEFLATE stream")
                pending, full = inflater.unconsumed_tail, len(raw) == _INFLATED
                crc, done = crc32(raw, crc), done + len(raw)
                if done > self.size:
                    raise self._broken(f"it inflates to more than {self.size} bytes")
                yield raw, member
                member = b""
        if not inflater.eof or done != self.size or crc != self.crc32:
            raise self._broken(
                f"it inflates to {done} bytes with crc32 {crc:08x}, not {self.size} and {self.crc32:08x}"
            )
        yield b"", member_trailer(self.crc32, self.size)

    def _broken(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"the zip entry at offset {self.offset} is broken: {what}",
            where=str(self.path),
            mend="the file is damaged or was made by a broken tool: fetch it again, or pin another version",
        )


def _read(path: Path, offset: int, length: int, step: int) -> Iterator[bytes]:
    """`length` bytes from `offset` in pieces of exactly `step` (the last may be shorter)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # tens of thousands of times in a large image
    try:
        while length:
            wanted = min(step, length)
            piece = os.pread(descriptor, wanted, offset)
            while piece and len(piece) < wanted:  # a read may give less than it was asked for
                more = os.pread(descriptor, wanted - len(piece), offset + len(piece))
                if not more:
                    break
                piece += more
            if len(piece) < wanted:
                raise IntegrityError(
                    f"the file ends {length - len(piece)} bytes too early",
                    where=str(path),
                    mend="it changed while it was read, or was cut short: fetch or write it again",
                )
            offset += wanted
            length -= wanted
            yield piece
    finally:
        os.close(descriptor)
