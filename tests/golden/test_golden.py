"""Golden cases: what the examples become, as a listing that people can read and digests that cannot lie.

`pytest tests/golden --update-golden` writes the expected files anew; the diff is what the review reads.
Wheels, weights and base are small stand-ins with fixed bytes, and the container side is one line, so that a
change of listing or digest means that packager itself made other bytes.

Cases made by hand have everything in their listings. The examples of the catalog are in catalog/NAME.txt each, shorter:
what is the same in all of them stands there as a digest. Their weights are locked from a hub on loopback.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.bases import make_base
from fakes.catalog import Example, localized, read_examples, stand_in_world
from fakes.compiled import TENSORRT, TENSORRT_LLM, description

from packager.command import Completed
from packager.digest import hash_file, sha256_hex
from packager.facts import BaseFacts
from packager.image.assemble import assemble_image
from packager.image.plan import plan_image
from packager.lock.drift import LAYER_FORMAT, lock_inputs
from packager.lock.lockfile import ImageBaseLock, Lock, WeightsLock, parse_lock
from packager.lock.sources import fetch_sources
from packager.lock.tools import Tools
from packager.lock.weights import lock_adapters, lock_weights
from packager.manifest import WeightsFile
from packager.oci.image import Image
from packager.oci.inspect import read_base_facts
from packager.oci.layout import write_layout
from packager.package.plan import Ingredients, plan_package
from packager.package.read import read_package
from packager.package.write import write_package
from packager.recipes import RECIPES
from packager.spec.load import SpecFile, load_spec
from packager.store import Store
from packager.weights.chunks import PieceHasher, encode_chunks, file_chunks
from packager.wheels.contest import find_contests
from packager.wheels.read import read_wheel
from packager.wheels.wheel import Wheel

HERE = Path(__file__).parent
EXAMPLES = [one for one in read_examples(HERE.parents[1] / "examples") if one.files and one.refusal is None]
CASES = sorted(path.parent.name for path in HERE.glob("*/packager.yaml"))
WEIGHTS = b"GGUF stand-in for the weights\n" * 3
FOLDERS = {
    "model": ("config.json", "model.safetensors", "modeling_own.py"),
    "lora": ("adapter_config.json", "adapter_model.safetensors"),
    "hf://ada/model": ("config.json", "model.safetensors"),
    "hf://ada/mistral-7b-trt": ("config.json", "engine.json", "rank0.engine"),
    "hf://mistralai/Mistral-7B-Instruct-v0.2": ("generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    "s3://models/lora": ("adapter_config.json", "adapter_model.safetensors"),
}
INGREDIENTS = Ingredients(
    templates={"model/model.py": b"# stand-in for truss_templates/model/model.py\n", "service.py": b"# stand-in\n"},
    runtime={"__init__.py": b'"""Stand-in for the container side."""\n'},
    chat_template=None,
    version="0.0.golden",
)


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, tmp_path: Path, update_golden: bool) -> None:
    file = load_spec(HERE / case)
    store = Store(tmp_path / "store")
    lock = replace(make_lock(file, store, tmp_path), **stand_in_weights(file, store))
    plan = plan_package(file.spec, lock, INGREDIENTS)
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(plan, folder, store)
    package = read_package(folder)
    assert parse_lock(lock.to_bytes(), where="lock") == lock
    image = assemble_image(
        plan_image(package.manifest, package.lock, package.files), package, tools(store), beside=tmp_path
    )
    compare(HERE / case / "lock.json", lock.to_bytes().decode(), update_golden)
    compare(HERE / case / "package.txt", "".join(package_listing(folder)), update_golden)
    compare(HERE / case / "image.txt", "".join(image_listing(image)), update_golden)


@pytest.mark.parametrize("example", EXAMPLES, ids=[one.name for one in EXAMPLES])
def test_example(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update_golden: bool) -> None:
    spec = tmp_path / "spec"
    shutil.copytree(example.folder, spec, ignore=shutil.ignore_patterns("packager.lock", "dist"))
    (spec / "packager.yaml").write_text(localized(example))
    file, store = load_spec(spec), Store(tmp_path / "store")
    lock = make_lock(file, store, tmp_path)
    # A hub of its own: what a commit is called must not depend on other examples.
    with stand_in_world([example]) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        online = replace(tools(store), offline=False)
        weights, tokenizer = lock_weights(file, online)
        lock = replace(lock, weights=weights, tokenizer=tokenizer, adapters=lock_adapters(file, online))
        fetch_sources(lock, file, online)
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(plan_package(file.spec, lock, ingredients(file)), folder, store)
    package = read_package(folder)
    plan = plan_image(package.manifest, package.lock, package.files)
    image = assemble_image(plan, package, tools(store), beside=tmp_path)
    compare(
        HERE / "catalog" / f"{example.name}.txt",
        "".join([*short_package(folder), *short_image(image)]),
        update_golden,
    )


def test_every_listing_is_an_examples() -> None:
    assert {path.stem for path in (HERE / "catalog").glob("*.txt")} <= {one.name for one in EXAMPLES}


def ingredients(file: SpecFile) -> Ingredients:
    template = file.spec.weights.chat_template if file.spec.weights else None
    return replace(INGREDIENTS, chat_template=(file.folder / template).read_bytes() if template else None)


def short_package(folder: Path) -> Iterator[str]:
    """Every file with its digest, then the manifest without the digests of weights."""
    yield from digests(folder)
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    for part in (manifest["weights"], manifest["tokenizer"], *manifest["adapters"].values()):
        if part is not None:
            part["files"] = [one["path"] for one in part["files"]]
            part["compiled"] = part["compiled"] and part["compiled"]["limits"]
    yield f"\n--- model/manifest.json, shortened\n{json.dumps(manifest, indent=1)}\n"


def short_image(image: Image) -> Iterator[str]:
    """Digests, what is run, and the layers."""
    config = json.loads(image.config)["config"]
    yield f"\n--- image\nmanifest {image.manifest_digest}\nconfig   {image.config_digest}\n"
    yield f"{json.dumps(config['Entrypoint'])}\n{json.dumps(config['ExposedPorts'])}\n"
    for layer in image.layers:
        yield f"{layer.digest[:23]}  {layer.size:>6}  {layer.title}\n"


def make_lock(file: SpecFile, store: Store, folder: Path) -> Lock:
    """The lock that resolving would give, were the index and the mirrors our few wheels and one base; without weights."""
    vendor = {"tensorrt": TENSORRT, "tensorrt-llm": TENSORRT_LLM} if RECIPES[file.spec.engine.kind].vendor else {}
    base = make_base(installed={"orjson": "3.10.0", "uvicorn": "0.34.0", **vendor})
    write_layout(base, folder / "base.oci")
    # Whatever base the spec names, this one is found for it.
    store.remember("layout", base.manifest_digest.removeprefix("sha256:"), str(folder / "base.oci"))
    facts = read_base_facts(base)
    wheels = tuple(sorted((lock_wheel(path, store) for path in (HERE / "wheels").glob("*.whl")), key=lambda w: w.name))
    wheels = tuple(wheel for wheel in wheels if wheel.name not in facts.installed)
    installed = {wheel.name: read_wheel(store.path(wheel.sha256), facts) for wheel in wheels}
    return Lock(
        layer_format=LAYER_FORMAT,
        inputs=lock_inputs(file.spec),
        base=ImageBaseLock("layout", base.manifest_digest),
        facts=facts,
        wheels=wheels,
        contests=find_contests(installed),
        requirements=tuple(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in wheels),
        weights=None,
    )


def stand_in_weights(file: SpecFile, store: Store) -> dict[str, Any]:
    """Weights, tokenizer and adapters for the lock."""
    weights = file.spec.weights
    if weights is None:
        return {}
    adapters = {one.name: lock_files(one.source, store) for one in weights.adapters}
    tokenizer = None if weights.tokenizer is None else lock_files(weights.tokenizer, store)
    return {"weights": lock_files(weights.source, store), "tokenizer": tokenizer, "adapters": adapters}


def lock_files(source: str, store: Store) -> WeightsLock:
    """Stand-ins for the file at `source`, or for the files of the folder there; of the hub's, small ones were read."""
    name, hub = source.removeprefix("file://"), source.startswith("hf://")
    found = []
    for path in FOLDERS.get(name, (name,)):
        data, pieces = WEIGHTS + path.encode() if name in FOLDERS else WEIGHTS, PieceHasher()
        stored = store.put([data])
        if hub and path.endswith(".json"):
            pieces.update(data)
        found.append(WeightsFile(path, stored.size, stored.sha256, encode_chunks(file_chunks(pieces.finish()))))
    compiled = description() if "engine.json" in FOLDERS.get(name, ()) else None
    return WeightsLock(source, "c0ffee" + "0" * 34 if hub else "", tuple(found), compiled=compiled)


def lock_wheel(path: Path, store: Store) -> Wheel:
    stored = store.add(path)
    name, version = path.name.split("-")[:2]
    return Wheel(name.replace("_", "-"), version, path.name, stored.size, stored.sha256)


def tools(store: Store) -> Tools:
    def run(argv: object, **_: object) -> Completed:
        raise AssertionError(f"a golden build runs no program: {argv}")

    return Tools(store=store, run=run, offline=True)


def digests(folder: Path) -> Iterator[str]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest, size = hash_file(path)
        yield f"{digest[:16]}  {size:>6}  {path.relative_to(folder).as_posix()}\n"


def package_listing(folder: Path) -> Iterator[str]:
    """Every file with its digest; the text of those that packager writes for this case."""
    yield from digests(folder)
    for name in ("model/manifest.json", "config.yaml", "bentofile.yaml", "Dockerfile", "README.md", "requirements.txt"):
        yield f"\n--- {name}\n{(folder / name).read_text()}"


def image_listing(image: Image) -> Iterator[str]:
    """Digests, the configuration, and every entry of every layer."""
    yield f"manifest {image.manifest_digest}\nconfig   {image.config_digest}\n"
    yield json.dumps(json.loads(image.config), indent=1, sort_keys=True) + "\n"
    for layer in image.layers:
        yield f"\nlayer {layer.title}: {layer.size} bytes\n  {layer.digest}\n  diff {layer.diff_id}\n"
        with tarfile.open(fileobj=io.BytesIO(b"".join(layer.blob.open())), mode="r:gz") as tar:
            for member in tar:
                file = tar.extractfile(member)
                content = sha256_hex(file.read())[:16] if file else (f"-> {member.linkname}" if member.issym() else "")
                owner = f"{member.uid}/{member.gid}"
                yield f"  {tarfile.stat.filemode(member.mode)[1:]} {owner} {member.size:>6} {member.name} {content}\n"


def compare(path: Path, found: str, update: bool) -> None:
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    expected = path.read_text() if path.exists() else ""
    assert found == expected, (
        f"{path.parent.name}/{path.name} differs; `pytest tests/golden --update-golden` rewrites it"
    )


def test_facts_of_the_stand_in_base() -> None:
    """The base of the golden cases has another Python than Debian's, in another place."""
    facts = read_base_facts(make_base(installed={"orjson": "3.10.0"}))
    assert facts == BaseFacts(
        architecture="amd64",
        interpreter="/usr/local/bin/python3.12",
        python="3.12.4",
        site="/usr/local/lib/python3.12/site-packages",
        scripts="/usr/local/bin",
        glibc="2.39",
        installed={"orjson": "3.10.0"},
    )
