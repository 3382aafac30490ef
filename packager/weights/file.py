"""`file://`: weights that lie on this machine, or on a volume that is mounted into it."""

from collections.abc import Generator
from pathlib import Path

from ..digest import CHUNK
from ..errors import LoadError
from .source import SourceFile


class FileSource:
    """One file, or a folder of files, on a local path; it is also its own reader.

    A folder is walked in sorted order; links are refused because what they point to is not
    covered by the listing.
    """

    revision = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def uri(self) -> str:
        return f"file://{self._path}"

    def inventory(self) -> tuple[SourceFile, ...]:
        if self._path.is_file():
            return (SourceFile(self._path.name, self._path.stat().st_size),)
        if not self._path.is_dir():
            raise LoadError(
                "there are no weights here",
                where=str(self._path),
                mend="check the address; a relative path starts at the spec's folder",
            )
        found = []
        for path in sorted(self._path.rglob("*")):
            name = path.relative_to(self._path).as_posix()
            if path.is_symlink():
                raise LoadError("a link stands among the weights", where=str(path), mend="put the file itself there")
            if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
                found.append(SourceFile(name, path.stat().st_size))
        return tuple(sorted(found, key=lambda file: file.path))

    def connect(self) -> "FileSource":
        return self

    def locate(self, path: str) -> Path:
        """Where the listed file lies."""
        return self._path if self._path.is_file() else self._path / path

    def read(self, path: str, start: int, stop: int, size: int) -> Generator[bytes]:
        target = self.locate(path)
        try:
            with target.open("rb", buffering=0) as file:
                if (found := target.stat().st_size) != size:
                    mend = "restore the file, or lock and build again if the change is wanted"
                    raise LoadError(f"the file has {found} bytes, not {size}", where=str(target), mend=mend)
                file.seek(start)
                while start < stop and (piece := file.read(min(CHUNK, stop - start))):
                    start += len(piece)
                    yield piece
        except OSError as error:
            mend = "restore the file, or bring a store that has it (PACKAGER_CACHE)"
            raise LoadError(f"the weights cannot be read: {error.strerror}", where=str(target), mend=mend) from error
        if start < stop:
            raise LoadError(f"the file ended at byte {start} of {size}", where=str(target), mend="restore the file")

    def close(self) -> None:
        return None
