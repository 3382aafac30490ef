"""Weights on disk, verified: what `load()` does before an engine starts.

Every byte is hashed against the manifest once. A file that was verified is not hashed again
while its size, inode and times stay as they were.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from .. import environ
from ..digest import canonical_json, sha256_hex
from ..errors import FetchError, IntegrityError, LoadError, PackageError
from ..manifest import ADAPTERS_FOLDER, Manifest, WeightsFile, WeightsManifest
from ..store import Store, unreadable
from .fetch import Wanted, disk_error, fetch_files
from .identity import Intact, OnBytes, file_digest
from .mirrors import open_locked
from .policy import check_names
from .watch import SILENT, Checks, Watch

Found = TypeVar("Found")

DATA_FOLDER = "data"
"""Where a package that ships its weights keeps them; Truss copies the same folder."""


def ensure_weights(manifest: Manifest, package: Path, store: Store, *, watch: Watch = SILENT) -> Path:
    """The folder that holds the manifest's weights, and its tokenizer among them, every file verified. Blocks.

    Returns `package` itself for an engine without weights. Raises LoadError when a file is missing or cannot be had,
    FetchError when it would have to be fetched and PACKAGER_OFFLINE forbids it, IntegrityError when bytes differ from
    the manifest.
    """
    parts = manifest.folders().get("")
    return package if parts is None else _ensure(parts, package / DATA_FOLDER, store, watch)


def ensure_adapters(manifest: Manifest, package: Path, store: Store, *, watch: Watch = SILENT) -> dict[str, Path]:
    """The folder of each LoRA adapter by name, every file verified. Blocks; raises as `ensure_weights` does."""
    folder = package / DATA_FOLDER / ADAPTERS_FOLDER
    return {name: _ensure((one,), folder / name, store, watch) for name, one in manifest.adapters.items()}


def fetch_weights(parts: Sequence[WeightsManifest], store: Store, watch: Watch = SILENT) -> int:
    """Bring every file of one folder's `parts` that is not there, intact, into the store.

    Gives the bytes that were transferred.
    """
    watch.phase("resolve")
    files = _files(parts)
    if problems := check_names(files):
        raise PackageError.collect(problems)
    watch.phase("verify")
    intact = Intact(files, store)
    missing = _missing(files, intact, store, watch)
    if not missing:
        intact.remember()
        return 0
    wanted = _wanted(parts, {file.path for file in missing})
    remote = [one.file.path for one in wanted if not one.source.uri.startswith("file://")]
    if environ.OFFLINE.get() == "1" and remote:
        named = ", ".join(remote[:3]) + (" ..." if len(remote) > 3 else "")
        what = f"{len(remote)} of {len(files)} files are not in the store, and PACKAGER_OFFLINE=1: {named}"
        mend = "fill the store with `packager fetch` where there is a network, and bring it here"
        raise FetchError(what, where=str(store.root), mend=mend)
    watch.phase("download")
    fetched = fetch_files(wanted, store, watch, on_stored=intact.note)
    # What another process fetched is looked at now, so that it is remembered: a read-only mount cannot do that later.
    _missing([file for file in missing if not intact.knows(file)], intact, store, watch)
    intact.remember()
    return fetched


def _files(parts: Sequence[WeightsManifest]) -> tuple[WeightsFile, ...]:
    return tuple(file for part in parts for file in part.files)


def _wanted(parts: Sequence[WeightsManifest], missing: Collection[str]) -> list[Wanted]:
    """The files at these paths, each with the source of its part."""
    found: list[Wanted] = []
    for part in parts:
        lacking = [file for file in part.files if file.path in missing]
        if lacking:
            source = open_locked(part.source, part.revision)
            found += [Wanted(file, source) for file in lacking]
    return found


def _ensure(parts: Sequence[WeightsManifest], root: Path, store: Store, watch: Watch) -> Path:
    """The folder with all files of `parts`: `root` when they ship in the package, else one in the store."""
    if parts[0].ship == "in_image":
        watch.phase("verify")
        files = _files(parts)
        checks = Checks(watch, files)
        _each(lambda file: checks.run(file, lambda told: verify_file(root / file.path, file, store, told)), files)
        return root
    fetch_weights(parts, store, watch)
    return lay_out(parts, store)


def _missing(files: Sequence[WeightsFile], intact: Intact, store: Store, watch: Watch) -> list[WeightsFile]:
    """Those that the store has not, or not intact. Raises LoadError."""
    again = environ.VERIFY.get() == "always"
    doubtful = [file for file in files if again or not intact.has(file)]
    lacking = {file.path for file in doubtful if intact.lacks(file)}  # no thread need look for thousands of them
    doubtful = [file for file in doubtful if file.path not in lacking]
    checks = Checks(watch, doubtful)
    try:
        found = _each(lambda file: checks.run(file, lambda told: intact.verify(file, told, again=again)), doubtful)
    except OSError as error:
        raise unreadable(error, store.root) from error
    lacking |= {file.path for file, there in zip(doubtful, found, strict=True) if not there}
    return [file for file in files if file.path in lacking]


def _each(do: Callable[[WeightsFile], Found], files: Sequence[WeightsFile]) -> list[Found]:
    """`do` for every file: a hash is one processor's work, so several at a time."""
    if not files:
        return []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(do, files))


def verify_file(path: Path, file: WeightsFile, store: Store, on_bytes: OnBytes | None = None) -> None:
    """Check that `path` holds exactly the bytes of `file`. Raises LoadError or IntegrityError."""
    try:
        size = path.stat().st_size
        if size != file.size:
            raise _differs(path, f"it has {size} bytes, the manifest says {file.size}")
        found = file_digest(path, store, on_bytes, again=environ.VERIFY.get() == "always")
    except OSError as error:
        raise LoadError(
            f"{file.path} is missing: {error.strerror}", where=str(path), mend="build the package again"
        ) from error
    if found != file.sha256:
        raise _differs(path, f"sha256 {found[:12]}, the manifest says {file.sha256[:12]}")


def lay_out(parts: Sequence[WeightsManifest], store: Store) -> Path:
    """A folder with the files of `parts` under their own names, as links into the store; made once, atomically.

    One that is there is taken only as it was made: where a store is copied, links may be lost or become files, which
    nobody verified. A store that cannot be written, or a file system without links, and no such folder yet: it is made
    beside the process's temporary files. Raises LoadError.
    """
    files = _files(parts)
    final = store.root / "trees" / sha256_hex(canonical_json([[file.path, file.sha256] for file in files]))
    # Relative: the store may be mounted elsewhere next time.
    links = {file.path: f"{'../' * (file.path.count('/') + 2)}sha256/{file.sha256[:2]}/{file.sha256}" for file in files}
    if _is_laid_out(final, links, store):
        return final
    try:
        return _make_tree(final, links, store)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_error(error, final) from error
    try:
        folder = Path(tempfile.mkdtemp(prefix="packager-weights-"))
        _link(folder, {file.path: str(store.path(file.sha256).absolute()) for file in files})
    except OSError as error:
        what = f"there is no place for links to the weights, in the store or elsewhere: {error.strerror or error}"
        mend = "fill the store with `packager fetch`, or let the process write temporary files (TMPDIR)"
        raise LoadError(what, where=str(final), mend=mend) from error
    return folder


def _is_laid_out(tree: Path, links: Mapping[str, str], store: Store) -> bool:
    """Whether the tree has these links and nothing else, and stands where they lead into the store."""
    found: dict[str, str] = {}
    folders = [""]
    try:
        if os.path.realpath(tree) != f"{os.path.realpath(store.root)}/trees/{tree.name}":
            return False
        while folders:
            start = folders.pop()
            with os.scandir(f"{tree}/{start}") as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{start}{entry.name}/")
                    else:
                        target = os.readlink(entry.path) if entry.is_symlink() else ""  # noqa: PTH115 -- of thousands
                        found[start + entry.name] = target
    except OSError:
        return False
    return found == links


def _make_tree(final: Path, links: Mapping[str, str], store: Store) -> Path:
    """Make the tree, and give it its name when it is whole; one of that name that is not goes. Raises OSError."""
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=".new-"))
    aside = staging.with_name(f"{staging.name}.old")
    try:
        _link(staging, links)
        staging.chmod(0o755)
        try:
            staging.rename(final)
        except OSError:
            if not _is_laid_out(final, links, store):  # else another process has finished the same tree first
                with suppress(FileNotFoundError):
                    final.rename(aside)
                staging.rename(final)
    finally:
        for rest in (staging, aside):
            shutil.rmtree(rest, ignore_errors=True)
            with suppress(OSError):
                rest.unlink()  # what stood there may have been a file or a link
    return final


def _link(folder: Path, links: Mapping[str, str]) -> None:
    for parent in {path.rpartition("/")[0] for path in links}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for path, target in links.items():
        os.symlink(target, f"{folder}/{path}")  # noqa: PTH211 -- of thousands


def _differs(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"the weights are not what was packaged: {why}", where=str(path), mend="build the package again from its spec"
    )
