"""A source in memory that counts what it gives, and does wrong on demand."""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from packager.digest import sha256_hex
from packager.errors import LoadError
from packager.manifest import WeightsFile
from packager.weights.chunks import PieceHasher, encode_chunks, file_chunks
from packager.weights.source import SourceFile

PORTION = 100_000
"""Bytes a read gives at once: no divisor of a piece."""


@dataclass(frozen=True, slots=True)
class Range:
    """What was asked: `number` counts from 0."""

    number: int
    path: str
    start: int
    stop: int


Wrong = Callable[[Range], Callable[[bytes, int], bytes] | Exception | None]
"""For each range: nothing, an error instead of the answer, or a function of each portion and its offset in the file,
which may also raise."""


@dataclass
class MemorySource:
    """Files by path."""

    files: dict[str, bytes]
    wrong: Wrong = lambda _: None
    uri: str = "memory://"
    revision: str = ""
    asked: list[Range] = field(default_factory=list)
    given: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inventory(self) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(path, len(data)) for path, data in sorted(self.files.items()))

    def connect(self) -> "MemorySource":
        return self

    def read(self, path: str, start: int, stop: int, size: int) -> Generator[bytes]:
        with self._lock:
            asked = Range(len(self.asked), path, start, stop)
            self.asked.append(asked)
        wrong = self.wrong(asked)
        if isinstance(wrong, Exception):
            raise wrong
        data = self.files[path]
        if len(data) != size:
            raise LoadError("the file has another size", where=path)
        for at in range(start, stop, PORTION):
            portion = data[at : min(at + PORTION, stop)]
            with self._lock:
                self.given += len(portion)
            yield wrong(portion, at) if wrong is not None else portion

    def close(self) -> None:
        return None


def locked(path: str, data: bytes, *, chunks: bool = False) -> WeightsFile:
    """The file as a lock has it, with or without the digests of its chunks."""
    hasher = PieceHasher()
    hasher.update(data)
    known = encode_chunks(file_chunks(hasher.finish())) if chunks and data else ""
    return WeightsFile(path, len(data), sha256_hex(data), known)


def flip(offset: int) -> Callable[[bytes, int], bytes]:
    """Turns one bit of the byte at `offset` of the file."""

    def change(portion: bytes, at: int) -> bytes:
        if not at <= offset < at + len(portion):
            return portion
        changed = bytearray(portion)
        changed[offset - at] ^= 1
        return bytes(changed)

    return change


def breaks_at(offset: int, error: Exception) -> Callable[[bytes, int], bytes]:
    """Fails before the portion that holds the byte at `offset`."""

    def change(portion: bytes, at: int) -> bytes:
        if at <= offset < at + len(portion):
            raise error
        return portion

    return change
