"""Weights at their source while they are locked: listed, judged, and hashed where the source knows no sha256."""

import hashlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self, TypeVar

from ..digest import sha256_hex
from ..errors import IntegrityError, LoadError, RangeError, TransferError
from ..manifest import WeightsFile
from ..weights.chunks import PieceHasher, encode_chunks, file_chunks
from ..weights.file import FileSource
from ..weights.http import HttpReader
from ..weights.identity import file_digest, remember_digest
from ..weights.source import Reader, Source, SourceFile
from .tools import Tools, storing

_SMALL = 4 << 20
"""Bytes up to which a file that was judged is kept in memory until it is locked."""
_AT_ONCE = 8
"""Files that are read at a time."""
_TRIES = 5
_PAUSE, _LONGEST_PAUSE = 1.0, 300.0
"""Seconds of rest after a transfer broke off: the first, doubled each time, and the most."""

Read = TypeVar("Read")


class Origin:
    """A source of which the small files are read once: what was judged is what is locked.

    It is its own reader, with a connection for each thread that reads. Leaving the `with` block closes them.
    """

    def __init__(self, source: Source, tools: Tools) -> None:
        self._source, self._tools = source, tools
        self._readers: dict[int, Reader] = {}  # by thread
        self._seen: dict[str, bytes] = {}
        self._telling = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers.values():
            reader.close()

    @property
    def uri(self) -> str:
        return self._source.uri

    @property
    def revision(self) -> str:
        return self._source.revision

    def inventory(self) -> tuple[SourceFile, ...]:
        return self._persistently(self._source.inventory)

    def connect(self) -> "Origin":
        return self

    def close(self) -> None:
        """Nothing yet: the next reading takes the same connection."""

    def read(self, path: str, start: int, stop: int, size: int) -> Generator[bytes]:
        if size > _SMALL:
            yield self._whole(path, start, stop, size)
            return
        if path not in self._seen:
            self._seen[path] = self._whole(path, 0, size, size)
        yield self._seen[path][start:stop]

    def lock(self, files: Iterable[SourceFile], *, keep: bool) -> tuple[WeightsFile, ...]:
        """Each file with its sha256, and with its chunks' digests where its bytes have to be read anyway.

        `keep` puts a local file into the store, where the package takes it from; of a remote one, only what has to be
        read is. The same source gives the same, whatever the store holds. Raises LoadError, IntegrityError.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            locking = [pool.submit(self._lock, file, keep=keep) for file in files]
            try:
                for one in wait(locking, return_when=FIRST_EXCEPTION).done:
                    one.result()
            except BaseException:
                self._over.set()  # none goes on with gigabytes that nobody wants any more
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return tuple(one.result() for one in locking)

    def _lock(self, file: SourceFile, *, keep: bool) -> WeightsFile:
        seen = self._seen.get(file.path)
        if isinstance(self._source, FileSource):
            locked = self._lock_local(file, self._source.locate(file.path), keep=keep)
        elif file.sha256 is None:
            locked = self._lock_remote(file, seen)
        else:
            locked = WeightsFile(file.path, file.size, file.sha256)
        if seen is not None and sha256_hex(seen) != locked.sha256:
            what = f"{file.path} is not what was read before: sha256 {sha256_hex(seen)[:12]}, then {locked.sha256[:12]}"
            raise IntegrityError(what, where=self.uri, mend="lock again once nobody writes there any more")
        return locked

    def _lock_local(self, file: SourceFile, path: Path, *, keep: bool) -> WeightsFile:
        if keep:
            # Verified whole when the package is written, and when it is loaded: chunks would serve nobody.
            sha256 = file_digest(path, self._tools.store, self._tell)
            if self._tools.store.find(sha256, file.size) is None:
                with storing(self._tools.store):
                    self._tools.store.add(path, sha256=sha256)
            return WeightsFile(file.path, file.size, sha256)
        hasher, pieces, status = hashlib.sha256(), PieceHasher(), path.stat()
        for data in self._counted(file, pieces, self._stream(file.path, 0, file.size, file.size)):
            hasher.update(data)
        remember_digest(path, status, hasher.hexdigest(), self._tools.store)
        return WeightsFile(file.path, file.size, hasher.hexdigest(), encode_chunks(file_chunks(pieces.finish())))

    def _lock_remote(self, file: SourceFile, seen: bytes | None) -> WeightsFile:
        """Read into the store, from the beginning where the halves of two attempts might be of two versions."""

        def read() -> WeightsFile:
            pieces = PieceHasher()
            parts = [seen] if seen is not None else self._all(file)
            with storing(self._tools.store):
                stored = self._tools.store.put(self._counted(file, pieces, parts), name=f"{self.uri}/{file.path}")
            remember_digest(stored.path, stored.status, stored.sha256, self._tools.store)
            return WeightsFile(file.path, file.size, stored.sha256, encode_chunks(file_chunks(pieces.finish())))

        return self._persistently(read)

    def _counted(self, file: SourceFile, pieces: PieceHasher, parts: Iterable[bytes]) -> Iterator[bytes]:
        done = 0
        for data in parts:
            pieces.update(data)
            done += len(data)
            self._tell(f"read {file.path}", done, file.size)
            yield data

    def _tell(self, title: str, done: int, total: int) -> None:
        if self._over.is_set():
            raise LoadError("another file could not be had")  # which is what people are told
        if self._tools.on_bytes is not None:
            with self._telling:
                self._tools.on_bytes(title, done, total)

    def _persistently(self, read: Callable[[], Read]) -> Read:
        """What `read` gives, tried again where a transfer breaks off."""
        for failures in range(1, _TRIES):
            try:
                return read()
            except TransferError as error:
                self._rest(failures, error)
        return read()

    def _rest(self, failures: int, error: TransferError) -> None:
        pause = _PAUSE * 2.0 ** (failures - 1) if error.retry_after is None else error.retry_after
        self._over.wait(min(pause, _LONGEST_PAUSE))

    def _all(self, file: SourceFile) -> Iterator[bytes]:
        """All bytes of the file. A transfer that breaks off goes on from there while the place tells that they are the same.

        Raises TransferError where it does not, and the file is to be read from its beginning; LoadError when nothing
        more comes of it.
        """
        done, tag, failures = 0, "", 0
        while True:
            began = done
            try:
                for data in self._stream(file.path, began, file.size, file.size):
                    if done == began and (now := self._tag(file.path)) != tag:
                        if began:
                            raise _changed(f"{self.uri}/{file.path}")
                        tag = now
                    done += len(data)
                    yield data
                return
            except TransferError as error:
                failures = 1 if done > began else failures + 1
                if not tag or self._tag(file.path) != tag or isinstance(error, RangeError):
                    raise
                if failures == _TRIES:
                    raise LoadError.collect(error.problems) from error
                self._rest(failures, error)

    def _tag(self, path: str) -> str:
        """What this thread's reader last saw that tells the file's bytes from others; empty where its place has no such thing."""
        reader = self._readers.get(threading.get_ident())
        return reader.tag(path) if isinstance(reader, HttpReader) else ""

    def _whole(self, path: str, start: int, stop: int, size: int) -> bytes:
        return self._persistently(lambda: b"".join(self._stream(path, start, stop, size)))

    def _stream(self, path: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        thread = threading.get_ident()
        if thread not in self._readers:
            self._readers[thread] = self._source.connect()
        reader = self._readers[thread]
        try:
            yield from reader.read(path, start, stop, size)
        except RangeError:
            if start or stop == size:
                raise
            yield from _first(reader.read(path, 0, size, size), stop)


def _changed(where: str) -> TransferError:
    what, mend = "the file changed at its source while it was read", "lock again once nobody writes there any more"
    return TransferError(what, where=where, mend=mend)


def _first(parts: Generator[bytes], stop: int) -> Iterator[bytes]:
    """The first `stop` bytes of a file that is to be had whole only; the rest stays where it is."""
    with closing(parts):
        for part in parts:
            yield part[:stop]
            stop -= len(part)
            if stop <= 0:
                return


@contextmanager
def at(where: str) -> Iterator[None]:
    """Says of weights that cannot be had where the spec asks for them."""
    try:
        yield
    except (LoadError, IntegrityError) as error:
        problem = error.problems[0]
        what = f"{problem.what}: {problem.where}" if problem.where else problem.what
        raise type(error)(what, where=where, mend=problem.mend) from error
