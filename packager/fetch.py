"""`python -m packager_runtime.fetch PACKAGE`: fills the store with what load() will need, and exits.

For init containers and image layers. `packager fetch` does the same on a host, with words for people.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .environ import cache_root
from .errors import PackagerError
from .manifest import Manifest, WeightsFile, read_manifest
from .runtime.loading import Loading, following
from .runtime.logs import event, log_to_stderr
from .store import Store
from .weights.leases import leased, names_of
from .weights.load import fetch_weights, lay_out
from .weights.watch import SILENT, Watch


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that is in the store now, `name` says from where; `found` when it was there before."""

    name: str
    sha256: str
    size: int
    found: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one package needs of the store, and the bytes that were transferred for it."""

    package: str
    files: tuple[FetchedFile, ...]
    transferred: int

    def bytes(self, *, found: bool) -> int:
        """The bytes of the files that were found, or of those that were not."""
        return sum(file.size for file in self.files if file.found is found)


def fetch_package(manifest: Manifest, store: Store, watch: Watch = SILENT) -> Fetched:
    """Bring all that load() of a package takes from the store into it, verified. Blocks.

    Raises LoadError, FetchError (offline) or IntegrityError; what was fetched before stays.
    """
    names = names_of(manifest)
    folders = [parts for parts in manifest.folders().values() if parts[0].ship == "on_load"]
    files = [file for parts in folders for part in parts for file in part.files]
    with leased(store, manifest.name, names):
        before = _inodes(files, store)
        transferred = sum(fetch_weights(parts, store, watch) for parts in folders)
        if os.access(store.root, os.W_OK):  # so that a load from a read-only mount of it needs no other folder
            for parts in folders:
                lay_out(parts, store)
        after = _inodes(files, store)
    sizes = {file.sha256: file.size for file in files}
    fetched = (
        FetchedFile(name, sha256, sizes[sha256], found=before.get(sha256) == after[sha256])
        for sha256, name in names.items()
    )
    return Fetched(manifest.name, tuple(fetched), transferred)


def _inodes(files: Sequence[WeightsFile], store: Store) -> Mapping[str, int]:
    """Which file lies under each digest: one that was damaged is replaced by another."""
    stored = (store.find(file.sha256, file.size) for file in files)
    return {one.sha256: one.path.stat().st_ino for one in stored if one is not None}


def main(arguments: list[str] | None = None) -> int:
    """Fetch for one package folder; gives the exit status. Says how it goes as the server does: JSON lines."""
    parser = argparse.ArgumentParser(prog="packager_runtime.fetch", description="Fill the store for a package.")
    parser.add_argument("package", type=Path, help="the package: the folder with model/manifest.json")
    parser.add_argument("--store", type=Path, help="the store's folder (default: PACKAGER_CACHE)")
    chosen = parser.parse_args(arguments)
    try:
        log_to_stderr(everything=True)
        loading, store = Loading(), Store(chosen.store or cache_root())
        manifest = read_manifest(chosen.package)
        with following(loading):
            done = fetch_package(manifest, store, loading)
    except PackagerError as error:
        mend = next((problem.mend for problem in error.problems if problem.mend), "")
        event("failed", logging.ERROR, reason=str(error), mend=mend)
        return 1
    fetched, found = done.bytes(found=False), done.bytes(found=True)
    event("fetched", model=done.package, store=str(store.root), files=len(done.files), fetched=fetched, found=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
