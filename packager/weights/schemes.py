"""The table of schemes: which source opens which address."""

from pathlib import Path

from ..errors import LoadError
from .file import FileSource
from .https import HttpsSource
from .hub import HubSource
from .s3 import S3Source
from .source import Source

SCHEMES: tuple[str, ...] = ("file", "hf", "https", "s3")


def open_source(uri: str, *, revision: str = "", folder: Path | None = None) -> Source:
    """The source behind `uri` at `revision`, where its scheme has revisions (empty: the newest).

    A relative `file://` path starts at `folder`. Nothing is asked yet. Raises LoadError for an address that this
    version does not read.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and rest:
        match scheme:
            case "file":
                path = Path(rest)
                return FileSource(path if folder is None else folder / path)
            case "hf":
                return HubSource(rest, revision)
            case "https" | "http":  # the latter is for this machine alone, and refused else
                return HttpsSource(uri)
            case "s3":
                return S3Source(rest)
    known = ", ".join(f"{name}://" for name in SCHEMES)
    raise LoadError(f"{uri!r} is no address this version reads", mend=f"use one of {known}")
