"""Where an upload goes: one small Protocol, one file per scheme."""

from collections.abc import Sequence
from typing import Protocol

from ..weights.identity import OnBytes
from ..weights.source import SourceFile
from .plan import LocalFile


class Destination(Protocol):
    """A folder of weights that can be written. Every method raises LoadError or OutputError.

    `on_bytes` may be called from any thread.
    """

    @property
    def uri(self) -> str:
        """The address that a spec names to read what is written here."""
        ...

    def listing(self, files: Sequence[LocalFile]) -> tuple[SourceFile, ...]:
        """What is there now, nothing where the place does not exist yet.

        The sha256 is told where it is known, of those at least that have path and size of one of `files`.
        """
        ...

    def send(self, files: Sequence[LocalFile], on_bytes: OnBytes | None) -> str:
        """Write `files` (at least one); gives the commit that has them, or empty where the scheme has none.

        A file appears under its name with all its bytes or not at all.
        """
        ...
