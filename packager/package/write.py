"""Writes a planned package into a folder, and guards what a person edited there."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import OutputError, PackageError
from ..oci.layout import is_layout
from ..store import Store, link_or_copy
from ..weights.load import verify_file
from .plan import LISTING, PackagePlan


def write_package(
    plan: PackagePlan, folder: Path, store: Store, *, on_bytes: Callable[[str, int, int], None] | None = None
) -> None:
    """Write `plan` into the empty folder `folder`; weights are linked from the store where that works.

    Raises PackageError when the store lacks weights, IntegrityError when they changed.
    """
    for planned in plan.weights:
        stored = store.find(planned.file.sha256, planned.file.size)
        if stored is None:
            raise PackageError(
                f"the store lacks the weights file {planned.path}",
                where=str(store.root),
                mend="run `packager build`, which brings it there",
            )
        verify_file(stored.path, planned.file, store, on_bytes)
        target = folder / planned.path
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(stored.path, target)
    for path, data in plan.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o644)
    for inner in (folder, *folder.rglob("*")):
        if inner.is_dir():
            inner.chmod(0o755)


def edited_files(folder: Path) -> tuple[str, ...]:
    """Paths in a written package that are no longer what packager wrote: changed, gone, or added.

    Weights are not looked into: they may be links into the store, and large.
    Raises OutputError when `folder` holds something that is no package.
    """
    if not folder.exists():
        return ()
    try:
        lines = (folder / LISTING).read_text("utf-8").splitlines()
    except OSError as error:
        if folder.is_dir() and not any(folder.iterdir()):
            return ()
        raise OutputError(
            "something that packager did not write stands where the package goes",
            where=str(folder),
            mend="move it away, or choose another folder with --output",
        ) from error
    listed = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    added = {path for path in found - listed.keys() - {LISTING} if "__pycache__" not in path.split("/")}
    changed = {
        path for path, digest in listed.items() if not path.startswith("data/") and _digest(folder / path) != digest
    }
    return tuple(sorted(added | changed))


def keep_edits(final: Path, *, force: bool) -> None:
    """Refuse to overwrite what a person changed in the package, or put where the image goes."""
    layout = final.with_name(f"{final.name}.oci")
    if layout.exists() and not is_layout(layout):
        what = "something that packager did not write stands where the image goes"
        mend = "move it away, or choose another folder with --output"
        raise OutputError(what, where=str(layout), mend=mend)
    edited = () if force else edited_files(final)
    if edited:
        raise OutputError(
            f"the package was edited by hand: {', '.join(edited[:5])}",
            where=str(final),
            mend=f"build it as it stands with `packager build {final}`, or overwrite it with --force",
        )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"
