"""Where weights come from: one small Protocol, one file per scheme.

A source lists what it has without moving bytes, and opens one file at an offset. It verifies
nothing: the loader does, the same way for every scheme.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One listed file: relative POSIX path, size in bytes, hex sha256 where the source knows it."""

    path: str
    size: int
    sha256: str | None = None


class Source(Protocol):
    """Weights at one place, at one revision."""

    @property
    def uri(self) -> str:
        """The pinned address: opening it again gives the same files or an error."""
        ...

    @property
    def revision(self) -> str:
        """The commit or version that `uri` is pinned to, or empty where the scheme has none."""
        ...

    def inventory(self) -> tuple[SourceFile, ...]:
        """Every file, sorted by path. Raises LoadError when the place cannot be listed."""
        ...

    def open(self, path: str, *, start: int = 0) -> Iterator[bytes]:
        """The bytes of one listed file from offset `start`, in chunks. Raises LoadError."""
        ...
