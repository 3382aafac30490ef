"""Packages that load their weights from a folder, and a store to load them into."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from packager.manifest import MANIFEST_PATH, WeightsFile, WeightsManifest, read_manifest

from .packages import make_package


def loading_package(
    folder: Path, source: Path, *, address: str = "", name: str = "hello", vendored: bool = False
) -> Path:
    """A package in `folder` whose load() fetches every file of `source` (from `address`, if that is another)."""
    make_package(folder, source=source, vendored=vendored)
    files = tuple(
        WeightsFile(path.relative_to(source).as_posix(), path.stat().st_size, sha256(path.read_bytes()).hexdigest())
        for path in sorted(source.rglob("*"))
        if path.is_file()
    )
    weights = WeightsManifest(address or f"file://{source}", "", "on_load", ".", files)
    manifest = replace(read_manifest(folder), name=name, weights=weights)
    (folder / MANIFEST_PATH).write_bytes(manifest.to_bytes())
    return folder


def write_weights(folder: Path, **files: bytes) -> Path:
    """A folder of weights: `a=b"..."` is the file a.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.bin").write_bytes(data)
    return folder
