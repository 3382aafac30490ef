"""A file on its way into the store: written in pieces, in any order, and never under its final name.

The journal says which pieces have come, each with the digest it came with. It needs no care about the order of its
writes: what it says is compared with the part's bytes before it is believed, so that a lost page, a torn line or a
flipped bit costs the pieces concerned and nothing else. The whole file's sha256 follows the pieces as they become
contiguous, and decides at the end.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from ..errors import LoadError
from ..manifest import WeightsFile
from ..store import Store, StoredFile
from .chunks import PIECE, PIECES, chunk_digest, decode_chunks, file_chunks, piece_count, piece_size, pieces_of_chunk
from .claim import Claim, header

_MUCH = 64 << 20
"""Bytes for which it is worth to wake the disk."""
_MOST_WRITTEN = 1 << 15
"""Bytes of one write. For more, file systems take larger blocks of memory; a virtual machine whose host has taken its
free memory back pays for each of these anew, which onto a disk cost more than all the rest of a load."""
Portions = Sequence[bytes | memoryview]
"""The bytes of a piece, as they came."""


class Part:
    """The part that `claim` gives the right to write. Safe to use from several threads, a piece from one at a time.

    `chunks` are the digests of the file's chunks, where they are known: a piece counts once its chunk is whole and
    right. Raises OSError where the disk does.
    """

    def __init__(self, file: WeightsFile, claim: Claim, chunks: Sequence[bytes] | None = None) -> None:
        self.file = file
        self.count = piece_count(file.size)
        self.chunks = chunks if chunks is not None else decode_chunks(file.chunks, file.size)
        self._claim = claim
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(claim.part, flags | (os.O_EXCL if claim.private else 0), 0o600)
        self._lock = threading.Lock()
        self._digests: dict[int, bytes] = {}  # of every piece that is written
        self._writing: set[int] = set()
        self._ready: set[int] = set()  # those of them that may be hashed: their chunk is right, or nothing is known
        self._hasher, self._hashed = hashlib.sha256(), 0
        self._turn = threading.Lock()
        self._pen = threading.Lock()  # the kernel lets one write at a time into a file: others would spin, not sleep
        self._unsynced, self._disk = 0, threading.Lock()
        self._lost: OSError | None = None  # the kernel tells a failed write once: no later sync would know of it

    # What is there already

    def resume(self) -> None:
        """Take up what an earlier attempt, and parts that may not be written, have of this file."""
        os.ftruncate(self._descriptor, self.file.size)
        self._adopt(self._descriptor, _read_journal(self._claim.journal, self.file), copy=False)
        own = self._claim.journal
        for path in sorted(own.parent.iterdir()):
            if path.name.startswith(self.file.sha256) and path.suffix == ".journal" and path != own:
                with suppress(OSError):
                    self._adopt_other(path)

    def _adopt_other(self, journal: Path) -> None:
        other = os.open(journal.with_suffix(".part"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._adopt(other, _read_journal(journal, self.file), copy=True)
        finally:
            os.close(other)

    def _adopt(self, descriptor: int, recorded: dict[int, bytes], *, copy: bool) -> None:
        for number, digest in sorted(recorded.items()):
            if number in self._digests:
                continue
            data = os.pread(descriptor, PIECE, number * PIECE)[: piece_size(self.file.size, number)]
            if blake3(data).digest() != digest:
                continue
            if copy:
                self.write(number, (data,))
            else:
                self._digests[number] = digest
                self._settle(number, (data,))

    # Writing

    def write(self, number: int, data: Portions) -> bool:
        """Put piece `number` in its place; False when its chunk turns out wrong: all of the chunk is to come again.

        A piece that is there, or that another thread is writing, stays as it is: it may be hashed already, so nothing
        may be written over it.
        """
        with self._lock:
            if number in self._digests or number in self._writing:
                return True
            self._writing.add(number)
        try:
            digest = self._put(number, data)
            with self._lock:
                self._digests[number] = digest
        finally:
            with self._lock:
                self._writing.discard(number)
        return self._settle(number, data)

    def _put(self, number: int, data: Portions) -> bytes:
        hasher, offset, size = blake3(), number * PIECE, 0
        for portion in data:
            hasher.update(portion)
            with self._pen:
                self._write_all(memoryview(portion), offset + size)
            size += len(portion)
        self._unsynced += size
        digest = hasher.digest()
        os.write(self._claim.descriptor, b"%d %s\n" % (number, digest.hex().encode()))
        return digest

    def _write_all(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self._descriptor, data[:_MOST_WRITTEN], offset)  # a nearly full disk takes less
            data, offset = data[written:], offset + written

    def sync(self) -> None:
        """Have the disk write what has come, if that is much: while more comes, so that little waits for it at the end."""
        with self._disk:
            if self._unsynced >= _MUCH and self._descriptor >= 0:
                self._unsynced = 0
                try:
                    os.fdatasync(self._descriptor)
                except OSError as error:
                    self._lost = error
                    raise

    def _settle(self, number: int, data: Portions) -> bool:
        """Whether the piece's chunk is right or unknown yet; hashes what became contiguous. `data` are its bytes."""
        numbers = range(number, number + 1)
        if self.chunks is not None:
            chunk = number // PIECES
            numbers = pieces_of_chunk(self.file.size, chunk)
            with self._lock:
                if not all(one in self._digests for one in numbers):
                    return True
                right = chunk_digest([self._digests[one] for one in numbers]) == self.chunks[chunk]
                if not right:
                    for one in numbers:
                        del self._digests[one]
            if not right:
                return False
        with self._lock:
            self._ready.update(numbers)
        self._follow(number, data)
        return True

    def _follow(self, number: int, data: Portions) -> None:
        """Hash what is contiguous; one thread does it at a time, the others go on fetching.

        What came out of order is read again, from the page cache: to keep it in memory was measured, and is no quicker.
        """
        while self._hashed in self._ready and self._turn.acquire(blocking=False):
            try:
                while self._hashed in self._ready:
                    self._hash(data if self._hashed == number else (self._piece(self._hashed),))
            finally:
                self._turn.release()

    def _hash(self, data: Portions) -> None:
        for portion in data:
            self._hasher.update(portion)
        self._hashed += 1

    def _piece(self, number: int) -> bytes:
        data = os.pread(self._descriptor, PIECE, number * PIECE)
        return data[: piece_size(self.file.size, number)]

    # What is missing, and the end

    @property
    def done(self) -> int:
        """Bytes that are there and right as far as is known."""
        with self._lock:
            if not self._digests:
                return 0
            last = self.count - 1
            short = PIECE - piece_size(self.file.size, last) if last in self._digests else 0
            return len(self._digests) * PIECE - short

    def missing(self) -> Iterator[int]:
        """The numbers of the pieces that are to come, in order."""
        return (number for number in range(self.count) if number not in self._digests)

    def sha256(self) -> str:
        """Hex sha256 of the whole part. Every piece must be there."""
        with self._turn:
            while self._hashed < self.count:
                self._hash((self._piece(self._hashed),))
            return self._hasher.hexdigest()

    def chunk_digests(self) -> tuple[bytes, ...]:
        """The digests of the file's chunks. Every piece must be there."""
        return file_chunks([self._digests[number] for number in range(self.count)])

    def reset(self) -> None:
        """Forget every piece: what came makes no file with the right sha256."""
        with self._lock:
            self._digests.clear()
            self._ready.clear()
            self._hasher, self._hashed = hashlib.sha256(), 0
        start = len(header(self.file.sha256, self.file.size, self._claim.descriptor))
        os.ftruncate(self._claim.descriptor, start)

    def publish(self, store: Store) -> StoredFile:
        """Give the file its final name, durably. Its sha256 was checked."""
        with self._disk:
            if self._lost is not None:
                raise self._lost
        try:
            return store.publish(self._claim.part, self._descriptor, self.file.sha256)
        except FileNotFoundError:  # someone cleared the folder of parts away under us
            found = store.find(self.file.sha256, self.file.size)
            if found is None:
                raise
            return found

    def close(self, *, done: bool) -> None:
        """Let go of the files. `done` removes what is left of them; without it they wait for the next attempt."""
        with self._disk:
            os.close(self._descriptor)
            self._descriptor = -1
        if done:
            with suppress(FileNotFoundError):
                self._claim.part.unlink()
        self._claim.release(done=done)


def _read_journal(journal: Path, file: WeightsFile) -> dict[int, bytes]:
    """Number and digest of each recorded piece; of several records of one piece the last. Torn lines do not count."""
    try:
        head, *lines = journal.read_bytes().split(b"\n")
        value = json.loads(head)
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict) or (value.get("sha256"), value.get("size")) != (file.sha256, file.size):
        return {}
    found, count = {}, piece_count(file.size)
    for line in lines[:-1]:
        number, _, digest = line.partition(b" ")
        with suppress(ValueError):
            if len(digest) == 64 and 0 <= int(number) < count:  # hex of 32 bytes
                found[int(number)] = bytes.fromhex(digest.decode())
    return found


def room_error(needed: int, free: int, folder: Path) -> LoadError:
    """The disk is too small: said before the first byte is fetched."""
    what = f"the store has no room: {needed / 1e9:,.2f} GB are to come, {free / 1e9:,.2f} GB are free"
    mend = "free space (`packager store prune`), or put the store on another disk (PACKAGER_CACHE)"
    return LoadError(what, where=str(folder), mend=mend)
