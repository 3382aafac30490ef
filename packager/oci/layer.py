"""A layer: entries in, a gzip blob and its two digests out, in one streaming pass.

The blob is tar headers and padding as stored gzip members, and between them each file's own members. So a
layer made of a wheel is a pure function of the wheel's bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..digest import CHUNK
from ..errors import IntegrityError
from .blob import Blob, RecipeBlob
from .members import SPAN, stored_member
from .tar import END, Entry, arrange, header, padding

LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True, slots=True)
class LayerDigests:
    """What a layer is known by.

    `digest` and `size` (bytes) are the blob's, `diff_id` and `uncompressed` (bytes) the tar's.
    """

    digest: str
    size: int
    diff_id: str
    uncompressed: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image; `title` is for people (history, progress)."""

    blob: Blob
    diff_id: str
    media_type: str
    title: str

    @property
    def digest(self) -> str:
        """The blob's digest."""
        return self.blob.digest

    @property
    def size(self) -> int:
        """The blob's size in bytes."""
        return self.blob.size


class LayerPass:
    """One pass over what `entries` hold, in whatever order they come: their layer's blob and all its digests.

    Iterating, once, gives the blob in chunks of about 1 MiB; at the end `digests` are known. Every content is read
    and inflated once; the GIL is held only between chunks, so layers can be made in threads.
    Raises ImageError for entries that cannot be in a layer, IntegrityError for content that is not what it says.
    """

    digests: LayerDigests

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[bytes]:
        tar, blob = hashlib.sha256(), hashlib.sha256()
        uncompressed = size = 0

        def members() -> Iterator[bytes]:
            nonlocal uncompressed
            for raw, member in _pairs(arrange(self._entries)):
                tar.update(raw)
                uncompressed += len(raw)
                yield member

        for chunk in _gathered(members()):
            blob.update(chunk)
            size += len(chunk)
            yield chunk
        self.digests = LayerDigests(f"sha256:{blob.hexdigest()}", size, f"sha256:{tar.hexdigest()}", uncompressed)


def digest_layer(entries: Iterable[Entry]) -> LayerDigests:
    """The digests of the layer that holds `entries`; the blob is not kept. Raises as LayerPass does."""
    once = LayerPass(entries)
    for _ in once:
        pass
    return once.digests


def layer_chunks(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The layer's blob, in chunks of about 1 MiB. Nothing is inflated; raises ImageError at the first step."""
    return _gathered(_members(arrange(entries)))


def make_layer(entries: Sequence[Entry], *, title: str, known: LayerDigests | None = None) -> Layer:
    """The layer that holds `entries`; its bytes are regenerated whenever they are read.

    `known` are its digests from an earlier pass: then nothing is read now, and a wrong one shows as
    IntegrityError when the blob is.
    """
    arranged = arrange(entries)
    digests = known or digest_layer(arranged)
    blob = RecipeBlob(digests.digest, digests.size, lambda: _gathered(_members(arranged)), title)
    return Layer(blob, digests.diff_id, LAYER_GZIP, title)


def _members(entries: Iterable[Entry]) -> Iterator[bytes]:
    for glue, entry in _glued(entries):
        yield stored_member(glue)
        if entry is not None and entry.content is not None:
            yield from entry.content.members()


def _pairs(entries: Iterable[Entry]) -> Iterator[tuple[bytes, bytes]]:
    for glue, entry in _glued(entries):
        yield glue, stored_member(glue)
        if entry is None or entry.content is None:
            continue
        done = 0
        for raw, member in entry.content.pairs():
            done += len(raw)
            yield raw, member
        if done != entry.size:
            raise IntegrityError(f"{done} bytes came, not the {entry.size} in its header", where=entry.path)


def _glued(entries: Iterable[Entry]) -> Iterator[tuple[bytes, Entry | None]]:
    """All that lies between contents, each with the entry whose content comes next (None: more glue follows, or the end).

    Padding of one file, folders, symlinks, empty files and the next header make one piece, so one member.
    """
    glue = bytearray()
    for entry in entries:
        glue += header(entry)
        if entry.size:
            yield bytes(glue), entry
            glue = bytearray(padding(entry.size))
        elif len(glue) >= SPAN:
            yield bytes(glue), None
            glue = bytearray()
    yield bytes(glue) + END, None


def _gathered(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces: what reads them pays a price for each."""
    waiting: list[bytes] = []
    length = 0
    for chunk in chunks:
        waiting.append(chunk)
        length += len(chunk)
        if length >= CHUNK:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)
