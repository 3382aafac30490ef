"""`make catalog`: every example locked, packaged and imaged, by the commands that a user types, and a table of what came out.

    python .ci/catalog.py [NAME ...] [--stand-ins] [--jobs N] [--work DIR] [--json FILE]

Weights come from a hub on loopback and vendors' images from a registry on loopback, both of small stand-ins
(tests/fakes/catalog.py); wheels are the real ones, from the index that pip is configured with, and stay in the store
(PACKAGER_CACHE). With `--stand-ins` wheels too are small, from a folder: that is how CI runs it
(tests/integration/test_catalog.py). Debian packages are real in both.

An example with a refusal.txt must be refused, in these words. Nothing is written into the examples: each is copied to
DIR/NAME (a temporary folder) and built there, where its dist is removed as soon as it is read; a real image has
gigabytes. Exits with 1 when a row is not as it should be.

It stands here and not among the benchmarks because it is right or wrong: the seconds say where the time went, no more.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.catalog import Example, localized, read_examples, stand_in_world, write_index

from packager.catalog import REFUSAL
from packager.digest import sha256_hex

ROOT = Path(__file__).resolve().parents[1]
NEEDED = 20_000_000_000
"""Bytes of disk that all rows take at once with real wheels: those in the store, and one image."""
_WEIGHTS = ("HF_", "PACKAGER_OFFLINE", "PACKAGER_REGISTRY_MIRRORS", "PACKAGER_WEIGHTS_MIRRORS")
_WHEELS = ("PIP_", "UV_")


class RowError(Exception):
    """A row is not as it should be; the text says how."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image; `size` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Row:
    """One example: what came out. `outcome` is built, refused or failed; `package` is the sha256 of its files.sha256."""

    name: str
    engine: str
    outcome: str
    package: str = ""
    image: str = ""
    layers: tuple[Layer, ...] = ()
    seconds: float = 0.0
    said: str = ""

    @property
    def size(self) -> int:
        """Bytes of the image's layers."""
        return sum(layer.size for layer in self.layers)


def run_row(example: Example, work: Path, env: Mapping[str, str]) -> Row:
    """Lock and build a copy of `example` in `work`, or have it refused."""
    started = time.monotonic()
    folder = work / example.name
    shutil.copytree(example.folder, folder, ignore=shutil.ignore_patterns("packager.lock", "dist"))
    (folder / "packager.yaml").write_text(localized(example))
    row = partial(Row, example.name, example.spec.engine.kind)
    try:
        if example.refusal is not None:
            _refused(example, folder, env)
            return row("refused", seconds=time.monotonic() - started)
        result = _built(example, folder, env)
    except RowError as error:
        return row("failed", seconds=time.monotonic() - started, said=str(error))
    finally:
        shutil.rmtree(folder / "dist", ignore_errors=True)
    return row("built", *result, seconds=time.monotonic() - started)


def _refused(example: Example, folder: Path, env: Mapping[str, str]) -> None:
    done = _packager("lock", "--quiet", cwd=folder, env=env)
    if done.returncode == 0:
        raise RowError(f"it was locked, and {REFUSAL} says that it is refused")
    if done.stderr.strip() != (example.refusal or "").strip():
        raise RowError(f"it was refused otherwise than {REFUSAL} says:\n{done.stderr.strip()}")


def _built(example: Example, folder: Path, env: Mapping[str, str]) -> tuple[str, str, tuple[Layer, ...]]:
    """The digest of the package, that of the image, and the image's layers."""
    for argv in (("lock", "--quiet"), ("build", "--locked", "--no-docker", "--quiet", "--json")):
        done = _packager(*argv, cwd=folder, env=env)
        if done.returncode != 0:
            raise RowError(f"`packager {argv[0]}` exits with {done.returncode}:\n{done.stderr.strip()}")
    built: dict[str, Any] = json.loads(done.stdout)
    _check_builds(example, json.loads((folder / "packager.lock").read_text()))
    package, layout = folder / built["package"], folder / built["layout"]
    left = {path.name for path in (folder / "dist").iterdir() if not path.name.startswith(".")}
    if left != {package.name, layout.name}:
        raise RowError(f"dist holds {', '.join(sorted(left))}: not a package and its layout alone")
    manifest = json.loads((layout / "blobs" / built["manifest_digest"].replace(":", "/")).read_bytes())
    layers = tuple(Layer(layer["digest"], layer["size"]) for layer in manifest["layers"])
    return sha256_hex((package / "files.sha256").read_bytes()), built["manifest_digest"], layers


def _check_builds(example: Example, lock: Mapping[str, Any]) -> None:
    """On a GPU nothing was taken that was built for CPU alone, though it may count as newer."""
    if example.spec.hardware.gpu is None:
        return
    if wrong := [wheel["file"] for wheel in lock["wheels"] if wheel["version"].endswith("+cpu")]:
        raise RowError(f"it names a GPU, and its lock has {', '.join(wrong)}")


def _packager(*argv: str, cwd: Path, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "packager", *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def environment(work: Path, world: Mapping[str, str], index: Mapping[str, str]) -> dict[str, str]:
    """What the commands run in: this one's, but for where weights and bases come from, and wheels where `index` says it."""
    ours = (*_WEIGHTS, *(_WHEELS if index else ()))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home = {"HF_HOME": str(work / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **home, "PYTHONPATH": str(ROOT), **world, **index}


def shared(rows: Iterable[Row]) -> dict[str, tuple[int, int]]:
    """Layers and bytes of each row's image that the image of a row before it has too."""
    seen: set[str] = set()
    found = {}
    for row in rows:
        known = [layer for layer in row.layers if layer.digest in seen]
        found[row.name] = (len(known), sum(layer.size for layer in known))
        seen |= {layer.digest for layer in row.layers}
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    head = ["name", "engine", "outcome", "package", "image", "MB", "layers", "shared", "MB shared", "s"]
    common = shared(rows)
    cells = [head, ["---"] * 5 + ["---:"] * 5]
    for row in rows:
        line = [row.name, row.engine, row.outcome, row.package[:12], row.image.removeprefix("sha256:")[:12]]
        if row.layers:
            layers, size = common[row.name]
            line += [f"{row.size / 1e6:,.1f}", str(len(row.layers)), str(layers), f"{size / 1e6:,.1f}"]
        else:
            line += [""] * 4
        cells.append([*line, f"{row.seconds:.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def summary(rows: Sequence[Row]) -> str:
    """All images together, and what they have on disk or in a registry."""
    distinct = {layer.digest: layer.size for row in rows for layer in row.layers}
    total, built = sum(row.size for row in rows), sum(row.outcome == "built" for row in rows)
    return f"{built} images of {total / 1e6:,.1f} MB together; each layer once, they are {sum(distinct.values()) / 1e6:,.1f} MB"


def to_json(rows: Sequence[Row], *, stand_ins: bool) -> dict[str, Any]:
    """The same as plain values."""
    common = shared(rows)
    return {
        "wheels": "stand-ins" if stand_ins else "real",
        "rows": [
            {**asdict(row), "size": row.size, "shared_layers": common[row.name][0], "shared": common[row.name][1]}
            for row in rows
        ],
    }


def run_all(examples: Sequence[Example], work: Path, env: Mapping[str, str], jobs: int) -> list[Row]:
    """Every example's row, `jobs` at once; told of as they end."""

    def tell(row: Row) -> Row:
        print(f"{row.name}: {row.outcome}, {row.seconds:.0f} s", file=sys.stderr)
        return row

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda example: tell(run_row(example, work, env)), examples))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="examples; all without")
    parser.add_argument("--stand-ins", action="store_true", help="small stand-ins for wheels too")
    parser.add_argument("--jobs", type=int, default=1, help="rows at once")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to build; a new folder, and kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, with each layer")
    parser.add_argument("--examples", type=Path, metavar="DIR", default=ROOT / "examples", help="other examples")
    return parser.parse_args()


def main() -> int:
    """Run, print, and say by the exit code whether all is as it should be."""
    options = _options()
    examples = [one for one in read_examples(options.examples) if not options.names or one.name in options.names]
    if unknown := set(options.names) - {one.name for one in examples}:
        print(f"no example is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="packager-catalog-")))
        work.mkdir(parents=True, exist_ok=True)
        index = write_index(work / "index", examples) if options.stand_ins else {}
        if not options.stand_ins:
            free = shutil.disk_usage(work).free / 1e9
            what = f"real wheels: all rows take up to {NEEDED / 1e9:.0f} GB of disk, in the store and for one image at a time"
            print(f"{what}; {free:.0f} GB are free", file=sys.stderr)
        world = stack.enter_context(stand_in_world(examples))
        rows = run_all(examples, work, environment(work, world, index), options.jobs)
    print(table(rows), summary(rows), sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps(to_json(rows, stand_ins=options.stand_ins), indent=1))
    failed = [row for row in rows if row.outcome == "failed"]
    for row in failed:
        print(f"\n{row.name}: {row.said}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
