"""The table of schemes: which source opens which address."""

from pathlib import Path

from ..errors import LoadError
from .file import FileSource
from .source import Source

SCHEMES: tuple[str, ...] = ("file",)


def open_source(uri: str, *, folder: Path | None = None) -> Source:
    """The source behind `uri`; a relative `file://` path starts at `folder`.

    Raises LoadError for a scheme that this version does not read.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "file" and rest:
        path = Path(rest)
        return FileSource(path if folder is None else folder / path)
    known = ", ".join(f"{name}://" for name in SCHEMES)
    raise LoadError(f"{uri!r} is no address this version reads", mend=f"use one of {known}")
