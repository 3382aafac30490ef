"""Fetch locked wheels into the store, by name and hash, from whatever index the user configured."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ..command import Runner, kill_running, run_command
from ..digest import CHUNK
from ..errors import FetchError, OutputError
from ..facts import BaseFacts
from ..store import Store
from .index import configured_clients
from .pip import download, pin
from .wheel import Wheel

_AT_ONCE = 4  # pip processes: more only queue at the index
_BATCH_BYTES = 24_000_000
_BATCH_WHEELS = 20  # starting pip costs more than a small wheel; few enough that an interrupted fetch keeps most
_LOOK_SECONDS = 0.25
_NAMED = 5

OnBytes = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Batch:
    wheels: tuple[Wheel, ...]
    folder: Path


def fetch_wheels(
    wheels: Sequence[Wheel],
    store: Store,
    *,
    facts: BaseFacts,
    run: Runner = run_command,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> dict[str, Path]:
    """Where each wheel lies in the store, by sha256; what the store lacks is fetched first.

    `on_bytes(file, have, size)` is told, in this thread, of every file that grows. Wheels fetched
    before a failure or an interruption stay in the store. Raises FetchError when a wheel cannot be had,
    IntegrityError when its bytes are not the locked ones, OutputError when the store cannot be written.
    """
    missing = {wheel.sha256: wheel for wheel in wheels if store.find(wheel.sha256, wheel.size) is None}
    if missing and offline:
        raise _offline(list(missing.values()))
    if missing:
        pip_env = configured_clients(run).pip_env
        staging = store.root / "tmp"
        try:
            staging.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=staging, prefix="wheels-") as folder:
                batches = _batches(list(missing.values()), Path(folder))
                _fetch_all(batches, lambda batch: _fetch(batch, store, facts, run, pip_env), on_bytes)
        except OSError as error:
            raise OutputError(f"cannot write to the store: {error.strerror}", where=str(store.root)) from error
    return {wheel.sha256: store.path(wheel.sha256) for wheel in wheels}


def _batches(wheels: Sequence[Wheel], folder: Path) -> list[_Batch]:
    """Largest first, so that the last to finish is a small one."""
    groups: list[list[Wheel]] = [[]]
    for wheel in sorted(wheels, key=lambda wheel: (-wheel.size, wheel.name)):
        full = len(groups[-1]) == _BATCH_WHEELS or sum(w.size for w in groups[-1]) + wheel.size > _BATCH_BYTES
        if groups[-1] and full:
            groups.append([])
        groups[-1].append(wheel)
    return [_Batch(tuple(group), folder / str(number)) for number, group in enumerate(groups)]


def _fetch_all(batches: Sequence[_Batch], fetch: Callable[[_Batch], None], on_bytes: OnBytes | None) -> None:
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wheels")
    futures = {pool.submit(fetch, batch): batch for batch in batches}
    try:
        pending: set[Future[None]] = set(futures)
        while pending:
            done, pending = wait(pending, timeout=_LOOK_SECONDS)
            if any(not future.cancelled() and future.exception() for future in done):
                for future in pending:
                    future.cancel()
            if on_bytes is not None:
                _report(futures, done, pending, on_bytes)
    except BaseException:  # Ctrl-C reaches this thread alone; the others wait for their pip
        pool.shutdown(wait=False, cancel_futures=True)
        started = [future for future in futures if not future.cancelled()]
        while wait(started, timeout=_LOOK_SECONDS).not_done:
            kill_running()
        raise
    pool.shutdown()
    for future in futures:
        if not future.cancelled():
            future.result()


def _report(
    futures: Mapping[Future[None], _Batch], done: set[Future[None]], pending: set[Future[None]], on_bytes: OnBytes
) -> None:
    for future in done:
        if not future.cancelled() and not future.exception():
            for wheel in futures[future].wheels:
                on_bytes(wheel.file, wheel.size, wheel.size)
    for future in pending:
        for wheel in futures[future].wheels:
            have = max((_size(path) for path in _named(futures[future].folder, wheel.file)), default=0)
            if have:
                on_bytes(wheel.file, min(have, wheel.size), wheel.size)


def _named(folder: Path, name: str) -> Iterator[Path]:
    """Files of this name below `folder`, where pip makes and removes folders meanwhile (os.walk passes over those)."""
    for found, _, files in os.walk(folder):
        if name in files:
            yield Path(found) / name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # pip moved it meanwhile
        return 0


def _fetch(batch: _Batch, store: Store, facts: BaseFacts, run: Runner, pip_env: Mapping[str, str]) -> None:
    pins = [pin(wheel.name, wheel.file, wheel.sha256) for wheel in batch.wheels]
    download(pins, batch.folder, facts, run=run, env=pip_env)
    for wheel in batch.wheels:
        path = batch.folder / wheel.file
        if not path.is_file():
            raise FetchError(
                "pip fetched this wheel under another name than the lock's",
                where=wheel.file,
                mend="run `packager lock` against the index that pip is configured with",
            )
        store.put(_chunks(path), sha256=wheel.sha256, name=wheel.file)
        path.unlink()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _offline(missing: Sequence[Wheel]) -> FetchError:
    files = sorted(wheel.file for wheel in missing)
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    total = sum(wheel.size for wheel in missing) / 1e6
    return FetchError(
        f"offline, and the store lacks {len(files)} wheels ({total:.1f} MB): {', '.join(files[:_NAMED])}{more}",
        mend="build once without --offline, or copy a store that has them (PACKAGER_CACHE)",
    )
