"""Broken inputs as checked-in projects: one folder a case, with the exact words that packager has for it.

`command.txt` holds the arguments (default: `schema --check CASE`); they are run in a folder that holds a copy of the
case, so paths in messages are relative. `prepare.txt` names what is done to that folder first, one of PREPARATIONS a
line. `{registry}` and `{hub}` stand for addresses of a registry and a hub on loopback, `{folder}` for the folder of the
test; nothing else is masked. `pytest --update-golden` rewrites the expected files: read the diff.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fakes.bases import make_base
from fakes.compiled import TENSORRT, TENSORRT_LLM
from fakes.debs import describe, make_deb
from fakes.hub import Hub
from fakes.registry import FakeRegistry, Fault
from fakes.wheels import make_wheel
from packaging.requirements import Requirement

from packager.cli.app import main
from packager.debian.resolve import DebianRelease
from packager.errors import LoadError
from packager.lock.drift import lock_inputs
from packager.lock.lockfile import DebianBaseLock, parse_lock
from packager.manifest import read_manifest
from packager.oci.layout import write_layout
from packager.recipes import RECIPES
from packager.recipes.servers import REQUIREMENTS
from packager.spec.load import load_spec
from packager.store import Store
from packager.weights.load import ensure_weights

PROJECTS = Path(__file__).parents[1] / "projects"
ROOT = Path(__file__).parents[2]
CASES = sorted(path.parent.name for path in PROJECTS.glob("*/expected.txt"))
OURS = ("expected.txt", "command.txt", "prepare.txt")


@dataclass
class Bench:
    """Where a case is tried: `folder` holds the copy `project`; `stack` ends what a preparation started."""

    folder: Path
    project: Path
    patch: pytest.MonkeyPatch
    stack: ExitStack
    registry: str = ""
    hub: str = ""

    def packager(self, *arguments: str) -> None:
        assert main([*arguments]) == 0, arguments

    def serve(self, registry: FakeRegistry) -> None:
        self.registry = self.stack.enter_context(registry).host


def index(bench: Bench) -> None:
    """A package index with small stand-ins for all that a package requires, and nothing else; a base beside the spec."""
    engines = {"llama_cpp": "none", "vllm": "gguf"}
    lines = [line for name, word in engines.items() for line in RECIPES[name].requirements(None, word, gpu=True)]
    for requirement in (Requirement(line) for line in (*REQUIREMENTS["bentoml"], *lines)):
        version = next(part.version for part in requirement.specifier if part.operator in (">=", "=="))
        make_wheel(bench.folder / "index", requirement.name, version)
    base(bench)


def base(bench: Bench, python: str = "3.12.4") -> None:
    write_layout(make_base(python), bench.project / "base.oci")


def old_base(bench: Bench) -> None:
    base(bench, "3.9.2")


def source_only(bench: Bench) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        content = b"Metadata-Version: 2.1\nName: fast-tokens\nVersion: 2.0\n"
        info = tarfile.TarInfo("fast_tokens-2.0/PKG-INFO")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    (bench.folder / "index" / "fast_tokens-2.0.tar.gz").write_bytes(data.getvalue())


def musl_only(bench: Bench) -> None:
    make_wheel(bench.folder / "index", "fast-tokens", "2.0", tag="cp312-cp312-musllinux_1_2_x86_64")


def windows_only(bench: Bench) -> None:
    make_wheel(bench.folder / "index", "fast-tokens", "2.0", tag="cp312-cp312-win_amd64")


def lock(bench: Bench) -> None:
    bench.packager("lock", bench.project.name)


def build(bench: Bench) -> None:
    bench.packager("build", "--no-docker", bench.project.name)


def edit_package(bench: Bench) -> None:
    (bench.folder / "dist" / "hello" / "service.py").write_text("# mine\n")


def replace_packaged_weights(bench: Bench) -> None:
    path = bench.folder / "dist" / "hello" / "data" / "weights.gguf"
    data = path.read_bytes()
    path.unlink()  # it is a link into the store
    path.write_bytes(data[::-1])
    shutil.rmtree(bench.folder / "cache" / "memo" / "layer")


def change_weights(bench: Bench) -> None:
    (bench.project / "weights.gguf").write_bytes(b"GGUF other bytes, and more of them\n")


def lose_weights(bench: Bench) -> None:
    (bench.project / "weights.gguf").unlink()


def change_spec(bench: Bench) -> None:
    (bench.project / "changed.yaml").replace(bench.project / "packager.yaml")


def empty_store(bench: Bench) -> None:
    shutil.rmtree(bench.folder / "cache")


def scripted_debian_package(bench: Bench) -> None:
    """A lock on Debian packages, in the store already, of which one has a script that nobody reviewed."""
    path = bench.project / "packager.lock"
    spec = bench.project / "packager.yaml"
    spec.write_text(spec.read_text().replace("{kind: layout, path: base.oci}", "{kind: debian}"))
    script = "#!/bin/sh\nset -e\nadduser --system tokens-daemon\n"
    archive = make_deb("tokens-daemon", [], version="1.4-2", scripts={"postinst": script})
    Store(bench.folder / "cache").put([archive])
    packages = (describe("tokens-daemon", archive, "1.4-2"),)
    old = parse_lock(path.read_bytes(), where="lock")
    new = DebianBaseLock(DebianRelease("debian", "bookworm", "amd64"), packages)
    path.write_bytes(replace(old, base=new, inputs=lock_inputs(load_spec(spec).spec)).to_bytes())


def registry_wants_login(bench: Bench) -> None:
    bench.serve(FakeRegistry("basic"))


def registry_forbids(bench: Bench) -> None:
    registry = FakeRegistry()
    body = b'{"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}'
    registry.faults.append(Fault(".", times=99, status=403, body=body))
    bench.serve(registry)


def mirror_at_registry(bench: Bench) -> None:
    bench.patch.setenv("PACKAGER_REGISTRY_MIRRORS", f"registry.example.com={bench.registry}")


def hub(bench: Bench) -> None:
    """A hub with a few repositories; nobody has logged in."""
    served = bench.stack.enter_context(Hub())
    model = {"config.json": b"{}", "model.safetensors": b"S" * 3_000_000}
    served.add_repo("ada/model", model, lfs=("*.safetensors",))
    served.add_repo("ada/gated", model, gated=True, token="hf_adas")
    names = ("README.md", "readme.md", "aux.json", "a:b.json", "../up.json", "x" * 256, "sub", "sub/x.json")
    served.add_repo("ada/odd", model | dict.fromkeys(names, b"{}"))
    served.add_repo("ada/pickles", {"config.json": b"{}", "pytorch_model.bin": b"\x80"}, lfs=("*.bin",))
    bench.hub = served.url
    for name, value in {"HF_ENDPOINT": served.url, "HF_HOME": str(bench.folder / "hf")}.items():
        bench.patch.setenv(name, value)


def bad_mirror(bench: Bench) -> None:
    bench.patch.setenv("PACKAGER_WEIGHTS_MIRRORS", "hf://team=file:///mnt/mirror/team, hf://ada=/mnt/mirror/ada")


def mirror_of_the_hub(bench: Bench) -> None:
    copy = bench.folder / "mirror" / "model"
    copy.mkdir(parents=True)
    (copy / "model.safetensors").write_bytes(b"T" * 3_000_000)
    bench.patch.setenv("PACKAGER_WEIGHTS_MIRRORS", f"hf://ada=file://{copy.parent}")


PREPARATIONS: Mapping[str, Callable[[Bench], None]] = {
    prepare.__name__.replace("_", " "): prepare
    for prepare in (
        index,
        old_base,
        source_only,
        musl_only,
        windows_only,
        lock,
        build,
        edit_package,
        replace_packaged_weights,
        change_weights,
        lose_weights,
        change_spec,
        empty_store,
        scripted_debian_package,
        registry_wants_login,
        registry_forbids,
        mirror_at_registry,
        hub,
        bad_mirror,
        mirror_of_the_hub,
    )
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "HF_", "PACKAGER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path


@pytest.fixture
def bench(folder, monkeypatch):
    with ExitStack() as stack:
        yield Bench(folder, folder, monkeypatch, stack)


def set_up(case: str, bench: Bench) -> None:
    bench.project = bench.folder / case
    shutil.copytree(PROJECTS / case, bench.project, ignore=shutil.ignore_patterns(*OURS))
    for line in lines_of(case, "prepare.txt"):
        PREPARATIONS[line](bench)


def lines_of(case: str, name: str) -> list[str]:
    path = PROJECTS / case / name
    return path.read_text().splitlines() if path.exists() else []


def arguments(case: str, registry: str = "") -> list[str]:
    (line,) = lines_of(case, "command.txt") or [f"schema --check {case}"]
    return [word.replace("{registry}", registry) for word in shlex.split(line)]


@pytest.mark.parametrize("case", CASES)
def test_project(case, bench, capfd, update_golden):
    set_up(case, bench)
    capfd.readouterr()
    status = main(arguments(case, bench.registry))
    said = capfd.readouterr()
    text = said.err.replace(str(bench.folder), "{folder}")
    text = text.replace(bench.registry, "{registry}") if bench.registry else text
    text = text.replace(bench.hub, "{hub}") if bench.hub else text
    expected = PROJECTS / case / "expected.txt"
    if update_golden:
        expected.write_text(text)
    assert text == expected.read_text()
    assert (status, said.out) == (1, "")
    assert not re.search(r"Traceback|bug in packager|/tmp/", text)


def test_each_folder_is_a_case():
    assert sorted(path.name for path in PROJECTS.iterdir()) == CASES


def test_each_preparation_is_needed():
    assert {line for case in CASES for line in lines_of(case, "prepare.txt")} == set(PREPARATIONS)


def test_force_overwrites_what_was_edited(bench):
    set_up("edited-package", bench)
    bench.packager("build", "--no-docker", "--force", "edited-package")
    assert (bench.folder / "dist/hello/service.py").read_text() != "# mine\n"


def test_an_edited_package_is_built_as_it_stands(bench):
    set_up("edited-package", bench)
    bench.packager("build", "--no-docker", "dist/hello")
    assert (bench.folder / "dist/hello/service.py").read_text() == "# mine\n"


def test_a_base_that_the_command_names_is_as_one_in_the_spec(bench):
    """With it the lock is for that base: the same command again takes it, and the digest is that of a spec that says so."""
    set_up("base-other-than-locked", bench)
    bench.packager("build", "--no-docker", "base-other-than-locked")
    named = (bench.folder / "dist/hello.oci/index.json").read_bytes()
    shutil.rmtree(bench.folder / "dist")
    spec = bench.project / "packager.yaml"
    spec.write_text(spec.read_text().partition("image:")[0])
    base = ("--base", "base-other-than-locked/base.oci")
    bench.packager("lock", "--check", *base, "base-other-than-locked")
    bench.packager("build", "--no-docker", "--locked", *base, "base-other-than-locked")
    assert (bench.folder / "dist/hello.oci/index.json").read_bytes() == named
    (bench.project / "packager.lock").unlink()
    bench.packager("lock", *base, "base-other-than-locked")
    assert load_spec(bench.project).spec.image.base is None
    locked = parse_lock((bench.project / "packager.lock").read_bytes(), where="packager.lock")
    assert locked.inputs["image.base"]["path"] == "base.oci"


def test_weights_that_are_gone_are_taken_from_the_store(bench):
    """A lock answers for weights that the store has; `weights-changed` shows that others are refused."""
    set_up("weights-changed", bench)
    lose_weights(bench)
    bench.packager("build", "--no-docker", "--locked", "--offline", "weights-changed")


def test_weights_of_the_hub_are_built_in_and_asked_for_once(bench):
    set_up("offline-without-the-weights", bench)
    made = (bench.project / "packager.lock").read_bytes()
    bench.packager("build", "--no-docker", "offline-without-the-weights")
    data = bench.folder / "dist/hello/data"
    assert {path.name: path.stat().st_size for path in data.iterdir()} == {
        "config.json": 2,
        "model.safetensors": 3_000_000,
    }
    bench.stack.close()  # the hub is gone
    bench.packager("build", "--no-docker", "--offline", "offline-without-the-weights")
    bench.packager("build", "--no-docker", "offline-without-the-weights")
    assert (bench.project / "packager.lock").read_bytes() == made


def test_a_tokenizer_from_elsewhere_is_built_in(bench):
    set_up("tokenizer-moved", bench)
    shutil.copyfile(PROJECTS / "tokenizer-moved/packager.yaml", bench.project / "packager.yaml")
    bench.packager("build", "--no-docker", "--locked", "tokenizer-moved")
    package = bench.folder / "dist/hello"
    assert {path.name for path in (package / "data").iterdir()} == {
        "config.json",
        "model.Q4_K_M.gguf",
        "tokenizer.json",
    }
    loaded = ensure_weights(read_manifest(package), package, Store(bench.folder / "cache"))
    assert loaded == package / "data"
    (package / "data/tokenizer.json").unlink()
    with pytest.raises(LoadError, match=r"tokenizer\.json is missing"):
        ensure_weights(read_manifest(package), package, Store(bench.folder / "cache"))


def test_weights_that_the_container_loads_come_by_fetch(bench):
    set_up("offline-without-the-weights", bench)
    spec = bench.project / "packager.yaml"
    spec.write_text(spec.read_text().replace("hf://ada/model", "hf://ada/model\n  ship: on_load"))
    bench.packager("build", "--no-docker", "--offline", "offline-without-the-weights")  # without a byte of them
    assert not (bench.folder / "dist/hello/data").exists()
    bench.packager("fetch", "dist/hello")
    manifest = read_manifest(bench.folder / "dist/hello")
    bench.stack.close()
    bench.patch.setenv("PACKAGER_OFFLINE", "1")
    loaded = ensure_weights(manifest, bench.folder / "dist/hello", Store(bench.folder / "cache"))
    assert (loaded / "model.safetensors").read_bytes() == b"S" * 3_000_000


def test_a_vendors_engine_stays_in_its_base(bench):
    set_up("vendor-engine-on-another-base", bench)
    for requirement in map(Requirement, RECIPES["tensorrt_llm_engine"].companions):
        version = next(part.version for part in requirement.specifier if part.operator == ">=")
        make_wheel(bench.folder / "index", requirement.name, version)
    installed = {"tensorrt-llm": TENSORRT_LLM, "tensorrt": TENSORRT}
    shutil.rmtree(bench.project / "base.oci")
    write_layout(make_base(installed=installed), bench.project / "base.oci")
    build(bench)
    locked = parse_lock((bench.project / "packager.lock").read_bytes(), where="lock")
    assert not {wheel.name for wheel in locked.wheels} & set(installed)
    assert "nvidia-ml-py" in {wheel.name for wheel in locked.wheels}
    assert "tensorrt" not in (bench.folder / "dist/hello/requirements.txt").read_text()
    assert read_manifest(bench.folder / "dist/hello").weights.compiled["tensorrt"] == TENSORRT


def test_a_lock_says_nothing_of_where_it_was_made(bench):
    set_up("edited-package", bench)
    path = bench.project / "packager.lock"
    made = path.read_text()
    assert str(bench.folder) not in made
    assert "://" not in made
    bench.packager("lock", "edited-package")
    assert path.read_text() == made


def test_a_file_over_the_limit(folder, capfd):
    (folder / "packager.yaml").write_text("name: hello\n" + "# a comment that goes on and on\n" * 40_000)
    assert main(["schema", "--check", "."]) == 1
    assert capfd.readouterr().err == (
        "error: packager.yaml:1:1: the file is larger than 1024 KiB\n"
        "  mend: a spec is a few dozen lines: is this the right file?\n"
    )


def test_the_real_command_line_says_the_same(folder):
    shutil.copytree(PROJECTS / "two-problems", folder / "two-problems")
    found = subprocess.run(
        [sys.executable, "-m", "packager", "schema", "--check", "two-problems"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (PROJECTS / "two-problems" / "expected.txt").read_text()
