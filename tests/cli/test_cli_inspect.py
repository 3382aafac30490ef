"""`packager inspect` of a package: what it has of weights, and from where."""

import json
from pathlib import Path

import pytest
from fakes.cli import packager
from fakes.locks import INGREDIENTS, make_lock, make_spec

from packager.cli.app import main
from packager.package.plan import plan_package
from packager.package.write import write_package
from packager.store import Store


def make_package(folder: Path, **weights: str) -> Path:
    """A package of vLLM that loads its weights; none are there."""
    spec = make_spec(engine={"kind": "vllm"}, weights={"source": "hf://ada/model", "ship": "on_load", **weights})
    folder.mkdir()
    write_package(plan_package(spec, make_lock(spec), INGREDIENTS), folder, Store(folder.parent / "cache"))
    return folder


def inspect(package: Path, *options: str) -> str:
    done = packager("inspect", package, *options, cwd=package.parent, cache=package.parent / "cache")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_weights_and_the_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    package = make_package(tmp_path / "hello", tokenizer="hf://ada/other")
    value = json.loads(inspect(package, "--json"))["package"]
    assert [one["path"] for one in value["weights"]] == ["config.json", "model.safetensors"]
    assert [one["path"] for one in value["tokenizer"]] == ["tokenizer.json", "tokenizer_config.json"]
    lines = inspect(package).splitlines()
    assert "weights   2 (70,000,012 bytes)" in lines
    assert "tokenizer 2 (50 bytes)" in lines


def test_a_package_without_one_has_no_line_of_it(tmp_path: Path) -> None:
    package = make_package(tmp_path / "hello")
    assert json.loads(inspect(package, "--json"))["package"]["tokenizer"] == []
    assert not [line for line in inspect(package).splitlines() if line.startswith("tokenizer")]


def test_a_name_in_a_folder_that_is_here_is_asked_of_no_registry(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dist").mkdir()
    for command in ("inspect", "verify"):
        assert main([command, "dist/nope"]) == 1
        assert capsys.readouterr().err.startswith("error: dist/nope: this is neither a package nor an OCI layout\n")


@pytest.mark.parametrize("path", ["{folder}/hello.oci", "{folder}/hello", "./hello", "hello.oci"])
def test_a_path_without_an_image_is_not_pushed(tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    image = path.format(folder=tmp_path / "dist")
    assert main(["push", image]) == 1
    assert capsys.readouterr().err.startswith(f"error: {image}: no image was built here\n  mend: build it first")
