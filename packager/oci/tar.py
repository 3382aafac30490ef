"""Tar headers that are a pure function of the entry.

Everything volatile is wiped here and nowhere else: times are 0, user and group names are empty, order is
the path's UTF-8 bytes, each layer carries its own parent folders with one fixed metadata. The dialect is
ustar; a PAX header comes before an entry only where ustar cannot say it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ..errors import ImageError, Problem
from .content import Content, DeflatedContent, FileContent, InlineContent

__all__ = [
    "BLOCK",
    "END",
    "Content",
    "DeflatedContent",
    "Entry",
    "FileContent",
    "InlineContent",
    "Kind",
    "arrange",
    "header",
    "padding",
]

BLOCK = 512
END = bytes(2 * BLOCK)
"""The end of an archive: two zero blocks, and no padding to a record of 10,240 bytes."""

Kind = Literal["file", "directory", "symlink"]

_TYPES: dict[Kind, bytes] = {"file": b"0", "symlink": b"2", "directory": b"5"}
_LARGE = 8 << 30
_MAX_ID = 0o7777777
_NAME, _PREFIX, _COMPONENT = 100, 155, 255


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a layer.

    `path` is relative and POSIX: no leading slash, no `.`, `..` or empty part. `mode` holds permission bits
    with setuid, setgid and sticky; a symlink's is always written as 0777. `content` None is an empty file.
    `target` is a symlink's, written as it is.
    """

    path: str
    kind: Kind = "file"
    mode: int = 0o644
    content: Content | None = None
    target: str = ""
    uid: int = 0
    gid: int = 0

    @property
    def size(self) -> int:
        """Bytes of content; 0 for all but regular files."""
        return 0 if self.content is None else self.content.size


def arrange(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries as they stand in the archive: checked, with missing parents (0755, 0/0), in byte order of the paths.

    Raises ImageError with every entry that cannot be in a layer: two of one path, paths that escape, a parent
    that is not a folder, whiteout names, NUL or newline. The result does not depend on the order given.
    """
    by_path: dict[str, Entry] = {}
    problems: list[Problem] = []
    for entry in entries:
        if fault := _fault(entry):
            problems.append(Problem(fault, where=entry.path))
        elif entry.path in by_path:
            problems.append(Problem("two entries of one layer have this path", where=entry.path))
        else:
            by_path[entry.path] = entry
    for path in list(by_path):
        for parent in _parents(path):
            above = by_path.get(parent)
            if above is None:
                by_path[parent] = Entry(parent, "directory", 0o755)
            elif above.kind != "directory":
                problems.append(Problem(f"its parent {parent} is a {above.kind} in the same layer", where=path))
            else:
                break  # its own parents were, or will be, walked from it
    if problems:
        problems.sort(key=lambda problem: (problem.where, problem.what))
        raise ImageError.collect(problems)
    return tuple(by_path[path] for path in sorted(by_path, key=str.encode))


def header(entry: Entry, *, size: int | None = None) -> bytes:
    """The entry's header blocks: 512 bytes of ustar, after a PAX header where ustar is too narrow.

    `size` is the number of bytes that will follow when they are no Content of the entry's (a blob's).
    """
    size = entry.size if size is None else size
    name, prefix = _split(entry.path + "/" if entry.kind == "directory" else entry.path)
    records = _records(entry, size, narrow=prefix is None)
    owner = (0o777 if entry.kind == "symlink" else entry.mode, entry.uid, entry.gid)
    target = entry.target.encode("ascii", "replace")[:_NAME]
    block = _block(name, prefix or b"", owner, 0 if size >= _LARGE else size, _TYPES[entry.kind], target)
    if not records:
        return block
    extended = _block(b"././@PaxHeader", b"", (0, 0, 0), len(records), b"x", b"")
    return extended + records + padding(len(records)) + block


def padding(size: int) -> bytes:
    """The zeros that fill `size` bytes up to a whole block."""
    return bytes(-size % BLOCK)


def _fault(entry: Entry) -> str:
    """Why this entry can be in no layer, or nothing."""
    for text in (entry.path, entry.target):
        if "\0" in text or "\n" in text:
            return "paths in a layer hold no NUL and no newline"
        try:
            text.encode()
        except UnicodeEncodeError:
            return "paths in a layer are UTF-8, this one is not"
    parts = entry.path.split("/")
    if "" in parts or "." in parts or ".." in parts:
        return "not a plain relative path (no leading or double slash, no `.` or `..`)"
    if "/.wh." in f"/{entry.path}":
        return "`.wh.` names delete files of other layers and are refused"
    if len(entry.path) > _COMPONENT // 4 and any(len(part.encode()) > _COMPONENT for part in parts):
        return f"a part of the path is longer than {_COMPONENT} bytes"
    if (entry.kind == "symlink") != bool(entry.target):
        return "a symlink has a target, and nothing else has one"
    if entry.kind != "file" and entry.content is not None:
        return f"a {entry.kind} has no content"
    if entry.kind == "directory" and not entry.mode & 0o100:
        return f"a folder with mode {entry.mode:04o} cannot be entered"
    if not 0 <= entry.mode <= 0o7777 or not 0 <= entry.uid <= _MAX_ID or not 0 <= entry.gid <= _MAX_ID:
        return "mode, uid or gid is out of the range of a tar header"
    return ""


def _parents(path: str) -> Iterator[str]:
    """The folders above `path`, nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _split(path: str) -> tuple[bytes, bytes | None]:
    """Name and prefix field for `path`; the prefix is None when ustar cannot hold the path."""
    encoded = path.encode()
    if not path.isascii():
        return path.encode("ascii", "replace")[:_NAME], None
    if len(encoded) <= _NAME:
        return encoded, b""
    cut = encoded.find(b"/", len(encoded) - _NAME - 1, len(encoded) - 1)
    if 0 < cut <= _PREFIX:
        return encoded[cut + 1 :], encoded[:cut]
    return encoded[:_NAME], None


def _records(entry: Entry, size: int, *, narrow: bool) -> bytes:
    """The PAX records that this entry needs, in the order of their keys."""
    records = b""
    if len(entry.target) > _NAME or not entry.target.isascii():
        records += _record(b"linkpath", entry.target.encode())
    if narrow:
        records += _record(b"path", (entry.path + "/" if entry.kind == "directory" else entry.path).encode())
    if size >= _LARGE:
        records += _record(b"size", b"%d" % size)
    return records


def _record(key: bytes, value: bytes) -> bytes:
    """Length, space, `key=value`, newline; the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(name: bytes, prefix: bytes, owner: tuple[int, int, int], size: int, kind: bytes, target: bytes) -> bytes:
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(_NAME, b"\0"), *owner, size, 0)
    tail = b"%s%sustar\x0000%s%s" % (
        kind,
        target.ljust(_NAME, b"\0"),
        bytes(64 + 16),  # user and group name, device numbers
        prefix.ljust(_PREFIX + 12, b"\0"),
    )
    checksum = sum(head) + sum(tail) + 8 * 0x20
    return b"%s%06o\0 %s" % (head, checksum, tail)
