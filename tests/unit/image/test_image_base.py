"""The base of an image is the locked one, found also by a package that is built away from its spec."""

import shutil
from dataclasses import replace

import pytest
from fakes.bases import make_base
from fakes.locks import FACTS, INGREDIENTS, make_lock, make_spec

from packager.command import Completed
from packager.errors import DriftError, FetchError, ImageError
from packager.image.base import base_image
from packager.lock.lockfile import ImageBaseLock
from packager.lock.tools import Tools
from packager.oci.layout import write_layout
from packager.package.plan import plan_package
from packager.package.read import read_package
from packager.package.write import write_package
from packager.store import Store


def no_program(argv, **_):
    return Completed(127, "", f"{argv[0]}: not in this test")


@pytest.fixture
def tools(tmp_path):
    return Tools(store=Store(tmp_path / "store"), run=no_program)


def package_on(base, digest, tmp_path, kind):
    spec = make_spec(image={"base": base})
    lock = make_lock(spec, base=ImageBaseLock(kind, digest), facts=replace(FACTS, python="3.12.4"))
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(plan_package(spec, lock, INGREDIENTS), folder, Store(tmp_path / "store"))
    return read_package(folder)


class TestLayout:
    @pytest.fixture
    def image(self, tmp_path):
        image = make_base()
        write_layout(image, tmp_path / "spec/base.oci")
        return image

    @pytest.fixture
    def package(self, image, tmp_path):
        return package_on({"kind": "layout", "path": "base.oci"}, image.manifest_digest, tmp_path, "layout")

    def test_beside_the_spec(self, image, package, tools, tmp_path):
        assert base_image(package, tools, beside=tmp_path / "spec").manifest == image.manifest

    def test_away_from_the_spec(self, image, package, tools, tmp_path):
        base_image(package, tools, beside=tmp_path / "spec")
        assert base_image(package, tools, beside=package.folder).manifest == image.manifest

    @pytest.mark.parametrize("seen", [False, True])
    def test_nowhere(self, package, tools, tmp_path, seen):
        if seen:
            base_image(package, tools, beside=tmp_path / "spec")
        shutil.rmtree(tmp_path / "spec/base.oci")
        with pytest.raises(ImageError, match="layout is not here") as caught:
            base_image(package, tools, beside=package.folder)
        assert caught.value.problems[0].where == str(package.folder / "base.oci")

    def test_another_one_in_its_place(self, package, tools, tmp_path):
        shutil.rmtree(tmp_path / "spec/base.oci")
        write_layout(make_base("3.13.1"), tmp_path / "spec/base.oci")
        with pytest.raises(DriftError, match="the base is sha256:") as caught:
            base_image(package, tools, beside=tmp_path / "spec")
        assert "packager lock" in caught.value.problems[0].mend


def test_a_registry_is_not_asked_offline(tools, tmp_path):
    base = {"kind": "registry", "image": "registry.example.com/team/base:1"}
    package = package_on(base, "sha256:" + "1" * 64, tmp_path, "registry")
    with pytest.raises(FetchError, match="offline") as caught:
        base_image(package, replace(tools, offline=True), beside=tmp_path)
    assert caught.value.problems[0].where == "registry.example.com/team/base@sha256:" + "1" * 64
