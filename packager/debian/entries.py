"""What a root file system is made of, before it is a tar."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["file", "directory", "symlink"]


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes on disk: `size` bytes from `offset` in the file at `path`."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class RootEntry:
    """One path of a root file system: relative, POSIX, no leading or trailing slash.

    `mode` is permission bits (with the sticky bit for folders like /tmp), `target` a symlink's text. A file's
    `content` is its bytes, or a place on disk where they lie.
    """

    path: str
    kind: Kind
    mode: int
    target: str = ""
    uid: int = 0
    gid: int = 0
    content: bytes | FileSlice = b""

    @property
    def size(self) -> int:
        """Bytes of content; 0 for folders and links."""
        return self.content.size if isinstance(self.content, FileSlice) else len(self.content)

    def read(self) -> bytes:
        """The content's bytes."""
        return self.content.read() if isinstance(self.content, FileSlice) else self.content


def directory(path: str, mode: int = 0o755) -> RootEntry:
    """A folder."""
    return RootEntry(path, "directory", mode)


def symlink(path: str, target: str) -> RootEntry:
    """A symbolic link."""
    return RootEntry(path, "symlink", 0o777, target)


def plain_file(path: str, content: bytes, mode: int = 0o644) -> RootEntry:
    """A file that we write."""
    return RootEntry(path, "file", mode, content=content)
