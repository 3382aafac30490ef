"""A package on disk: written as planned, read back, and what a person changed in it is seen."""

import os
import stat
import subprocess
from dataclasses import replace

import pytest
from fakes.locks import INGREDIENTS, make_lock, make_spec

from packager.digest import sha256_hex
from packager.errors import IntegrityError, LockError, OutputError, PackageError
from packager.lock.lockfile import WeightsLock
from packager.manifest import WeightsFile
from packager.package.plan import plan_package
from packager.package.read import is_package, read_package
from packager.package.write import edited_files, write_package
from packager.store import Store

WEIGHTS = {"model.gguf": b"GGUF", "sub/more.json": b"{}"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def plan():
    spec = make_spec(weights={"source": "file://model", "file": "model.gguf"})
    files = tuple(WeightsFile(name, len(data), sha256_hex(data)) for name, data in WEIGHTS.items())
    return plan_package(spec, make_lock(spec, weights=WeightsLock("file://model", "", files)), INGREDIENTS)


@pytest.fixture
def package(plan, store, tmp_path):
    for data in WEIGHTS.values():
        store.put([data])
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(plan, folder, store)
    return folder


def test_everything_planned_and_nothing_else(package, plan):
    found = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    assert found == {**plan.files, **{f"data/{name}": data for name, data in WEIGHTS.items()}}


def test_sha256sum_agrees(package):
    done = subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "files.sha256"], cwd=package, check=False)
    assert done.returncode == 0


def test_the_umask_does_not_count(plan, store, tmp_path):
    for data in WEIGHTS.values():
        store.put([data])
    folder = tmp_path / "package"
    old = os.umask(0o077)
    try:
        folder.mkdir()
        write_package(plan, folder, store)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*")) if path.is_dir()} == {0o755}
    written = [folder / path for path in plan.files]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o644}


def test_weights_are_linked_not_copied(package, store):
    assert (package / "data/model.gguf").stat().st_ino == store.path(sha256_hex(b"GGUF")).stat().st_ino


def test_weights_that_the_store_lacks(plan, store, tmp_path):
    with pytest.raises(PackageError, match=r"the store lacks the weights file data/model\.gguf"):
        write_package(plan, tmp_path, store)


def test_weights_that_changed_in_the_store(plan, store, tmp_path):
    for data in WEIGHTS.values():
        path = store.put([data]).path
    path.chmod(0o644)
    path.write_bytes(b"[]")
    with pytest.raises(IntegrityError):
        write_package(plan, tmp_path, store)


def test_it_is_read_back(package, plan):
    assert is_package(package)
    found = read_package(package)
    assert found.manifest.name == "hello"
    shown = {path for path in plan.files if not path.startswith(".")} | {f"data/{name}" for name in WEIGHTS}
    assert found.files == tuple(sorted(shown))


@pytest.mark.parametrize("hidden", [".git/config", ".env", ".netrc", "model/.cache/x", "model/__pycache__/m.pyc"])
def test_what_is_out_of_sight_is_no_part_of_it(package, hidden):
    before = read_package(package).files
    path = package / hidden
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("secret")
    assert read_package(package).files == before


def test_a_package_without_its_lock(package):
    (package / "packager.lock").unlink()
    with pytest.raises(LockError, match="cannot be read"):
        read_package(package)


class TestEdits:
    def test_none(self, package):
        assert edited_files(package) == ()

    def test_changed_gone_and_added(self, package):
        (package / "service.py").write_text("# mine\n")
        (package / "README.md").unlink()
        (package / "model/extra.py").write_text("")
        (package / ".env").write_text("TOKEN=x\n")
        assert edited_files(package) == (".env", "README.md", "model/extra.py", "service.py")

    def test_byte_code_is_nobodys_work(self, package):
        (package / "model/__pycache__").mkdir()
        (package / "model/__pycache__/model.cpython-311.pyc").write_bytes(b"")
        assert edited_files(package) == ()

    def test_a_file_that_became_a_folder(self, package):
        (package / "service.py").unlink()
        (package / "service.py").mkdir()
        assert edited_files(package) == ("service.py",)

    def test_weights_are_not_read(self, package):
        (package / "data/model.gguf").unlink()
        assert edited_files(package) == ()

    def test_nothing_there_yet(self, tmp_path):
        assert edited_files(tmp_path / "nowhere") == ()
        assert edited_files(tmp_path) == ()

    def test_something_of_somebody_else(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(OutputError, match="packager did not write"):
            edited_files(tmp_path)
        with pytest.raises(OutputError):
            edited_files(tmp_path / "thesis.txt")


def test_the_version_of_packager_is_in_the_bytes():
    spec = make_spec()
    newer = replace(INGREDIENTS, version="9.9")
    assert plan_package(spec, make_lock(spec), newer).files != plan_package(spec, make_lock(spec), INGREDIENTS).files
