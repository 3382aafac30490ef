import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fakes.cli import packager
from fakes.compiled import write_engine
from fakes.hub import Hub
from fakes.packages import make_package
from fakes.s3 import FakeS3
from fakes.stores import loading_package

from packager.fetch import fetch_package
from packager.manifest import MANIFEST_PATH, WeightsFile, WeightsManifest, read_manifest
from packager.store import Store
from packager.upkeep.inventory import Item
from packager.upkeep.prune import PruneOptions, prune
from packager.weights.schemes import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_bytes(b"{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"abc")
    return tmp_path / "model"


def test_a_package_goes_to_a_folder_and_says_how_to_read_it(folder: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path / "hello", weights=folder)
    done = packager("upload", package, "file://there", cwd=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    weights = yaml.safe_load(done.stdout)["weights"]
    assert weights == {"source": f"file://{tmp_path}/there"}
    assert [file.path for file in open_source(weights["source"]).inventory()] == ["config.json", "model.safetensors"]
    assert "2 files sent (5 B), 0 there already" in done.stderr
    again = packager("upload", package, "file://there", cwd=tmp_path, cache=tmp_path / "cache")
    assert "0 files sent (0 B), 2 there already" in again.stderr


def test_what_of_a_package_stays_is_said(folder: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path / "hello", weights=folder, adapters={"pirate": folder})
    done = packager("upload", package, "file://there", cwd=tmp_path, cache=tmp_path / "cache")
    assert "the package's LoRA adapters stay here (pirate)" in done.stderr
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["config.json", "model.safetensors"]


def test_a_tokenizer_from_elsewhere_is_named_and_not_sent(folder: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path / "hello", weights=folder)
    manifest = read_manifest(package)
    tokenizer = WeightsManifest("hf://ada/m", "c0ffee", "in_image", ".", (WeightsFile("tokenizer.json", 2, "a" * 64),))
    (package / MANIFEST_PATH).write_bytes(replace(manifest, tokenizer=tokenizer).to_bytes())
    done = packager("upload", package, "file://there", cwd=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["weights"] == {
        "source": f"file://{tmp_path}/there",
        "tokenizer": "hf://ada/m",
        "tokenizer_revision": "c0ffee",
    }
    assert "the package's tokenizer stays where it is: hf://ada/m" in done.stderr
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["config.json", "model.safetensors"]


def test_a_dry_run_sends_nothing(folder: Path, tmp_path: Path) -> None:
    with FakeS3() as s3:
        s3.bucket("models")
        s3.put("models", "llama/config.json", b"{}", ChecksumAlgorithm="SHA256")
        s3.put("models", "llama/other.json", b"{}")
        s3.asked.clear()
        options = {"cwd": tmp_path, "cache": tmp_path / "cache", "env": s3.environment}
        done = packager("upload", folder, "s3://models/llama", "--dry-run", **options)
        assert done.returncode == 0, done.stderr
        assert {one.method for one in s3.asked} == {"GET", "HEAD"}
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [
        ["44136fa355b3", "there", "already", "config.json"],
        ["ba7816bf8f01", "to", "be", "sent", "model.safetensors"],
    ]
    assert "1 file besides these stay there, such as other.json" in done.stderr
    assert "1 file to send (3 B), 1 there already" in done.stderr


def test_to_an_object_store(folder: Path, tmp_path: Path) -> None:
    with FakeS3() as s3:
        s3.bucket("models")
        options = {"cwd": tmp_path, "cache": tmp_path / "cache", "env": s3.environment}
        done = packager("upload", folder, "s3://models/llama/", **options)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(done.stdout) == {"weights": {"source": "s3://models/llama"}}
        assert s3.client().get_object(Bucket="models", Key="llama/model.safetensors")["Body"].read() == b"abc"


def test_what_is_sent_from_the_store_is_not_pruned_meanwhile(folder: Path, tmp_path: Path) -> None:
    package, store = loading_package(tmp_path / "hello", folder), Store(tmp_path / "cache")
    fetch_package(read_manifest(package), store)
    pruned: list[Item] = []
    with Hub() as hub:
        hub.tokens.add("hf_ada")
        hub.faults = lambda _: pruned.extend(prune(store, PruneOptions(-math.inf)).items)
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_ada"}
        done = packager("upload", package, "hf://ada/llama", cwd=tmp_path, cache=store.root, env=env)
        assert (done.returncode, pruned) == (0, []), done.stderr
        repo = hub.repos["ada/llama"]
        assert repo.commits[repo.branches["main"]]["model.safetensors"].data == b"abc"
    assert len(prune(store, PruneOptions(-math.inf)).items) == 2, "it is over"


def test_to_the_hub(folder: Path, tmp_path: Path) -> None:
    with Hub() as hub:
        hub.tokens.add("hf_ada")
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_ada"}
        more = ("--private", "--revision", "int4", "--message", "four bits")
        done = packager("upload", folder, "hf://ada/llama", *more, cwd=tmp_path, cache=tmp_path / "cache", env=env)
        assert done.returncode == 0, done.stderr
        repo = hub.repos["ada/llama"]
        told = {"source": "hf://ada/llama", "revision": repo.branches["int4"]}
        assert yaml.safe_load(done.stdout) == {"weights": told}
        assert set(repo.commits[told["revision"]]) >= {"config.json", "model.safetensors"}
        assert repo.private
    assert "Processing Files" not in done.stderr  # the library's own bars


def test_refusals_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine")
    options = {"cwd": tmp_path, "cache": tmp_path / "cache"}
    done = packager("upload", "engine", "file://there", **options)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-2:] == [
        "error: engine: a compiled engine has no engine.json beside it: nobody can tell which GPU and software it is for",
        "  mend: run `packager engine describe engine` on the machine that compiled it",
    ]
    assert not (tmp_path / "there").exists()
    assert engine.is_dir()
    done = packager("upload", folder, "s3://models/llama", "--message", "int4", **options)
    assert "s3:// has no use for --message" in done.stderr
    done = packager("upload", tmp_path / "nowhere", "s3://models/llama", **options)
    assert done.returncode == 2
