"""The output folder: results appear whole, together, or not at all.

Everything is written beside its final place and swapped in at the end. A kill at any moment leaves
the old result or the new one; what was under way is finished or cleared by the next build. One
build at a time holds a name, by a lock that the kernel drops with the process.
"""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BusyError, OutputError
from ..store import sync_folder, write_atomically

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OURS = "~"


class Output:
    """The results named `name` under `folder`, held by this process; made by `hold`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._staged: dict[Path, Path] = {}
        self._scratch: list[Path] = []

    def stage(self, final: str) -> Path:
        """A new empty folder that becomes `folder/final` at `commit`."""
        staging = Path(tempfile.mkdtemp(dir=self.folder, prefix=_prefix(self.name)))
        staging.chmod(0o755)
        self._staged[self.folder / final] = staging
        return staging

    def scratch(self) -> Path:
        """A new empty folder for what is under way, on the same disk: gone when the output is let go, or held again."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=_prefix(self.name)))
        self._scratch.append(folder)
        return folder

    def commit(self) -> None:
        """Swap everything staged into place. After the journal is on disk there is no way back."""
        for staging in self._staged.values():
            _sync_tree(staging)
        pairs = [[str(staging.name), final.name, staging.stat().st_ino] for final, staging in self._staged.items()]
        write_atomically(_journal(self.folder, self.name), json.dumps(pairs).encode())
        _roll_forward(self.folder, self.name)
        self._staged.clear()

    def discard(self) -> None:
        """Remove what was staged and not committed, and what was under way."""
        for folder in (*self._staged.values(), *self._scratch):
            shutil.rmtree(folder, ignore_errors=True)
        self._staged.clear()
        self._scratch.clear()


@contextmanager
def hold(folder: Path, name: str, *, waiting: Callable[[str], None] | None = None) -> Iterator[Output]:
    """Hold the output `name` under `folder`, made when missing; first finish what a killed build left.

    When another process holds it, `waiting` is told once and the lock is waited for; without
    `waiting` BusyError is raised at once. Raises OutputError for a name with a `~`, and when the folder cannot be written.
    """
    if _OURS in name:
        what = f"the name of the result has a {_OURS}, which names of what is under way have"
        raise OutputError(what, where=str(folder / name), mend="choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        _lock(descriptor, folder / name, waiting)
        _clear(folder, name)
        output = Output(folder, name)
        try:
            yield output
        except OSError as error:
            named = error.filename  # none where bytes were written: then it is the disk
            ours = not isinstance(named, str) or Path(named).absolute().is_relative_to(folder.absolute())
            if ours and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise _unwritable(folder, error) from error
            raise
        finally:
            output.discard()
    finally:
        os.close(descriptor)


def settle(folder: Path, name: str) -> None:
    """Finish what a kill cut off between the two swaps of a commit; nothing while a build is under way.

    For those who read a result without building: package and image are then of one build.
    """
    if _journal(folder, name).exists():
        with suppress(BusyError), hold(folder, name):
            pass


def _lock(descriptor: int, final: Path, waiting: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        if waiting is None:
            raise BusyError(
                f"another packager (process {holder}) is writing this output",
                where=str(final),
                mend="wait until it has ended",
            ) from None
        waiting(f"waiting for another packager (process {holder}) that is writing {final}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _clear(folder: Path, name: str) -> None:
    """Finish a commit that was cut off, then remove what never came to a commit."""
    try:
        _roll_forward(folder, name)
        ours = (_prefix(name), f".{_prefix(name)}")  # no pattern: a name may have a * in it
        for leftover in [path for path in folder.iterdir() if path.name.startswith(ours)]:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:  # a journal that was being written
                leftover.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _roll_forward(folder: Path, name: str) -> None:
    journal = _journal(folder, name)
    try:
        pairs = json.loads(journal.read_bytes())
    except FileNotFoundError:
        return
    for staging_name, final_name, inode in pairs:
        staging, final = folder / staging_name, folder / final_name
        # The inode tells a swap that was done from one that was not: after an exchange the staging
        # name still exists, but holds the old result.
        if staging.exists() and staging.stat().st_ino == inode:
            _swap(staging, final)
        sync_folder(folder)
    journal.unlink()
    for staging_name, _, _ in pairs:
        shutil.rmtree(folder / staging_name, ignore_errors=True)


def _swap(staging: Path, final: Path) -> None:
    if not final.exists():
        staging.rename(final)
        return
    if _exchange(staging, final):
        return
    # No atomic exchange on this file system: for an instant neither is there; the journal mends that.
    aside = staging.with_name(staging.name + ".old")
    final.rename(aside)
    staging.rename(final)
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Linux's renameat2(RENAME_EXCHANGE); False where kernel, libc or file system has none."""
    with suppress(AttributeError):
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
    return False


def _sync_tree(folder: Path) -> None:
    """Everything below `folder` on disk. Large files were synced when they were written."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def _prefix(name: str) -> str:
    # It is in no name: leftovers of `hello` are never taken for those of `hello.new`.
    return f".{name}{_OURS}"


def _journal(folder: Path, name: str) -> Path:
    return folder / f"{_prefix(name)}commit"


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the result cannot be written: {(error.strerror or str(error)).lower()}",
        where=str(folder),
        mend="choose another folder with --output",
    )
