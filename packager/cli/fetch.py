"""`packager fetch`: the weights of packages into the store, before anything is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Console

if TYPE_CHECKING:
    from ..fetch import Fetched
    from ..manifest import Manifest

_SHOWN = 20
"""Files that are listed one by one."""


@click.command("fetch")
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...")
@click.option("--store", "folder", type=click.Path(path_type=Path), help="Folder of the store; default PACKAGER_CACHE.")
@click.option("--json", "as_json", is_flag=True, help="Print what is in the store now, and what was fetched, as JSON.")
@click.pass_obj
def command(console: Console, packages: tuple[str, ...], *, folder: Path | None, as_json: bool) -> None:
    """Bring the weights that packages load into the store, verified.

    PACKAGE is a package folder, the name of one in dist/, or a spec with its lock (a name from `packager catalog`, a
    packager.yaml or its folder). What is there already is not fetched again; what was broken off goes on.
    """
    from ..environ import cache_root
    from ..fetch import fetch_package
    from ..store import Store
    from .progress import Progress
    from .watching import Shown

    store = Store(folder or cache_root())
    manifests = [_manifest(one) for one in packages]
    with Progress.start(quiet=console.quiet) as progress:
        done = [fetch_package(manifest, store, Shown(progress, manifest.name)) for manifest in manifests]
    if as_json:
        console.data({"store": str(store.root), "packages": [_value(one) for one in done]})
        return
    for manifest, one in zip(manifests, done, strict=True):
        _show(manifest, one, console)
    console.say(f"the store is {store.root}")


def _manifest(named: str) -> "Manifest":
    """What the package or the locked spec of this name loads. Raises PackageError, SpecError or DriftError."""
    from ..manifest import MANIFEST_PATH, read_manifest
    from ..spec.load import SPEC_NAME

    path = Path(named)
    is_spec = path.is_file() or (path / SPEC_NAME).is_file()
    for folder in (path, *([] if is_spec else [Path("dist") / named])):
        if (folder / MANIFEST_PATH).is_file():
            return read_manifest(folder)
    return _locked(_find(named))


def _find(named: str) -> Path:
    from ..catalog import find
    from ..errors import PackageError, SpecError
    from ..manifest import MANIFEST_PATH

    try:
        return find(named)
    except SpecError as error:
        built = sorted(path.name for path in Path("dist").glob("*") if (path / MANIFEST_PATH).is_file())
        mend = f"dist has {', '.join(built)}" if built else "build it with `packager build`, or give its folder"
        raise PackageError("no package, spec or catalog entry has this name", where=named, mend=mend) from error


def _locked(spec: Path) -> "Manifest":
    from ..lock.keep import check_lock, read_lock
    from ..package.plan import make_manifest
    from ..spec.load import load_spec

    file = load_spec(spec)
    check_lock(file)
    lock = read_lock(file)
    if lock is None:
        raise AssertionError("check_lock refuses a spec without a lock")
    return make_manifest(file.spec, lock, "")


def _value(done: "Fetched") -> dict[str, Any]:
    return {
        "package": done.package,
        "bytes": {
            "fetched": done.bytes(found=False),
            "found": done.bytes(found=True),
            "transferred": done.transferred,
        },
        "files": [{"name": one.name, "sha256": one.sha256, "size": one.size, "found": one.found} for one in done.files],
    }


def _show(manifest: "Manifest", done: "Fetched", console: Console) -> None:
    if not done.files:
        why = "has no weights" if manifest.weights is None else "has its weights in the package"
        console.result(f"{done.package} {why}: there is nothing to fetch")
        return
    for one in done.files[:_SHOWN]:
        console.result(f"{'found' if one.found else 'fetched':7}  {one.size:>15,}  {one.sha256[:12]}  {one.name}")
    if len(done.files) > _SHOWN:
        console.result(f"and {len(done.files) - _SHOWN} more (--json lists all)")
    fetched, found = done.bytes(found=False), done.bytes(found=True)
    resumed = fetched - done.transferred
    note = f" ({resumed:,} of them came with an earlier attempt or another process)" if resumed > 0 else ""
    console.result(f"{done.package}: fetched {fetched:,} bytes{note}, found {found:,} bytes")
