"""The paths of an image, as its layers leave them: symlinks, hard links and whiteouts applied, nothing extracted."""

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from tarfile import TarError, TarInfo
from tarfile import open as open_tar
from typing import IO, Any, Union, cast

from ..errors import ImageError
from .image import LAYER_ZSTD, Image
from .layer import Layer
from .members import INFLATE_ERRORS, gunzip

_LINK_LIMIT = 40
_OPAQUE = ".wh..wh..opq"
_WHITEOUT = ".wh."
_UNREADABLE: tuple[type[Exception], ...] = (TarError, EOFError, ValueError, *INFLATE_ERRORS)
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"

Reader = Callable[[str, int, IO[bytes]], Any]
"""Called with path, size and bytes of each regular file; what it returns becomes the file's `found`."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file: permission bits, size in bytes, and what the reader found in it (None: nothing)."""

    mode: int
    size: int
    found: Any = None


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink, unresolved."""

    target: str


@dataclass(slots=True)
class Folder:
    """A directory by the names in it."""

    names: dict[str, "Node"] = field(default_factory=dict)


Node = Union[File, Link, Folder]  # noqa: UP007 - the string in Folder is resolved late


class FileTree:
    """What a container of the image would see under `/`, without the bytes."""

    def __init__(self) -> None:
        self.root = Folder()

    def resolve(self, path: str, *, last: bool = True) -> tuple[str, Node] | None:
        """Real absolute path and node of `path` (its last symlink too, unless `last` is False); None when it is not there."""
        parts = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        trail: list[tuple[str, Folder]] = []
        node: Node = self.root
        name, links = "", 0
        while parts:
            part = parts.pop()
            here = trail[-1][1] if trail else self.root
            if part == "..":
                node, name = (trail[-2][1] if len(trail) > 1 else self.root), ""
                del trail[-1:]
                continue
            found = here.names.get(part)
            if found is None:
                return None
            node, name = found, part
            if isinstance(found, Link) and (parts or last):
                links += 1
                if links > _LINK_LIMIT:
                    return None
                if found.target.startswith("/"):
                    trail.clear()
                node, name = (trail[-1][1] if trail else self.root), ""
                parts.extend(step for step in reversed(found.target.split("/")) if step not in ("", "."))
            elif isinstance(found, Folder):
                trail.append((part, found))
                name = ""
            elif parts:
                return None
        folders = [step for step, _ in trail]
        return "/" + "/".join([*folders, name] if name else folders), node

    def names(self, path: str) -> dict[str, Node]:
        """The names in the folder `path`, or nothing."""
        found = self.resolve(path)
        return found[1].names if found is not None and isinstance(found[1], Folder) else {}

    def walk(self, folder: Folder | None = None, path: str = "") -> Iterator[tuple[str, File]]:
        """Every regular file with its absolute path, in order of names."""
        for name, node in sorted((folder or self.root).names.items()):
            if isinstance(node, Folder):
                yield from self.walk(node, f"{path}/{name}")
            elif isinstance(node, File):
                yield f"{path}/{name}", node

    def apply(self, layer: Layer, reader: Reader) -> None:
        """Put `layer` on top. Raises ImageError for a layer that is no tar, or whose paths play tricks."""
        where = f"layer {layer.title} ({layer.digest})"
        stream = _Stream(_plain(layer, where))
        seen: dict[int, Node] = {}  # this layer's own nodes by id: its whiteouts hide only what lies below
        try:
            with open_tar(fileobj=cast("IO[bytes]", stream), mode="r|") as tar:
                for member in tar:
                    self._put(member, tar.extractfile(member) if member.isreg() else None, reader, seen)
            stream.drain()
        except _UNREADABLE as error:
            raise ImageError(
                f"the layer is not a tar archive that can be read: {error}",
                where=where,
                mend="fetch or build the base again",
            ) from error

    def _put(self, member: TarInfo, data: IO[bytes] | None, reader: Reader, seen: dict[int, Node]) -> None:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ImageError(f"a layer has the path {member.name!r}, which leaves the image", where=member.name)
        if not parts:
            return
        folder = self._folder(parts[:-1], seen)
        name = parts[-1]
        if name == _OPAQUE:
            _prune(folder, seen)
            return
        if name.startswith(_WHITEOUT):
            hidden = folder.names.get(name.removeprefix(_WHITEOUT))
            if hidden is not None and id(hidden) not in seen:
                del folder.names[name.removeprefix(_WHITEOUT)]
            return
        node = self._node(member, data, reader, folder.names.get(name))
        if node is not None:
            folder.names[name] = node
            seen[id(node)] = node

    def _node(self, member: TarInfo, data: IO[bytes] | None, reader: Reader, old: Node | None) -> Node | None:
        if member.isdir():
            return old if isinstance(old, Folder) else Folder()
        if member.issym():
            return Link(member.linkname)
        if member.islnk():
            linked = self.resolve("/" + member.linkname, last=False)
            return None if linked is None or isinstance(linked[1], Folder) else replace(linked[1])
        if data is None:
            return None  # devices and pipes
        return File(member.mode, member.size, reader(posixpath.normpath("/" + member.name), member.size, data))

    def _folder(self, parts: list[str], seen: dict[int, Node]) -> Folder:
        """The folder at `parts`, through symlinks as an engine unpacks it; made where it is missing."""
        whole = self.resolve("/".join(parts))
        if whole is not None and isinstance(whole[1], Folder):
            return whole[1]
        here = self.root
        for depth, part in enumerate(parts, start=1):
            found = self.resolve("/".join(parts[:depth]))
            if found is not None and isinstance(found[1], Folder):
                here = found[1]
                continue
            fresh = Folder()
            seen[id(fresh)] = fresh
            here.names[part] = fresh
            here = fresh
        return here


def _prune(folder: Folder, seen: dict[int, Node]) -> None:
    """Take away what lies in `folder` from layers below."""
    folder.names = {name: node for name, node in folder.names.items() if id(node) in seen}
    for node in folder.names.values():
        if isinstance(node, Folder):
            _prune(node, seen)


def read_tree(image: Image, reader: Reader) -> FileTree:
    """The tree of all layers of `image`, each streamed once, base first."""
    tree = FileTree()
    for layer in image.layers:
        tree.apply(layer, reader)
    return tree


def _plain(layer: Layer, where: str) -> Iterator[bytes]:
    """The layer's tar stream, whatever its media type claims."""
    chunks = layer.blob.open()
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= len(_ZSTD):
            break

    def whole() -> Iterator[bytes]:
        yield head
        yield from chunks

    if layer.media_type == LAYER_ZSTD or head.startswith(_ZSTD):
        raise ImageError(
            "the layer is compressed with zstd, which packager cannot read",
            where=where,
            mend="use a base with gzip layers, or copy it: skopeo copy --dest-compress-format gzip --dest-force-compress-format",
        )
    return gunzip(whole()) if head.startswith(_GZIP) else whole()


class _Stream:
    """An iterator of chunks with the `read` that tarfile asks for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        pieces = []
        while size > 0:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
            piece, self._rest = self._rest[:size], self._rest[size:]
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def drain(self) -> None:
        """Read what follows the archive's end, so the blob verifies itself."""
        for _ in self._chunks:
            pass
