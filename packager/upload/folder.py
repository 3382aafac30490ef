"""Uploads to `file://`: a folder of this machine, or of a volume that is mounted into it."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..digest import CHUNK
from ..errors import OutputError
from ..store import Store, sync_folder
from ..weights.file import FileSource
from ..weights.identity import OnBytes, file_digest
from ..weights.source import SourceFile
from .plan import LocalFile


class FolderDestination:
    """A folder; it is made when it does not exist. `store` remembers the digests of what is there."""

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path.absolute()
        self._store = store

    @property
    def uri(self) -> str:
        return f"file://{self._path}"

    def listing(self, files: Sequence[LocalFile]) -> tuple[SourceFile, ...]:
        if self._path.exists() and not self._path.is_dir():
            raise OutputError("there is a file where the folder should be", where=str(self._path), mend="name a folder")
        if not self._path.exists():
            return ()
        sizes = {file.path: file.size for file in files}
        return tuple(
            SourceFile(one.path, one.size, self._digest(one.path)) if sizes.get(one.path) == one.size else one
            for one in FileSource(self._path).inventory()
        )

    def send(self, files: Sequence[LocalFile], on_bytes: OnBytes | None) -> str:
        for file in files:
            try:
                self._copy(file, on_bytes)
            except OSError as error:
                mend = "check the room and the rights there, then run it again: what is there is not copied again"
                where = str(self._path / file.path)
                raise OutputError(f"the file cannot be written: {error.strerror}", where=where, mend=mend) from error
        return ""

    def _digest(self, path: str) -> str:
        return file_digest(self._path / path, self._store)

    def _copy(self, file: LocalFile, on_bytes: OnBytes | None) -> None:
        target = self._path / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".upload-")  # the longest names take no more
        try:
            with file.local.open("rb", buffering=0) as source, os.fdopen(descriptor, "wb") as copy:
                done = 0
                while data := source.read(CHUNK):
                    done += copy.write(data)
                    if on_bytes is not None:
                        on_bytes(file.path, done, file.size)
                copy.flush()
                os.fchmod(copy.fileno(), 0o644)
                os.fsync(copy.fileno())
            Path(temporary).replace(target)
            sync_folder(target.parent)
        finally:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
