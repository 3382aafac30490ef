"""The content-addressed store: files under the sha256 of their bytes, and memos about them.

Shared by every package and process on a machine. A file appears under its final name only
after its bytes were hashed and fsynced, by an atomic rename; so a reader needs no lock and
a kill -9 leaves at most a stray temporary file.
"""

import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .digest import CHUNK
from .errors import IntegrityError, LoadError

_READ_ONLY = 0o444
_USE_GRAIN = 3600.0
"""Seconds within which a second use of a file is not noted."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is in the store: its hex sha256, its size in bytes and where it lies.

    `status` is what it had when its last byte was written, of a file that was put just now.
    """

    sha256: str
    size: int
    path: Path
    status: os.stat_result | None = field(default=None, compare=False)


class Store:
    """Files by sha256 under `root/sha256/ab/abcd...`; memos under `root/memo/KIND/KEY.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the file with this hex digest lies, or would lie."""
        return Path(self.place(sha256))

    def place(self, sha256: str) -> str:
        """`path` as text, for thousands of files: to make a Path costs as much as to rename the file."""
        return f"{self.root}/sha256/{sha256[:2]}/{sha256}"

    def find(self, sha256: str, size: int | None = None) -> StoredFile | None:
        """The file with this digest, or None when the store lacks it or its size is not `size`.

        Who asks uses it: the time is noted on the file, for `packager store prune`. Raises LoadError when the store
        cannot be read.
        """
        path = self.path(sha256)
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(error, path) from error
        if not stat.S_ISREG(status.st_mode) or (size is not None and status.st_size != size):
            return None
        note_use(path, status)
        return StoredFile(sha256, status.st_size, path)

    def add(self, source: Path, *, sha256: str | None = None) -> StoredFile:
        """Copy the file at `source` in, hashing what is copied; `sha256` is what it must be.

        Raises IntegrityError when the bytes are others; the store is then unchanged.
        """
        with source.open("rb", buffering=0) as file:
            return self.put(iter(lambda: file.read(CHUNK), b""), sha256=sha256, name=str(source))

    def put(self, chunks: Iterable[bytes], *, sha256: str | None = None, name: str = "stream") -> StoredFile:
        """Write `chunks` under their digest; `sha256` is what it must be, `name` is for errors and lists."""
        staging = self.root / "tmp"
        staging.mkdir(parents=True, exist_ok=True)
        hasher, size = hashlib.sha256(), 0
        descriptor, temporary = tempfile.mkstemp(dir=staging)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fchmod(file.fileno(), _READ_ONLY)
                os.fsync(file.fileno())
                status = os.fstat(file.fileno())
            found = hasher.hexdigest()
            if sha256 is not None and found != sha256:
                raise IntegrityError(
                    f"the bytes have sha256 {found}, not the locked {sha256}",
                    where=name,
                    mend="run `packager lock` if the change is wanted; else restore the file",
                )
            final = self.path(found)
            final.parent.mkdir(parents=True, exist_ok=True)
            Path(temporary).replace(final)
            _sync(final.parent)
        finally:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
        self.remember("name", found, name)
        return StoredFile(found, size, final, status)

    def put_small(self, files: Mapping[str, bytes]) -> Mapping[str, os.stat_result]:
        """Put files, each known to have the digest that it is given under: many at a time wait for the disk together.

        Gives the status that each had when its last byte was written. A power cut may cost their names until
        `sync_names` was called, and nothing else: a name never lies.
        """
        staging = self.root / "tmp"
        staging.mkdir(parents=True, exist_ok=True)
        written, statuses = dict[str, str](), dict[str, os.stat_result]()
        mine = f"{staging}/{secrets.token_hex(16)}"
        try:
            for sha256, data in files.items():
                written[sha256] = temporary = f"{mine}-{len(written)}"
                statuses[sha256] = _write_new(temporary, data)
            for temporary in written.values():
                _sync(temporary)
            for sha256 in files:
                self._name(written[sha256], sha256)
                del written[sha256]
        finally:
            for temporary in written.values():
                Path(temporary).unlink(missing_ok=True)
        return statuses

    def _name(self, temporary: str, sha256: str) -> None:
        final = self.place(sha256)
        try:
            os.replace(temporary, final)  # noqa: PTH105
        except FileNotFoundError:  # the first one of its folder
            Path(final).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, final)  # noqa: PTH105

    def sync_names(self, digests: Iterable[str]) -> None:
        """Make the names durable of files that were put with these digests."""
        folders = {self.path(sha256).parent for sha256 in digests}
        for folder in sorted(folders | {folder.parent for folder in folders}):
            _sync(folder)

    def publish(self, path: Path, descriptor: int, sha256: str) -> StoredFile:
        """Give the file at `path`, open as `descriptor` and known to have this digest, its final name, durably.

        Raises FileNotFoundError when `path` no longer names the open file, OSError when the disk fails.
        """
        os.fchmod(descriptor, _READ_ONLY)
        os.fsync(descriptor)
        opened, named = os.fstat(descriptor), path.lstat()
        if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
            raise FileNotFoundError(f"{path} is another file by now")
        final = self.path(sha256)
        final.parent.mkdir(parents=True, exist_ok=True)
        path.replace(final)
        sync_folder(final.parent)
        return StoredFile(sha256, opened.st_size, final, opened)

    def recall(self, kind: str, key: str) -> Any | None:
        """The memo remembered under `kind` and `key` (both plain file names), or None.

        A memo is a cache: a missing or unreadable one is the same as none.
        """
        try:
            return json.loads(self._memo(kind, key).read_bytes())
        except (OSError, ValueError):
            return None

    def remember(self, kind: str, key: str, value: Any) -> None:
        """Remember a JSON value; last writer wins, no reader ever sees half of it.

        A store that cannot be written (a read-only volume) remembers nothing, and a power cut may cost what was
        remembered last: waiting for the disk would cost more, with thousands of small files.
        """
        path = self._memo(kind, key)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(value).encode(), durable=False)

    def _memo(self, kind: str, key: str) -> Path:
        return self.root / "memo" / kind / f"{key}.json"


def note_use(path: str | Path, status: os.stat_result) -> None:
    """Set the time of access: what reading does to it differs from one mount to the next (noatime, relatime)."""
    now = time.time()
    if now - status.st_atime > _USE_GRAIN:
        with suppress(OSError):  # a read-only volume, another user's store
            os.utime(path, ns=(int(now * 1e9), status.st_mtime_ns))


def unreadable(error: OSError, path: Path) -> LoadError:
    """The store is there, and what is in it cannot be read."""
    where, mend = str(error.filename or path), "mend it, or name a folder that this user can read (PACKAGER_CACHE)"
    return LoadError(f"the store cannot be read: {error.strerror}", where=where, mend=mend)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace the file at `path` by `data`: after a crash it holds the old bytes or the new.

    Not `durable`: that holds for a crash of the process; after a power cut the file may be gone or empty.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Give the bytes at `source` a second name, without copying where the file system allows it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    _sync(folder)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: str, data: bytes) -> os.stat_result:
    """A new read-only file with these bytes, which the disk begins to write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _READ_ONLY)
    try:
        os.fchmod(descriptor, _READ_ONLY)  # whatever the umask says
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        # Linux begins to write what it is told it may forget: many files then wait for the disk at once, not in a row.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)
