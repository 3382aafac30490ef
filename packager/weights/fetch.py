"""Files into the store: in parallel, verified, and from where an earlier attempt broke off.

Threads, because all that costs time here (sockets, disks, hashes) lets go of the interpreter's lock.
"""

import errno
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from ..digest import sha256_hex
from ..errors import IntegrityError, LoadError, RangeError, TransferError
from ..manifest import WeightsFile
from ..store import Store
from .chunks import PIECE, PIECES, decode_chunks, encode_chunks, piece_size, pieces_of_chunk
from .claim import private_claim, take_claim
from .identity import find_intact, remember_digest
from .pace import WINDOW
from .part import Part, Portions, room_error
from .small import SmallFiles
from .source import Reader
from .watch import ALL, SILENT, Watch
from .work import FetchSettings, Job, OnStored, Task, Wanted, Work

__all__ = ["FetchSettings", "Wanted", "fetch_files"]

_BAD_CHUNKS = 3
"""How often a chunk may come wrong."""
_TICK = 0.05
"""Seconds between two looks at what the disk has to write."""
_TELL = 0.2
"""Seconds between two words about progress."""
_LAST = 5.0
"""Seconds that workers have to end; one that hangs in a read ends with its connection's timeout, unattended."""
_KEPT = 2 << 20
"""Bytes that the C library keeps for the next portions."""
_DEFAULT = FetchSettings()


def fetch_files(
    wanted: Sequence[Wanted],
    store: Store,
    watch: Watch = SILENT,
    settings: FetchSettings = _DEFAULT,
    on_stored: OnStored = lambda _, __: None,
) -> int:
    """Bring every wanted file into `store`, each with its sha256. Blocks; gives the bytes that were transferred.

    Files that another process fetches at this moment are waited for; `on_stored` is told of those that came, by any
    thread. Raises LoadError (TransferError where the other
    side gave up) or IntegrityError; what was fetched is kept for the next attempt.
    """
    jobs = [Job(one) for one in {one.file.sha256: one for one in wanted}.values()]
    if not jobs:
        return 0
    try:
        _check_room([job.file for job in jobs], store)
        (store.root / "parts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, store.root) from error
    return _Fetch(Work(jobs, settings), store, watch, on_stored).run()


def _check_room(files: Sequence[WeightsFile], store: Store) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    needed = 0
    for file in files:
        needed += file.size
        with suppress(FileNotFoundError):
            needed -= min(file.size, (store.root / "parts" / f"{file.sha256}.part").lstat().st_blocks * 512)
    status = os.statvfs(store.root)
    # Some mounts of object stores have no number of blocks at all: then the first write that fails says it.
    if status.f_blocks and needed > (free := status.f_bavail * status.f_frsize):
        raise room_error(needed, free, store.root)


class _Fetch:
    """The workers of one fetch."""

    def __init__(self, work: Work, store: Store, watch: Watch, on_stored: OnStored) -> None:
        self._work = work
        self._store = store
        self._watch = watch
        self._parts = store.root / "parts"
        self._on_stored = on_stored
        self._small = SmallFiles(store, sum(job.small for job in work.jobs), on_stored)
        self._threads: list[threading.Thread] = []
        self._received: list[int] = []  # bytes, by worker
        self._waited: set[str] = set()  # what the watch knows to be waited for
        self._told = 0  # bytes of them that the watch knows of
        self._total = sum(job.file.size for job in work.jobs)

    def run(self) -> int:
        # Once a block of this size was freed, glibc gives less back; else the kernel clears new pages for most portions.
        bytes(_KEPT)
        try:
            self._start_workers()
            with suppress(RuntimeError):  # no more threads: the disk then writes when a file gets its name
                threading.Thread(target=self._write_back, daemon=True).start()
            self._attend()
            self._settle()
        except BaseException as error:
            self._work.stop(error)
            raise
        finally:
            until = time.monotonic() + _LAST
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
            self._close()
        if self._work.error is not None:
            raise self._work.error
        return sum(self._received)

    def _start_workers(self) -> None:
        """As many as the pace allows; what it allows less later sleeps."""
        while len(self._threads) < self._work.pace.limit:
            number = len(self._threads)
            self._received.append(0)
            thread = threading.Thread(target=self._serve, args=(number,), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not self._threads:
                    mend = "give the process more memory, or a higher limit of threads"
                    raise LoadError("no thread can be started", where=str(self._store.root), mend=mend) from error
                return  # those that there are will do
            self._threads.append(thread)

    def _write_back(self) -> None:
        """Keep the disk busy while bytes come. An error of it is told once, here: a later sync knows nothing of it."""
        while not self._work.ended.wait(_TICK):
            for job in self._work.jobs:
                try:
                    if (part := job.part) is not None:
                        part.sync()
                except OSError as error:
                    self._work.stop(disk_error(error, self._store.root))
                    return

    def _attend(self) -> None:
        """Say how it goes, and set the pace, until all is done."""
        then, before = time.monotonic(), 0
        while True:
            over = self._work.ended.wait(_TELL)
            busy = self._work.running >= self._work.pace.limit
            self._tell()
            if over:
                return
            now, received = time.monotonic(), sum(self._received)
            if now - then >= WINDOW:
                if busy and received > before:
                    with self._work.changed:
                        self._work.pace.observe((received - before) / (now - then))
                        self._work.changed.notify_all()
                    self._start_workers()
                then, before = now, received

    def _settle(self) -> None:
        try:
            self._small.settle()
        except OSError as error:
            raise disk_error(error, self._store.root) from error

    def _tell(self) -> None:
        received = sum(self._received)
        if received > self._told:
            self._watch.fetched(received - self._told)
            self._told = received
        self._watch.on_bytes(ALL, sum(job.done() for job in self._work.jobs), self._total)
        for job in self._work.jobs:
            if job.part is not None:
                self._watch.on_bytes(job.title, job.done(), job.file.size)

    def _close(self) -> None:
        """Let go of what is unfinished: its parts wait for the next attempt."""
        for job in self._work.jobs:
            if job.part is not None and not job.finished and job.workers == 0:
                job.part.close(done=False)
        self._small.close()

    # One worker

    def _serve(self, number: int) -> None:
        readers: dict[int, Reader] = {}
        try:
            while (task := self._work.take()) is not None:
                try:
                    do = self._fetch_small if task.job.small else self._do
                    do(task, number, readers)
                finally:
                    self._work.give_back(task)
                for job in self._small.store():
                    self._work.open(job, None)
                    self._watch.on_bytes(job.title, job.file.size, job.file.size)
        except OSError as error:
            self._work.stop(disk_error(error, self._store.root))
        except BaseException as error:  # noqa: BLE001 -- carried to the thread that waits for it
            self._work.stop(error)
        finally:
            for reader in readers.values():
                reader.close()

    def _do(self, task: Task, number: int, readers: dict[int, Reader]) -> None:
        job = task.job
        try:
            if job.part is None:
                self._open(job)
            elif task.left is None:
                self._finish(job, job.part)
            else:
                self._fetch_span(task, job.part, self._reader(job, readers), number)
        except RangeError:
            task.left = None
            self._work.whole(job)
        except TransferError as error:
            if job.whole and job.part is not None:
                task.left = range(job.part.count)
            self._retry(job, error)

    @staticmethod
    def _reader(job: Job, readers: dict[int, Reader]) -> Reader:
        """The worker's own way to the job's source."""
        source = job.wanted.source
        if id(source) not in readers:
            readers[id(source)] = source.connect()
        return readers[id(source)]

    def _fetch_small(self, task: Task, number: int, readers: dict[int, Reader]) -> None:
        """Fetch small files whole: all are asked for, and then read one after the other."""
        if not self._small.claim(self._work.settings.patience):
            for job in task.jobs:
                self._wait(job)
            return
        streams: list[tuple[Job, Generator[bytes]]] = []
        for job in task.jobs:
            if find_intact(job.file, self._store) is not None:  # another process was at it until now
                self._came(job, None)
            elif not (size := job.file.size):
                self._check_small(job, b"")
            else:
                try:
                    streams.append((job, self._reader(job, readers).read(job.file.path, 0, size, size)))
                except TransferError as error:
                    self._retry(job, error)
        for job, stream in streams:
            try:
                with closing(stream):
                    data = b"".join(self._counted(stream, number))
            except TransferError as error:
                self._retry(job, error)
            else:
                self._check_small(job, data)

    def _counted(self, stream: Iterable[bytes], number: int) -> Iterator[bytes]:
        for portion in stream:
            self._received[number] += len(portion)
            yield portion

    def _check_small(self, job: Job, data: bytes) -> None:
        if (digest := sha256_hex(data)) == job.file.sha256:
            self._came(job, data)
        else:
            self._once_more(job, digest)

    def _came(self, job: Job, data: bytes | None) -> None:
        """A small file is there, or its right bytes are: it gets its name together with others."""
        self._work.wrote(job)
        self._small.add(job, data)

    def _open(self, job: Job) -> None:
        """Claim the file and take up what is there of it, unless another process has it, or is at it."""
        claim = take_claim(self._parts, job.file.sha256, job.file.size)
        if claim is None and job.stuck(self._parts, self._work.settings.patience):
            claim = private_claim(self._parts, job.file.sha256, job.file.size)
        if claim is None:
            self._wait(job)
        elif find_intact(job.file, self._store) is not None:  # another process was at it until now
            claim.release(done=True)
            self._work.open(job, None)
        else:
            part = Part(job.file, claim, self._learned(job.file))
            part.resume()
            self._work.open(job, part)

    def _wait(self, job: Job) -> None:
        """Another process is at it: look again in a moment."""
        title = "fetch small files" if job.small else job.title
        if title not in self._waited:
            self._waited.add(title)
            self._watch.waits(title)
        self._work.later(job)

    def _learned(self, file: WeightsFile) -> tuple[bytes, ...] | None:
        """Digests of the file's chunks from an earlier, verified fetch, where the manifest has none."""
        memo = None if file.chunks else self._store.recall("chunks", file.sha256)
        return decode_chunks(memo, file.size) if isinstance(memo, str) else None

    def _fetch_span(self, task: Task, part: Part, reader: Reader, number: int) -> None:
        """Fetch the pieces of the task's span, with one request."""
        job, span, size = task.job, task.left or range(0), task.job.file.size
        held: list[bytes | memoryview] = []
        room = piece_size(size, span.start)
        with closing(reader.read(job.file.path, span.start * PIECE, min(span.stop * PIECE, size), size)) as stream:
            for data in stream:
                self._received[number] += len(data)
                view = memoryview(data)
                while view:
                    portion, view = view[:room], view[room:]
                    held.append(portion)
                    room -= len(portion)
                    if room:
                        continue
                    self._write(job, part, span.start, held)
                    held, span = [], span[1:]
                    task.left, room = span, piece_size(size, span.start) if span else PIECE
                    if (self._work.crowded and not job.whole) or self._work.error is not None:
                        return

    def _write(self, job: Job, part: Part, number: int, data: Portions) -> None:
        if part.write(number, data):
            job.failures = 0
            return
        chunk = number // PIECES
        job.bad_chunks[chunk] += 1
        if job.bad_chunks[chunk] > _BAD_CHUNKS:
            where = f"{job.wanted.source.uri}/{job.file.path}"
            what = f"bytes {chunk * PIECES * PIECE:,} and on are not what was locked, tried {_BAD_CHUNKS} times"
            raise IntegrityError(what, where=where, mend="ask whoever keeps the source; what came right is kept")
        self._watch.retried(job.title, f"chunk {chunk} came wrong")
        self._work.again(job, pieces_of_chunk(job.file.size, chunk))

    def _retry(self, job: Job, error: TransferError) -> None:
        pause = self._work.failed(job, error)
        if pause is None:
            problem = error.problems[0]
            what = f"{problem.what}; given up after {job.failures} tries that brought nothing"
            mend = problem.mend or "try again: what was fetched is kept"
            raise TransferError(what, where=problem.where, mend=mend) from error
        self._watch.retried(job.title, f"{error.problems[0].what}; again in {pause:.1f} s")

    def _finish(self, job: Job, part: Part) -> None:
        """All pieces came: the sha256 decides."""
        if next(part.missing(), None) is not None:  # a place that stopped giving ranges left gaps
            self._work.open(job, part)
            return
        if (found := part.sha256()) != job.file.sha256:
            self._start_over(job, part, found)
            return
        stored = part.publish(self._store)
        remember_digest(stored.path, stored.status, job.file.sha256, self._store)
        if stored.status is not None:
            self._on_stored(job.file.sha256, stored.status)
        if part.count > PIECES:
            self._store.remember("chunks", job.file.sha256, encode_chunks(part.chunk_digests()))
        part.close(done=True)
        self._work.open(job, None)
        self._watch.on_bytes(job.title, job.file.size, job.file.size)

    def _start_over(self, job: Job, part: Part, found: str) -> None:
        """From the beginning, unless that was done already."""
        try:
            self._once_more(job, found)
        except IntegrityError:
            part.close(done=True)
            job.part = None
            raise
        part.reset()
        self._work.open(job, part)

    def _once_more(self, job: Job, found: str) -> None:
        """Something in it is wrong, and nothing says what: once more from the beginning, then no more."""
        job.restarts += 1
        if job.restarts > 1:
            what = f"{job.file.path} has sha256 {found[:12]}, the manifest says {job.file.sha256[:12]}; fetched twice"
            mend = "the source has another file than was locked: restore it there, or lock and build again"
            raise IntegrityError(what, where=f"{job.wanted.source.uri}/{job.file.path}", mend=mend)
        self._watch.retried(job.title, "its sha256 is wrong")


def disk_error(error: OSError, folder: Path) -> LoadError:
    """What a failing disk means for the store in `folder`."""
    where = error.filename or str(folder)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        mend = "free space there (`packager store prune`), then try again: what was fetched is kept"
        return LoadError("the disk is full", where=str(where), mend=mend)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        what = "the store cannot be written, and not all that is needed is in it"
        mend = "fill it where it can be written (`packager fetch`), or name another folder (PACKAGER_CACHE)"
        return LoadError(what, where=str(where), mend=mend)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        what = "the store is no folder: a file stands there, or a link that leads nowhere"
        return LoadError(what, where=str(where), mend="name a folder (PACKAGER_CACHE)")
    return LoadError(f"the store cannot be written: {error.strerror}", where=str(where), mend="check the disk")
