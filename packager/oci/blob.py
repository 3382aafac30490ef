"""One idea under everything an image is made of: a blob is a digest, a size and a way to get the bytes."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..digest import CHUNK, oci_digest
from ..errors import IntegrityError

OnBytes = Callable[[str, int, int], None]
"""Progress of one blob: its title, the bytes done so far, the bytes in all. May be called from several threads."""


class Blob(Protocol):
    """Bytes that are known by their digest (`sha256:` and 64 hex digits) and size in bytes.

    `open` starts afresh at each call and may be called from several threads. It promises that what it
    gave is what the digest says: at the latest at its end it raises IntegrityError. So a consumer that
    reads to the end need not hash again.
    """

    @property
    def digest(self) -> str: ...
    @property
    def size(self) -> int: ...
    def open(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class BytesBlob:
    """A blob in memory: configs, manifests, small layers."""

    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """Computed at each call: keep it where it is needed often."""
        return oci_digest(self.data)

    @property
    def size(self) -> int:
        """Length of the data in bytes."""
        return len(self.data)

    def open(self) -> Iterator[bytes]:
        """The data in one piece."""
        yield self.data


@dataclass(frozen=True, slots=True)
class FileBlob:
    """A blob that lies in a file."""

    path: Path
    digest: str
    size: int

    def open(self) -> Iterator[bytes]:
        """The file's bytes, verified while they stream."""
        return verified(self._read(), self.digest, self.size, where=str(self.path))

    def _read(self) -> Iterator[bytes]:
        with self.path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk


@dataclass(frozen=True, slots=True)
class RecipeBlob:
    """A blob that is made anew each time it is read; nothing of it is kept on disk."""

    digest: str
    size: int
    make: Callable[[], Iterator[bytes]] = field(repr=False)
    title: str = ""

    def open(self) -> Iterator[bytes]:
        """The bytes, verified while they are made: a changed input or recipe cannot pass unseen."""
        return verified(self.make(), self.digest, self.size, where=self.title or self.digest)


def verified(chunks: Iterable[bytes], digest: str, size: int, *, where: str) -> Iterator[bytes]:
    """Pass `chunks` through; raise IntegrityError when they are longer than, or at the end not, what was promised."""
    hasher, done = hashlib.sha256(), 0
    for chunk in chunks:
        hasher.update(chunk)
        done += len(chunk)
        if done > size:
            break
        yield chunk
    found = f"sha256:{hasher.hexdigest()}"
    if done != size or found != digest:
        raise IntegrityError(
            f"the bytes are not those of {digest} ({size} bytes)"
            + (f": more than {size} bytes came" if done > size else f": {found} ({done} bytes) came"),
            where=where,
            mend="the input changed or is damaged: build again, or fetch it again",
        )


def write_blob(chunks: Iterable[bytes], folder: Path, digest: Callable[[], str]) -> Path:
    """Write `chunks` to a new file in `folder` and give it the name of `digest()`, asked for when they have ended.

    The file is on disk (fsync) before it has that name. When `chunks` raises, nothing is left.
    """
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        return Path(temporary).replace(folder / digest().removeprefix("sha256:"))
    finally:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
