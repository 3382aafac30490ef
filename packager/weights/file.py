"""`file://`: weights that lie on this machine, or on a volume that is mounted into it."""

import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path

from ..digest import CHUNK
from ..errors import LoadError
from .source import SourceFile, is_hidden


class FileSource:
    """One file, or a folder of files, on a local path; it is also its own reader.

    Files and folders within whose names begin with a dot are left out. Links are refused, because what they point to is
    not covered by the listing; so is a folder that cannot be read, because nobody would know what is missing.
    """

    revision = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def uri(self) -> str:
        return f"file://{self._path}"

    def inventory(self) -> tuple[SourceFile, ...]:
        try:
            status = self._path.stat()
            if stat.S_ISREG(status.st_mode):
                return (SourceFile(self._path.name, status.st_size),)
            return tuple(sorted(self._files(), key=lambda file: file.path))
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # the last: a NUL is in it
            mend = "check the address; a relative path starts at the spec's folder"
            raise LoadError("there are no weights here", where=str(self._path), mend=mend) from error
        except OSError as error:
            what, where = f"the weights cannot be listed: {error.strerror}", str(error.filename or self._path)
            raise LoadError(what, where=where, mend="let this user read it, or name another place") from error

    def _files(self) -> Iterator[SourceFile]:
        """The files of the folder, in no order. Raises LoadError for a link, OSError."""
        folders = [""]
        while folders:
            start = folders.pop()
            with os.scandir(self._path / start) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_symlink():
                        mend = "put the file itself there"
                        raise LoadError("a link stands among the weights", where=entry.path, mend=mend)
                    if entry.is_dir():
                        folders.append(f"{start}{entry.name}/")
                    elif entry.is_file():
                        yield SourceFile(start + entry.name, entry.stat().st_size)

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
