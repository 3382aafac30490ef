"""The whole line from Python, as README's users would write it: the same image as the command line gives."""

import shutil
from pathlib import Path

import pytest
from fakes.cli import ROOT, build

import packager

pytestmark = [pytest.mark.network, pytest.mark.slow]


def test_stage_by_stage_gives_what_the_command_gives(
    tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKAGER_CACHE", str(shared_cache))
    shutil.copytree(ROOT / "examples/echo", tmp_path / "spec")
    tools = packager.default_tools()
    spec = packager.load_spec(tmp_path / "spec")
    lock = packager.resolve(spec, tools)
    folder = tmp_path / "package"
    folder.mkdir()
    packager.write_package(packager.plan_package(spec.spec, lock, packager.read_ingredients(spec)), folder, tools.store)
    package = packager.read_package(folder)
    plan = packager.plan_image(package.manifest, package.lock, package.files)
    image = packager.assemble_image(plan, package, tools, beside=spec.folder)
    packager.write_layout(image, tmp_path / "layout")
    assert packager.read_layout(tmp_path / "layout", verify=True).manifest_digest == image.manifest_digest

    (tmp_path / "spec/packager.lock").write_bytes(lock.to_bytes())
    built = build("spec", "--locked", "--offline", cwd=tmp_path, cache=shared_cache)
    assert built["manifest_digest"] == image.manifest_digest
    again = packager.build(tmp_path / "spec", packager.BuildOptions(output=tmp_path / "dist"), tools)
    assert again.image.manifest_digest == image.manifest_digest


def test_a_package_is_loaded_and_asked(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKAGER_CACHE", str(shared_cache))
    shutil.copytree(ROOT / "examples/echo", tmp_path / "spec")
    build("spec", cwd=tmp_path, cache=shared_cache)
    with packager.load(tmp_path / "dist/echo") as model:
        assert model.predict({"prompt": "one two"})["text"] == "one two"
        assert "".join(model.predict({"prompt": "one two", "stream": True})) == "one two"
