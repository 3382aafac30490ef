"""A built package is what it claims to be: self-contained, a Truss, a Bento project, and as it was written.

The real tools judge: pip with nothing but the package's requirements.txt, `bentoml`, and `truss` with its own server.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from fakes.installed import PROMPT, SECONDS, bare_env, chat, environment, run, served
from fakes.machine import free_port, missing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = [pytest.mark.network, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Built:
    """A package that was built, a Python with its requirements and nothing else, and an environment for processes."""

    name: str
    folder: Path
    python: Path
    env: Mapping[str, str]

    def run(self, *argv: str | Path, cwd: Path | None = None) -> str:
        return run(argv, env=self.env, cwd=cwd or self.folder)


@pytest.fixture(scope="module", params=["echo", "hello"])
def built(request: pytest.FixtureRequest, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    name = request.param
    source = ROOT / "examples" / name
    if name == "hello" and not (source / "hello.gguf").is_file():
        missing("examples/hello/hello.gguf is not there yet: train it with examples/hello/train.py")
    work = tmp_path_factory.mktemp(name)
    shutil.copytree(source, work / "spec", ignore=shutil.ignore_patterns("packager.lock"))
    env = {**os.environ, "PACKAGER_CACHE": str(shared_cache), "PYTHONPATH": str(ROOT)}
    run([sys.executable, "-m", "packager", "build", "--no-docker", "-o", "dist", "spec"], env=env, cwd=work)
    folder = work / "dist" / name
    return Built(name, folder, environment(folder / "requirements.txt", shared_cache), bare_env(work))


@pytest.fixture(scope="module")
def truss_python(shared_cache: Path) -> Path:
    if sys.version_info >= (3, 13):
        missing("Truss's server asks for numpy 1, which has no wheels for Python 3.13 and newer")
    return environment(ROOT / "requirements" / "truss.txt", shared_cache)


def said(name: str, text: str) -> bool:
    return PROMPT in text if name == "echo" else bool(text.strip())


class TestSelfContained:
    def test_nothing_but_its_requirements_is_installed(self, built):
        listed = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", requirements(built), re.MULTILINE)}
        script = "import importlib.metadata as m; print(*{d.name for d in m.distributions()})"
        installed = {canonicalize_name(name) for name in built.run(built.python, "-I", "-c", script).split()}
        assert installed <= listed
        found = subprocess.run(
            [built.python, "-c", "import packager"], cwd=built.folder, env=built.env, capture_output=True, check=False
        )
        assert b"No module named 'packager'" in found.stderr

    def test_bentoml_serves_it_from_inside_its_folder(self, built):
        port = free_port()
        argv = [built.python.with_name("bentoml"), "serve", "--host", "127.0.0.1", "--port", str(port)]
        with served(argv, cwd=built.folder, env=built.env, port=port) as (client, process):
            assert said(built.name, chat(client, built.name))
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0

    def test_its_own_runner_serves_it(self, built):
        port = free_port()
        argv = [built.python, "-m", "packager_runtime.runtime", "serve", ".", "--port", str(port)]
        env = {**built.env, "PYTHONPATH": "packages"}
        with served(argv, cwd=built.folder, env=env, port=port) as (client, process):
            assert said(built.name, chat(client, built.name))
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0

    def test_it_is_as_it_was_written(self, built):
        """Also after it was served: a package is never written to."""
        checked = built.run("sha256sum", "--check", "--strict", "files.sha256").splitlines()
        assert checked
        assert all(line.endswith(": OK") for line in checked)
        listed = {line.rpartition(": ")[0] for line in checked}
        every = {path.relative_to(built.folder).as_posix() for path in built.folder.rglob("*") if path.is_file()}
        assert listed == {path for path in every if "__pycache__" not in path} - {"files.sha256"}


def requirements(built: Built) -> str:
    return (built.folder / "requirements.txt").read_text()


LOAD_TRUSS = """
import json, logging, sys, warnings
from pathlib import Path
from pydantic import BaseModel
import truss
heard = []
class Listen(logging.Handler):
    def emit(self, record): heard.append(record.getMessage())
logging.getLogger().addHandler(Listen(logging.WARNING))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    handle = truss.load(sys.argv[1])
spec = handle.spec
def extras(value, path):
    if isinstance(value, BaseModel):
        for key in value.model_extra or {}:
            yield f"{path}.{key}"
        for key in type(value).model_fields:
            yield from extras(getattr(value, key), f"{path}.{key}")
print(json.dumps({
    "extras": list(extras(spec.config, "config")),
    "warnings": heard + [str(one.message) for one in caught],
    "model_name": spec.config.model_name,
    "python_version": spec.config.python_version,
    "requirements": sorted(spec.requirements),
    "system_packages": spec.config.system_packages,
    "concurrency": spec.config.runtime.predict_concurrency,
    "class_file": str(spec.model_class_filepath),
    "class_name": spec.config.model_class_name,
    "bundled": str(spec.bundled_packages_dir),
    "data": str(spec.data_dir),
}))
"""

SERVE_TRUSS = """
import runpy, sys
sys.path.append(sys.argv.pop(1))  # the image has this folder as /packages, and Truss's ModelWrapper appends that
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.fixture
def context(built: Built, truss_python: Path, tmp_path: Path) -> Path:
    """What `truss image build-context` makes of the package."""
    argv = [truss_python.with_name("truss"), "image", "build-context", tmp_path / "context", built.folder]
    run(argv, env={**built.env, "HOME": str(tmp_path)}, cwd=tmp_path)
    return tmp_path / "context"


class TestTruss:
    def test_truss_knows_every_key_of_its_configuration(self, built, truss_python):
        found = json.loads(built.run(truss_python, "-c", LOAD_TRUSS, built.folder).splitlines()[-1])
        written = yaml.safe_load((built.folder / "config.yaml").read_text())
        assert found["extras"] == []
        assert [text for text in found["warnings"] if any(key in text for key in written)] == []
        assert found["model_name"] == built.name
        assert found["python_version"] == written["python_version"]
        assert found["concurrency"] == written["runtime"]["predict_concurrency"]
        assert found["system_packages"] == (["libgomp1"] if built.name == "hello" else [])
        assert found["class_name"] == "Model"
        assert Path(found["class_file"]) == built.folder / "model/model.py"
        assert Path(found["bundled"]) == built.folder / "packages"
        assert Path(found["data"]) == built.folder / "data"

    def test_its_pins_are_within_what_truss_allows(self, built, context):
        """Truss's image installs the package's requirements under Truss's constraints, and fails where they clash."""
        pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", requirements(built), re.MULTILINE))
        assert (context / "user_requirements.txt").read_text().split() == requirements(built).split()
        allowed = read_requirements(context / "constraints.txt")
        assert allowed
        clashes = [str(one) for one in allowed if one.name in pins and not one.specifier.contains(pins[one.name])]
        assert clashes == []

    def test_our_environment_is_the_one_truss_would_serve_in(self, context, truss_python):
        script = (
            "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        )
        versions = {canonicalize_name(k): v for k, v in json.loads(run([truss_python, "-I", "-c", script])).items()}
        asked = read_requirements(context / "requirements.txt")
        assert len(asked) > 10
        assert [str(one) for one in asked if not one.specifier.contains(versions[canonicalize_name(one.name)])] == []

    def test_truss_serves_it(self, built, context, truss_python, tmp_path):
        """Truss's own server, laid out as its Dockerfile lays it, with our Model in it."""
        app = tmp_path / "app"
        shutil.copytree(context / "server", app)
        shutil.copytree(context / "model", app / "model")
        shutil.copyfile(context / "config.yaml", app / "config.yaml")
        if (context / "data").is_dir():
            shutil.copytree(context / "data", app / "data")
        port = free_port()
        env = {**built.env, "HOME": str(tmp_path), "INFERENCE_SERVER_PORT": str(port)}
        argv = [truss_python, "-c", SERVE_TRUSS, context / "packages"]
        inputs = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        with served(argv, cwd=app, env=env, port=port, ready="/v1/models/model") as (client, process):
            whole = client.post("/v1/models/model:predict", json=inputs)
            assert whole.status_code == httpx.codes.OK, whole.text
            assert said(built.name, whole.json()["text"])
            assert whole.json()["usage"]["completion_tokens"] > 0
            with client.stream("POST", "/v1/models/model:predict", json={**inputs, "stream": True}) as response:
                assert response.headers["transfer-encoding"] == "chunked"
                assert said(built.name, "".join(response.iter_text()))
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)


def read_requirements(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


@pytest.fixture
def project(built: Built, tmp_path: Path) -> Path:
    """A copy of the package: `bentoml build` may leave things in it."""
    return Path(shutil.copytree(built.folder, tmp_path / "project"))


class TestBento:
    def test_bentoml_builds_a_bento_that_serves(self, built, project, tmp_path):
        bentoml = built.python.with_name("bentoml")
        tag = built.run(bentoml, "build", "--output", "tag", cwd=project).strip().removeprefix("__tag__:")
        assert tag.partition(":")[0] == built.name
        described = json.loads(built.run(bentoml, "get", tag, "-o", "json", cwd=tmp_path))
        assert described["service"] == "service:Service"
        bento = Path(built.run(bentoml, "get", tag, "-o", "path", cwd=tmp_path).strip())
        self.check_content(built, bento)
        port = free_port()
        argv = [bentoml, "serve", tag, "--host", "127.0.0.1", "--port", str(port)]
        with served(argv, cwd=tmp_path, env=built.env, port=port) as (client, _):
            assert said(built.name, chat(client, built.name))

    def check_content(self, built: Built, bento: Path) -> None:
        lines = (line.split("  ", 1) for line in (built.folder / "files.sha256").read_text().splitlines())
        expected = {path: digest for digest, path in lines if path.partition("/")[0] in ("model", "packages", "data")}
        found = {path: hashlib.sha256((bento / "src" / path).read_bytes()).hexdigest() for path in expected}
        assert found == expected
        pinned = (bento / "env/python/requirements.txt").read_text()
        names = set(re.findall(r"^([\w.-]+==[^\s;]+)", requirements(built), re.MULTILINE))
        assert names <= set(re.findall(r"^([\w.-]+==[^\s;]+)", pinned, re.MULTILINE))
        hashes = set(re.findall(r"sha256:\w{64}", requirements(built)))
        assert hashes == set(re.findall(r"sha256:\w{64}", pinned))

    def test_bentoml_would_refuse_a_key_it_does_not_know(self, built, project):
        """The build above judges the keys of bentofile.yaml only if this is so."""
        with (project / "bentofile.yaml").open("a") as file:
            file.write("no_such_key: 1\n")
        done = subprocess.run(
            [built.python.with_name("bentoml"), "build"], cwd=project, env=built.env, capture_output=True, check=False
        )
        assert done.returncode != 0
        assert b"no_such_key" in done.stdout + done.stderr
