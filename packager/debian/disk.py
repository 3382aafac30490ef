"""The border to the file system: what cannot be written is one of our errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError about `where`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Debian packages cannot be written here: {error.strerror or error}",
            where=str(where),
            mend="make room or give access there, or name another folder in PACKAGER_CACHE",
        ) from error
