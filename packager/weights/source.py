"""Where weights come from: one small Protocol, one file per scheme.

A source lists what it has without moving bytes, and gives each thread a reader of ranges. It verifies
nothing: the loader does, the same way for every scheme.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One listed file: relative POSIX path, size in bytes, hex sha256 where the source knows it."""

    path: str
    size: int
    sha256: str | None = None


class Reader(Protocol):
    """One thread's way to the files of a source; it keeps its connection from one range to the next."""

    def read(self, path: str, start: int, stop: int, size: int) -> Generator[bytes]:
        """Bytes `start` to `stop` (exclusive) of the file at `path`, which has `size` bytes; at least one byte a piece.

        Who calls it for several files and then reads one after the other has them all asked for, where that takes time.
        Gives exactly `stop - start` bytes or raises: TransferError where trying again may help, its subclass
        RangeError where the place gives whole files only, LoadError where nothing will help.
        """
        ...

    def close(self) -> None:
        """Let go of connections. The reader is not used again."""
        ...


class Source(Protocol):
    """Weights at one place, at one revision."""

    @property
    def uri(self) -> str:
        """The address: with `revision` it gives the same files each time, or an error."""
        ...

    @property
    def revision(self) -> str:
        """The commit or version that is read, or empty where the scheme has none."""
        ...

    def inventory(self) -> tuple[SourceFile, ...]:
        """Every file, sorted by path. Raises LoadError when the place cannot be listed."""
        ...

    def connect(self) -> Reader:
        """A reader for one thread. Opens nothing yet."""
        ...


def is_hidden(path: str) -> bool:
    """Whether people keep the file at this listed path out of sight: every source leaves such out."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def read_file(source: Source, file: SourceFile, *, stop: int | None = None) -> bytes:
    """The first `stop` bytes of a listed file, or all: for small files, read once. Raises LoadError."""
    with closing(source.connect()) as reader:
        end = file.size if stop is None else min(stop, file.size)
        return b"".join(reader.read(file.path, 0, end, file.size)) if end else b""
