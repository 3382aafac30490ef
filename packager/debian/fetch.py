"""From locked packages to their archives in the store."""

import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

from ..command import Runner, kill_running
from ..errors import FetchError, Problem, ResolveError
from ..store import Store
from .apt import Apt, complaints
from .disk import writing
from .resolve import DebianPackage

_BATCH = 8
"""Packages a run of apt: few enough that progress moves, many enough that starting apt is not the cost."""
_LANES = 4
_LOOK_SECONDS = 0.1
_OUT_OF_REACH = re.compile(r"Failed to fetch \S+\s+(?!\s|404 )")
_RELOCK = "mirrors drop old packages: run `packager lock` again, or point PACKAGER_DEBIAN_MIRROR at one that keeps them"


def apt_state(store: Store) -> Path:
    """The folder of packager's own apt, beside the store."""
    return store.root / "apt"


def fetch_packages(
    packages: Sequence[DebianPackage],
    store: Store,
    *,
    mirror: str | None,
    run: Runner,
    offline: bool,
    on_bytes: Callable[[int], None],
) -> dict[str, Path]:
    """Where the archive of each package lies in the store, by sha256; what is missing is fetched with apt.

    `on_bytes` is told bytes as they arrive (for packages that were in the store too), from the calling thread.
    Raises FetchError naming every package that cannot be had, IntegrityError when a mirror serves other bytes,
    OutputError when the store cannot be written.
    """
    found = {item.sha256: item.path for package in packages if (item := store.find(package.sha256, package.size))}
    for package in packages:
        if package.sha256 in found:
            on_bytes(package.size)
    missing = [package for package in packages if package.sha256 not in found]
    if not missing:
        return found
    if offline:
        raise FetchError.collect(
            Problem("this Debian package is not in the local store", package.file, "run it once without --offline")
            for package in missing
        )
    apt = Apt(apt_state(store), _architecture(missing), mirror, run)
    try:
        with (
            writing(store.root),
            apt.exclusive(),
            tempfile.TemporaryDirectory(dir=apt.root, prefix="download.") as folder,
        ):
            found.update(_download(apt, missing, Path(folder), store, on_bytes))
    except ResolveError as error:  # no apt, or a mirror that is no address
        raise FetchError.collect(error.problems) from error
    return found


def _architecture(packages: Iterable[DebianPackage]) -> str:
    # A set of nothing but architecture-independent packages is the same on every architecture.
    return next((package.architecture for package in packages if package.architecture != "all"), "amd64")


def _download(
    apt: Apt, packages: Sequence[DebianPackage], folder: Path, store: Store, on_bytes: Callable[[int], None]
) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    left, reasons = list(packages), ""
    # Lists from an earlier run spare the update; they may be older or newer than the lock.
    for refresh in (False, True) if apt.has_lists() else (True,):
        update = apt.update() if refresh else None
        # Closed even when storing fails, so that no apt writes on into a folder that is being removed.
        with closing(_fetch_all(apt, left, folder)) as fetched:
            for batch, said in fetched:
                reasons = said or reasons
                for package in batch:
                    path = folder / package.file
                    # A cut connection leaves a shorter file; one of full size with other bytes is the store's to refuse.
                    if path.is_file() and path.stat().st_size == package.size:
                        found[package.sha256] = store.add(path, sha256=package.sha256).path
                        path.unlink()
                        on_bytes(package.size)
        left = [package for package in packages if package.sha256 not in found]
        if not left:
            return found
        if update and (update.returncode or (not apt.has_lists() and _OUT_OF_REACH.search(update.stderr))):
            reasons = complaints(update)
    if _OUT_OF_REACH.search(reasons):
        raise FetchError(
            f"no Debian mirror can be reached for {len(left)} locked packages: {reasons.partition('; ')[0]}",
            where=left[0].file,
            mend="check the network and that `apt-get update` works on this machine, or set PACKAGER_DEBIAN_MIRROR",
        )
    raise FetchError.collect(
        Problem(f"the Debian mirror has no {package.name} {package.version}: {reasons}", package.file, _RELOCK)
        for package in left
    )


def _fetch_all(
    apt: Apt, packages: Sequence[DebianPackage], folder: Path
) -> Generator[tuple[Sequence[DebianPackage], str], None, None]:
    """Each batch and what apt said of it, in order, while others are still under way."""
    batches = [packages[start : start + _BATCH] for start in range(0, len(packages), _BATCH)]
    pool = ThreadPoolExecutor(_LANES)
    futures = [pool.submit(_fetch_batch, apt, batch, folder) for batch in batches]
    try:
        for batch, future in zip(batches, futures, strict=True):
            yield batch, future.result()
    except BaseException:  # Ctrl-C reaches this thread alone; the others wait for their apt
        pool.shutdown(wait=False, cancel_futures=True)
        while wait([future for future in futures if not future.cancelled()], timeout=_LOOK_SECONDS).not_done:
            kill_running()
        raise
    pool.shutdown()


def _fetch_batch(apt: Apt, batch: Sequence[DebianPackage], folder: Path) -> str:
    """Leave in `folder` what can be had of `batch`; the answer is apt's complaints."""
    done = apt.call("download", *(f"{package.name}={package.version}" for package in batch), cwd=folder)
    if not done.returncode:
        return ""
    if len(batch) == 1 or done.returncode < 0:  # a signal ended it: whoever sent it wants no more tries
        return complaints(done)
    # One unknown version fails the whole run: ask one by one, so that only what is gone is reported.
    return "; ".join(filter(None, (_fetch_batch(apt, [package], folder) for package in batch)))
