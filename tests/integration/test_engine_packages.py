"""Folders of weights from the spec to an answer: locked against the real index, planned, built, served by their requirements.

The models are made in the engines' own environments (`make engines`); nothing of those reaches the packages.
"""

import json
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.cli import ROOT, build, packager
from fakes.installed import SECONDS, bare_env, chat, run, served
from fakes.installed import environment as install
from fakes.machine import free_port, missing

from packager.command import run_command
from packager.facts import BaseFacts
from packager.lock.closure import resolve_closure
from packager.lock.lockfile import Lock, parse_lock
from packager.lock.tools import Tools
from packager.manifest import read_manifest
from packager.spec.load import load_spec
from packager.store import Store

pytestmark = [pytest.mark.network, pytest.mark.slow]

MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fakes.converted import convert
from fakes.models import write_model
folder = Path(sys.argv[2])
write_model(folder / "transformers", "llama")
convert(folder / "transformers", folder / "ctranslate2", "int8")
"""


@dataclass(frozen=True)
class Project:
    """A folder with a spec and its weights, built into `dist`; `plan` is what `--dry-run` said before."""

    folder: Path
    plan: Mapping[str, Any]

    @property
    def package(self) -> Path:
        return self.folder / "dist" / self.folder.name

    @property
    def lock(self) -> Lock:
        return parse_lock((self.folder / "packager.lock").read_bytes(), where="packager.lock")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama, and the same converted for CTranslate2."""
    python = ROOT / ".venv-ctranslate2" / "bin" / "python"
    if not python.exists():
        missing("no .venv-ctranslate2, which converts the model (`make engines` sets it up)")
    folder = tmp_path_factory.mktemp("models")
    run([python, "-c", MAKE, ROOT / "tests", folder])
    return folder


@pytest.fixture(scope="module", params=["transformers", "ctranslate2"])
def project(
    request: pytest.FixtureRequest, models: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    folder = write_spec(tmp_path_factory.mktemp("projects") / str(request.param), models)
    done = packager("build", "--dry-run", ".", cwd=folder, cache=shared_cache)
    assert done.returncode == 0, done.stderr
    assert not (folder / "dist").exists()
    plan = json.loads(done.stdout)
    build(".", "--locked", cwd=folder, cache=shared_cache)
    return Project(folder, plan)


def write_spec(folder: Path, models: Path, hardware: str = "") -> Path:
    """A project named like its engine, with the engine's model beside the spec."""
    engine = folder.name
    folder.mkdir(parents=True)
    shutil.copytree(models / engine, folder / "model")
    (folder / "packager.yaml").write_text(
        f"name: {engine}\nengine: {{kind: {engine}, context_length: 256}}\nweights: {{source: file://model}}\n"
        f"serving: {{max_concurrency: 2}}\n{hardware}"
    )
    return folder


def test_the_plan_lists_the_folder_and_what_the_engine_needs(project: Project) -> None:
    weights = sorted(path.name for path in (project.folder / "model").iterdir())
    planned = [file["path"] for layer in project.plan["image"]["weights"] for file in layer["files"]]
    assert planned == weights
    wheels = {wheel["name"] for layer in project.plan["image"]["wheels"] for wheel in layer["wheels"]}
    engine = project.folder.name
    assert {engine, "bentoml", "uvicorn"} <= wheels
    assert ("torch" in wheels) == (engine == "transformers")
    assert "nvidia-cublas" not in wheels


def test_the_lock_takes_torch_without_cuda_where_no_gpu_is_named(project: Project) -> None:
    versions = {wheel.name: wheel.version for wheel in project.lock.wheels}
    if project.folder.name == "ctranslate2":
        assert "torch" not in versions
    elif "+" not in versions["torch"]:
        missing("no build of torch for CPU: PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL must name a place that has one")
    else:
        assert versions["torch"].endswith("+cpu")
        assert "Common package indexes lack torch==" in (project.package / "README.md").read_text()


def test_the_package_holds_the_folder(project: Project) -> None:
    manifest = read_manifest(project.package)
    assert manifest.weights is not None
    assert (manifest.engine.kind, manifest.weights.entry) == (project.folder.name, ".")
    for file in manifest.weights.files:
        assert (project.package / "data" / file.path).read_bytes() == (
            project.folder / "model" / file.path
        ).read_bytes()


def test_a_gpu_gets_cuda_and_nothing_is_fetched_to_know_it(models: Path, tmp_path: Path, shared_cache: Path) -> None:
    spec = load_spec(write_spec(tmp_path / "transformers", models, "hardware: {gpu: l4}\n")).spec
    facts = BaseFacts("amd64", "/usr/bin/python3.11", "3.11.2", "/site", "/usr/bin", "2.36", {})
    store = Store(tmp_path / "store")
    closure = resolve_closure(spec, facts, Tools(store, run_command))
    versions = {wheel.name: wheel.version for wheel in closure.wheels}
    assert "+" not in versions["torch"]
    assert "nvidia-cublas" in versions
    assert not any("+cpu" in line for line in closure.requirements)
    assert sum(wheel.size for wheel in closure.wheels) > 2e9
    assert not store.root.exists()


@pytest.mark.parametrize("project", ["ctranslate2"], indirect=True, scope="module")  # torch's environment is gigabytes
@pytest.mark.parametrize("server", ["bentoml", "own"])
def test_its_requirements_alone_serve_it(project: Project, shared_cache: Path, tmp_path: Path, server: str) -> None:
    python = install(project.package / "requirements.txt", shared_cache)
    port, env = free_port(), bare_env(tmp_path)
    argv = [python.with_name("bentoml"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    if server == "own":
        argv = [python, "-m", "packager_runtime.runtime", "serve", ".", "--port", str(port)]
        env |= {"PYTHONPATH": "packages"}
    with served(argv, cwd=project.package, env=env, port=port) as (client, process):
        assert chat(client, project.folder.name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
