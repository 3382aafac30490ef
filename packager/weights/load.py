"""Weights on disk, verified: what `load()` does before an engine starts.

Every byte is hashed against the manifest once. A file that was verified is not hashed again
while its size, inode and times stay as they were.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..digest import CHUNK, canonical_json, sha256_hex
from ..errors import IntegrityError, LoadError
from ..manifest import Manifest, WeightsFile, WeightsManifest
from ..store import Store, StoredFile
from .schemes import open_source

OnBytes = Callable[[str, int, int], None]
"""Progress: title, bytes done, bytes in total."""

DATA_FOLDER = "data"
"""Where a package that ships its weights keeps them; Truss copies the same folder."""


ADAPTERS_FOLDER = "adapters"
"""Where LoRA adapters are kept below DATA_FOLDER, each in a folder of its name."""


def ensure_weights(manifest: Manifest, package: Path, store: Store, *, on_bytes: OnBytes | None = None) -> Path:
    """The folder that holds the manifest's weights, every file verified. Blocks.

    Returns `package` itself for an engine without weights. Raises LoadError when a file is
    missing or cannot be had, IntegrityError when bytes differ from the manifest.
    """
    if manifest.weights is None:
        return package
    return _ensure(manifest.weights, package / DATA_FOLDER, store, on_bytes)


def ensure_adapters(
    manifest: Manifest, package: Path, store: Store, *, on_bytes: OnBytes | None = None
) -> dict[str, Path]:
    """The folder of each LoRA adapter by name, every file verified. Blocks; raises as `ensure_weights` does."""
    folder = package / DATA_FOLDER / ADAPTERS_FOLDER
    return {name: _ensure(one, folder / name, store, on_bytes) for name, one in manifest.adapters.items()}


def _ensure(weights: WeightsManifest, root: Path, store: Store, on_bytes: OnBytes | None) -> Path:
    """The folder with all of `weights`: `root` when they ship in the package, else one in the store."""
    if weights.ship == "in_image":
        for file in weights.files:
            verify_file(root / file.path, file, store, on_bytes)
        return root
    for file in weights.files:
        _fetch(weights, file, store, on_bytes)
    return _tree(weights, store)


def verify_file(path: Path, file: WeightsFile, store: Store, on_bytes: OnBytes | None = None) -> None:
    """Check that `path` holds exactly the bytes of `file`. Raises LoadError or IntegrityError."""
    try:
        size = path.stat().st_size
        if size != file.size:
            raise _differs(path, f"it has {size} bytes, the manifest says {file.size}")
        found = file_digest(path, store, on_bytes)
    except OSError as error:
        raise LoadError(
            f"{file.path} is missing: {error.strerror}", where=str(path), mend="build the package again"
        ) from error
    if found != file.sha256:
        raise _differs(path, f"sha256 {found[:12]}, the manifest says {file.sha256[:12]}")


def find_intact(file: WeightsFile, store: Store, on_bytes: OnBytes | None = None) -> StoredFile | None:
    """`file` as the store has it, or None when the store lacks it or its copy was damaged since."""
    stored = store.find(file.sha256, file.size)
    return stored if stored is not None and file_digest(stored.path, store, on_bytes) == file.sha256 else None


def file_digest(path: Path, store: Store, on_bytes: OnBytes | None = None) -> str:
    """Hex sha256 of the file at `path`, remembered in `store` while size, inode and times stay as they are."""
    key, seen = _identity(path, store)
    memo = store.recall("digest", key)
    if isinstance(memo, list) and memo[1:] == seen:
        return str(memo[0])
    hasher, done = hashlib.sha256(), 0
    for chunk in _read(path):
        hasher.update(chunk)
        done += len(chunk)
        if on_bytes is not None:
            on_bytes(f"verify {path.name}", done, seen[0])
    store.remember("digest", key, [hasher.hexdigest(), *seen])
    return hasher.hexdigest()


def _identity(path: Path, store: Store) -> tuple[str, list[int]]:
    """Under which key the file's digest is remembered, and what must not have changed since."""
    status, real = path.stat(), path.resolve()
    seen = [status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns]
    if not real.is_relative_to(store.root.resolve()):
        # It tells of a change whose mtime was put back. But a new link moves it too, and packages are
        # linked from the store at each build: there only we write, and read-only.
        seen.append(status.st_ctime_ns)
    return sha256_hex(os.fsencode(real)), seen


def _fetch(weights: WeightsManifest, file: WeightsFile, store: Store, on_bytes: OnBytes | None) -> None:
    if find_intact(file, store, on_bytes) is not None:
        return
    chunks = open_source(weights.source).connect().read(file.path, 0, file.size, file.size)
    name = f"{weights.source}/{file.path}"
    stored = store.put(_counted(chunks, file, on_bytes), sha256=file.sha256, name=name)
    key, seen = _identity(stored.path, store)  # hashed while it was written: not again
    store.remember("digest", key, [file.sha256, *seen])


def _counted(chunks: Iterator[bytes], file: WeightsFile, on_bytes: OnBytes | None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        done += len(chunk)
        if on_bytes is not None:
            on_bytes(f"fetch {file.path}", done, file.size)
        yield chunk


def _tree(weights: WeightsManifest, store: Store) -> Path:
    """A folder with the files under their own names, as links into the store; made once, atomically."""
    identity = sha256_hex(canonical_json([[file.path, file.sha256] for file in weights.files]))
    final = store.root / "trees" / identity
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=".new-"))
    try:
        for file in weights.files:
            link = staging / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(store.path(file.sha256))
        staging.chmod(0o755)
        staging.rename(final)
    except OSError as error:
        if not final.is_dir():  # another process may have finished the same tree first
            raise LoadError(f"the weights cannot be laid out: {error.strerror}", where=str(final)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _differs(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"the weights are not what was packaged: {why}", where=str(path), mend="build the package again from its spec"
    )
