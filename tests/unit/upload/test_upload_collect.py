import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.compiled import description, write_engine
from fakes.packages import make_package

from packager.errors import OutputError
from packager.manifest import MANIFEST_PATH, WeightsFile, read_manifest
from packager.store import Store
from packager.upload.collect import collect


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make_folder(root: Path, **files: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name.replace("__", ".")).write_bytes(data)
    return root


def refused(what: Path, store: Store) -> str:
    with pytest.raises(OutputError) as caught:
        collect(what, store)
    return "\n".join(f"{one.where}: {one.what}: {one.mend}" for one in caught.value.problems)


def describe(folder: Path, **changed: Any) -> None:
    """The engine.json that fits the folder's files, but for what is `changed`."""
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in folder.iterdir()
    }
    (folder / "engine.json").write_text(json.dumps({**description(), "files": files, **changed}))


def test_a_folder_without_what_is_out_of_sight(tmp_path: Path, store: Store) -> None:
    folder = make_folder(tmp_path / "model", config__json=b"{}", __git=b"x")
    (folder / "sub").mkdir()
    (folder / "sub/model.safetensors").write_bytes(b"abc")
    files = collect(folder, store)
    assert [(file.path, file.size, file.local) for file in files] == [
        ("config.json", 2, folder / "config.json"),
        ("sub/model.safetensors", 3, folder / "sub/model.safetensors"),
    ]
    assert files[1].sha256 == hashlib.sha256(b"abc").hexdigest()


def test_one_file(tmp_path: Path, store: Store) -> None:
    folder = make_folder(tmp_path, model__gguf=b"GGUF", other__gguf=b"GGUF")
    assert [file.path for file in collect(folder / "model.gguf", store)] == ["model.gguf"]


def test_code_pickles_and_links_are_refused(tmp_path: Path, store: Store) -> None:
    folder = make_folder(tmp_path / "model", modeling__py=b"", pytorch_model__bin=b"\x80", config__json=b"{}")
    text = refused(folder, store)
    assert "modeling.py is code, not weights" in text
    assert "pytorch_model.bin is a pickle: opening it runs code" in text
    other = make_folder(tmp_path / "linked")
    (other / "config.json").symlink_to(folder / "config.json")
    assert "a link stands among the weights" in refused(other, store)


def test_a_pickle_under_the_name_of_a_data_file(tmp_path: Path, store: Store) -> None:
    folder = make_folder(tmp_path / "model", model__bin=b"\x06\x00\x00\x00")
    assert len(collect(folder, store)) == 1  # CTranslate2's
    make_folder(folder, model__bin=b"PK\x03\x04")
    assert "begins like a pickle" in refused(folder, store)


def test_nothing_and_nowhere(tmp_path: Path, store: Store) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is nothing to upload" in refused(tmp_path / "empty", store)
    assert "there are no weights here" in refused(tmp_path / "nowhere", store)


def test_a_package_gives_its_weights_and_not_its_code(tmp_path: Path, store: Store) -> None:
    weights = make_folder(tmp_path / "model", config__json=b"{}", model__safetensors=b"abc")
    package = make_package(tmp_path / "hello", weights=weights)
    files = collect(package, store)
    assert {file.path: file.local for file in files} == {
        "config.json": package / "data/config.json",
        "model.safetensors": package / "data/model.safetensors",
    }


def test_a_tokenizer_from_elsewhere_stays_there(tmp_path: Path, store: Store) -> None:
    package = make_package(tmp_path / "hello", weights=make_folder(tmp_path / "model", model__safetensors=b"abc"))
    manifest = read_manifest(package)
    assert manifest.weights is not None
    tokenizer = replace(manifest.weights, files=(WeightsFile("tokenizer.json", 2, "a" * 64),))
    (package / MANIFEST_PATH).write_bytes(replace(manifest, tokenizer=tokenizer).to_bytes())
    assert [file.path for file in collect(package, store)] == ["model.safetensors"]


def test_weights_that_are_not_what_was_packaged(tmp_path: Path, store: Store) -> None:
    package = make_package(tmp_path / "hello", weights=make_folder(tmp_path / "model", model__safetensors=b"abc"))
    shipped = package / "data/model.safetensors"
    shipped.unlink()
    shipped.write_bytes(b"abd")
    assert "is not what was packaged" in refused(package, store)


def test_a_package_without_weights(tmp_path: Path, store: Store) -> None:
    assert "this package has no weights" in refused(make_package(tmp_path / "hello"), store)


def rewrite(package: Path, **weights: Any) -> None:
    """Change what the manifest says of the weights."""
    manifest = read_manifest(package)
    assert manifest.weights is not None
    changed = replace(manifest, weights=replace(manifest.weights, **weights))
    (package / MANIFEST_PATH).write_bytes(changed.to_bytes())


def test_a_package_that_loads_its_weights_has_them_in_the_store(tmp_path: Path, store: Store) -> None:
    weights = make_folder(tmp_path / "model", config__json=b"{}", model__safetensors=b"abc")
    package = make_package(tmp_path / "hello", weights=weights)
    shutil.rmtree(package / "data")
    rewrite(package, ship="on_load")
    text = refused(package, store)
    assert "the weights are not on this machine: config.json and 1 more" in text
    assert f"packager fetch {package}" in text
    for file in weights.iterdir():
        store.add(file)
    assert {file.path: file.local.read_bytes() for file in collect(package, store)} == {
        "config.json": b"{}",
        "model.safetensors": b"abc",
    }


def test_what_a_package_vouches_for_goes_along(tmp_path: Path, store: Store) -> None:
    weights = make_folder(tmp_path / "model", modeling__py=b"x = 1", model__safetensors=b"abc")
    package = make_package(tmp_path / "hello", weights=weights)
    assert "modeling.py is code" in refused(package, store)
    rewrite(package, trusted_code=("modeling.py",))
    assert [file.path for file in collect(package, store)] == ["model.safetensors", "modeling.py"]


def test_a_compiled_engine_needs_its_description(tmp_path: Path, store: Store) -> None:
    folder = write_engine(tmp_path / "engine")
    text = refused(folder, store)
    assert "has no engine.json beside it" in text
    assert f"run `packager engine describe {folder}`" in text
    describe(folder)
    assert "engine.json" in {file.path for file in collect(folder, store)}


def test_an_engine_below_the_folder_needs_it_too(tmp_path: Path, store: Store) -> None:
    folder = write_engine(tmp_path / "all/engine")
    assert f"run `packager engine describe {folder}`" in refused(tmp_path / "all", store)
    describe(folder)
    assert "engine/engine.json" in {file.path for file in collect(tmp_path / "all", store)}


def test_an_engine_that_is_not_the_described_one(tmp_path: Path, store: Store) -> None:
    folder = write_engine(tmp_path / "engine")
    describe(folder)
    (folder / "rank0.engine").write_bytes(b"plan of rank X")
    assert "rank0.engine has the sha256" in refused(folder, store)
    describe(folder, schema=2)
    assert "engine.json cannot be read: it has schema 2" in refused(folder, store)
