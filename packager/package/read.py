"""Reads a package folder back: what `packager build FOLDER`, `serve` and `inspect` start from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import LockError
from ..lock.lockfile import FILE_NAME, Lock, parse_lock
from ..manifest import MANIFEST_PATH, Manifest, read_manifest
from .output import settle


@dataclass(frozen=True, slots=True)
class Package:
    """A package that exists. `files` are all paths in it, sorted, relative, weights included."""

    folder: Path
    manifest: Manifest
    lock: Lock
    files: tuple[str, ...]


def is_package(folder: Path) -> bool:
    """Whether `folder` looks like one that `packager build` wrote."""
    return (folder / MANIFEST_PATH).is_file()


def read_package(folder: Path) -> Package:
    """The package at `folder`. Raises PackageError or LockError."""
    settle(folder.parent, folder.name)
    manifest = read_manifest(folder)
    lock_path = folder / FILE_NAME
    try:
        data = lock_path.read_bytes()
    except OSError as error:
        raise LockError(f"the package's lock cannot be read: {error.strerror}", where=str(lock_path)) from error
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Package(folder, manifest, parse_lock(data, where=str(lock_path)), visible(files))


def visible(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths, sorted, without what people keep out of sight (.git, .env, .netrc): it must never reach an image."""
    return tuple(sorted(path for path in paths if not any(_hidden(part) for part in path.split("/"))))


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"
