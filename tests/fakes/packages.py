"""A minimal package folder: the manifest, the templates and the vendored container side, as the real writer lays them."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from packager.manifest import EngineManifest, Manifest, ServingManifest, WeightsFile, WeightsManifest

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("digest.py", "environ.py", "errors.py", "fetch.py", "manifest.py", "store.py")


def make_package(
    folder: Path,
    *,
    engine: str = "echo",
    options: dict[str, Any] | None = None,
    weights: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
    quantization: str = "none",
    source: Path | None = None,
    vendored: bool = True,
    **serving: int | str,
) -> Path:
    """Write a package named `hello` into `folder`.

    `weights` is a file or folder that is shipped inside it, `adapters` are folders of LoRA adapters by name;
    `source` is a folder that `load()` fetches weights.bin from.
    """
    (folder / "model").mkdir(parents=True)
    manifest = Manifest(
        name="hello",
        packager="0",
        engine=EngineManifest(engine, "1", options or {}, quantization),
        weights=_ship(weights, folder / "data") if weights else _fetched(source) if source else None,
        serving=make_serving(**serving),
        adapters={name: _ship(one, folder / "data/adapters" / name) for name, one in (adapters or {}).items()},
    )
    (folder / "model/manifest.json").write_bytes(manifest.to_bytes())
    if vendored:
        vendor(folder)
    return folder


@contextmanager
def slow_load(folder: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A package whose weights are a pipe that nobody writes to; calling the second lets the load go on, and fail."""
    source = folder / "source"
    source.mkdir()
    pipe = source / "weights.bin"
    os.mkfifo(pipe)

    def finish() -> None:
        with pipe.open("wb"):
            pass

    yield make_package(folder / "package", source=source), finish


def make_serving(*, api: str = "packager", server: str = "bentoml", **changed: Any) -> ServingManifest:
    numbers = {"port": 3000, "max_concurrency": 4, "max_queue": 4, "drain_seconds": 10} | changed
    return ServingManifest(server=server, api=api, **numbers)


def vendor(folder: Path) -> None:
    """Copy the templates, and the container side under its own import name."""
    shutil.copytree(ROOT / "truss_templates", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    runtime = folder / "packages/packager_runtime"
    runtime.mkdir(parents=True)
    (runtime / "__init__.py").write_text("")
    for name in WORDS:
        shutil.copyfile(ROOT / "packager" / name, runtime / name)
    for name in ("runtime", "weights"):
        shutil.copytree(ROOT / "packager" / name, runtime / name, ignore=shutil.ignore_patterns("__pycache__"))


def _ship(weights: Path, root: Path) -> WeightsManifest:
    """Copy the file, or the folder's files, to `root`."""
    root.mkdir(parents=True)
    entry = "." if weights.is_dir() else weights.name
    copied = shutil.copytree if weights.is_dir() else shutil.copyfile
    copied(weights, root / entry, **({"dirs_exist_ok": True} if weights.is_dir() else {}))
    files = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            files.append(WeightsFile(path.relative_to(root).as_posix(), len(data), sha256(data).hexdigest()))
    return WeightsManifest("file://weights", "", "in_image", entry, tuple(files))


def _fetched(source: Path) -> WeightsManifest:
    return WeightsManifest(f"file://{source}", "", "on_load", "weights.bin", (WeightsFile("weights.bin", 1, "0" * 64),))
