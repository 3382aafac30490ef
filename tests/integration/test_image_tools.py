"""The image in the hands of other tools: Docker, skopeo, real registries. Needs root and a Docker Engine."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.cli import ROOT, build, packager
from fakes.hub import Hub
from fakes.machine import free_port

from packager.store import Store

pytestmark = [pytest.mark.network, pytest.mark.slow]

QUESTION = {
    "messages": [{"role": "user", "content": "What is a list?"}],
    "stream": True,
    "max_tokens": 24,
    "temperature": 0,
}


@pytest.fixture(scope="module", params=["echo", "hello"])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path
) -> dict[str, Any]:
    """The example, built in a folder of its own: what `packager build --json` says, and where."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(ROOT / "examples" / request.param, folder / "spec", ignore=shutil.ignore_patterns("safetensors"))
    return {"name": request.param, "cwd": folder, **build("spec", cwd=folder, cache=shared_cache)}


class Docker:
    """Docker's own client (Debian's speaks BuildKit) with the engine that the tests were given."""

    def __init__(self, path: str) -> None:
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{path}", "DOCKER_BUILDKIT": "1"}
        self.program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"

    def __call__(self, *argv: str) -> str:
        done = subprocess.run([self.program, *argv], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr}"
        return done.stdout.strip()


@pytest.fixture
def docker(docker_socket: str) -> Docker:
    return Docker(docker_socket)


@pytest.fixture
def loaded(docker: Docker, built: dict[str, Any], shared_cache: Path) -> Iterator[str]:
    """The image in the engine, loaded by `packager build --docker`."""
    env = {"DOCKER_HOST": docker.env["DOCKER_HOST"]}
    again = build("spec", "--docker", cwd=built["cwd"], cache=shared_cache, env=env)
    assert again["docker"] == built["config_digest"], "the engine knows the image by its config digest"
    yield built["reference"]
    docker("rmi", "--force", built["reference"])


@pytest.mark.docker
def test_docker_runs_it_read_only_as_nobody_and_it_streams(docker: Docker, loaded: str) -> None:
    port = free_port()
    container = docker(
        "run", "--detach", "--network", "host", "--read-only", "--tmpfs", "/tmp:mode=1777",
        "--tmpfs", "/var/cache/packager:uid=65532,gid=65532,mode=0755", loaded, "--port", str(port),
    )  # fmt: skip
    try:
        wait_until_ready(port, docker, container)
        text, done = stream(port, loaded.partition(":")[0])
        assert len(text) > 10
        assert done
        assert docker("exec", container, "/usr/bin/python3", "-c", "import os; print(os.getuid())") == "65532"
        docker("stop", "--time", "60", container)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
    finally:
        docker("rm", "--force", container)


LOADING = """name: from-hub
engine: {kind: llama_cpp}
weights: {source: "hf://ada/hello", ship: on_load}
"""


@pytest.mark.docker
def test_docker_fetches_in_an_init_container_and_serves_from_a_read_only_store(
    docker: Docker, shared_cache: Path, tmp_path: Path
) -> None:
    """As docs/how-to/air-gapped.md has it for a pod: user 65532, a read-only root, the hub asked by the first alone."""
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec/packager.yaml").write_text(LOADING)
    store = tmp_path / "store"
    store.mkdir()
    os.chown(store, 65532, 65532)
    frozen = ("--network", "host", "--read-only", "--tmpfs", "/tmp:mode=1777", "--env", "PACKAGER_CACHE=/store")
    port = free_port()
    with Hub() as hub:
        hub.add_repo("ada/hello", {"hello.gguf": (ROOT / "examples/hello/hello.gguf").read_bytes()}, lfs=("*.gguf",))
        env = {"DOCKER_HOST": docker.env["DOCKER_HOST"], "HF_ENDPOINT": hub.url}
        image = build("spec", "--docker", cwd=tmp_path, cache=shared_cache, env=env)["reference"]
        container = ""
        try:
            docker(
                "run", "--rm", *frozen, "--volume", f"{store}:/store", "--env", f"HF_ENDPOINT={hub.url}",
                "--entrypoint", "/usr/bin/python3", image, "-m", "packager_runtime.fetch", "/app",
            )  # fmt: skip
            (stored,) = (path for path in store.glob("sha256/*/*"))
            assert (stored.stat().st_uid, stored.stat().st_mode & 0o777) == (65532, 0o444)
            asked = len(hub.requests)
            container = docker(
                "run", "--detach", *frozen, "--volume", f"{store}:/store:ro", "--env", f"HF_ENDPOINT={hub.url}",
                "--env", "PACKAGER_OFFLINE=1", "--tmpfs", "/var/cache/packager:uid=65532,gid=65532,mode=0755",
                image, "--port", str(port),
            )  # fmt: skip
            wait_until_ready(port, docker, container)
            assert stream(port, "from-hub")[1]
            assert len(hub.requests) == asked
        finally:
            if container:
                docker("rm", "--force", container)
            docker("rmi", "--force", image)


@pytest.mark.docker
@pytest.mark.registry
def test_docker_push_keeps_configuration_and_diff_ids(
    docker: Docker, loaded: str, registry: str, built: dict[str, Any]
) -> None:
    name = f"{registry}/docker/{built['name']}:1"
    docker("tag", loaded, name)
    docker("push", name)
    docker("rmi", name)
    docker("pull", name)
    try:
        pulled = json.loads(docker("inspect", name))[0]
        assert pulled["Id"] == built["config_digest"]
        verdict = packager("verify", name, "--package", built["package"], cwd=built["cwd"], cache=built["cwd"] / "none")
        assert "the same image" in verdict.stdout, verdict.stderr
    finally:
        docker("rmi", name)


@pytest.mark.docker
def test_docker_gets_only_the_layers_it_lacks(
    docker: Docker, loaded: str, built: dict[str, Any], shared_cache: Path
) -> None:
    """One edit, loaded again: the engine has the new image though only the last layer was sent."""
    from packager.image.docker import load_image
    from packager.oci.layout import read_layout

    package = built["cwd"] / built["package"]
    edited = built["cwd"] / "edited"
    shutil.copytree(package, edited)
    (edited / "service.py").write_text((edited / "service.py").read_text() + "# edited\n")
    done = build("edited", "--output", "out", cwd=built["cwd"], cache=shared_cache)
    sent: list[int] = []
    os.environ["DOCKER_HOST"], before = docker.env["DOCKER_HOST"], os.environ.get("DOCKER_HOST")
    try:
        image = read_layout(built["cwd"] / done["layout"])
        loaded_id = load_image(image, f"edited-{built['name']}:1", on_bytes=lambda _, amount, total: sent.append(total))
    finally:
        os.environ.pop("DOCKER_HOST") if before is None else os.environ.update(DOCKER_HOST=before)
    assert loaded_id == done["config_digest"]
    assert sent[-1] == image.layers[-1].size
    docker("rmi", f"edited-{built['name']}:1")


@pytest.mark.registry
def test_packager_push_keeps_the_manifest_digest(
    registry: str, built: dict[str, Any], shared_cache: Path, tmp_path: Path
) -> None:
    name = f"{registry}/team/{built['name']}:v1"
    pushed = packager("push", built["layout"], "--to", name, cwd=built["cwd"], cache=shared_cache)
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip().endswith(built["manifest_digest"])
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.fail("skopeo is not installed (.ci/run installs it)") if os.environ.get(
            "PACKAGER_TEST_STRICT"
        ) else pytest.skip("no skopeo")
    raw = run(skopeo, "inspect", "--tls-verify=false", f"docker://{name}")
    assert json.loads(raw)["Digest"] == built["manifest_digest"]
    run(
        skopeo,
        "copy",
        "--src-tls-verify=false",
        "--preserve-digests",
        f"docker://{name}",
        f"oci:{tmp_path / 'back'}:v1",
    )
    index = json.loads((tmp_path / "back/index.json").read_text())
    assert index["manifests"][0]["digest"] == built["manifest_digest"]
    verdict = packager(
        "verify", name, "--package", built["package"], "--deep", "--offline", cwd=built["cwd"], cache=shared_cache
    )
    assert verdict.stdout.startswith("the same image, byte for byte"), verdict.stderr


def test_skopeo_and_inspect_read_the_layout(built: dict[str, Any], shared_cache: Path) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.fail("skopeo is not installed (.ci/run installs it)") if os.environ.get(
            "PACKAGER_TEST_STRICT"
        ) else pytest.skip("no skopeo")
    seen = json.loads(run(skopeo, "inspect", f"oci:{built['cwd'] / built['layout']}"))
    assert seen["Digest"] == built["manifest_digest"]
    assert len(seen["Layers"]) == built["layers"]
    told = packager("inspect", built["package"], "--json", cwd=built["cwd"], cache=shared_cache)
    value = json.loads(told.stdout)
    assert value["image"]["manifest_digest"] == built["manifest_digest"]
    assert value["package"]["name"] == built["name"]
    assert {"bentoml", "orjson"} <= {wheel["name"] for wheel in value["package"]["wheels"]}


@pytest.mark.docker
def test_docker_build_of_the_base_and_of_the_package(
    docker: Docker, built: dict[str, Any], shared_cache: Path, tmp_path: Path
) -> None:
    """Dockerfile.base makes the very root file system of the image's base, and the package's Dockerfile stands on it."""
    context = tmp_path / "context"
    base, uv = f"packager-base:{os.getpid()}", f"packager-uv:{os.getpid()}"
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci/docker_base.py"), str(built["cwd"] / built["layout"]), str(context)],
        check=False,
    )
    assert done.returncode == 0
    docker("build", "--target", "uv", "--tag", uv, "--file", str(ROOT / "Dockerfile.base"), str(context))
    docker("build", "--target", "base", "--tag", base, "--file", str(ROOT / "Dockerfile.base"), str(context))
    layers = json.loads(docker("inspect", base))[0]["RootFS"]["Layers"]
    inspected = json.loads(packager("inspect", built["layout"], "--json", cwd=built["cwd"], cache=tmp_path).stdout)
    assert docker("run", "--rm", "--network", "none", base, "/usr/bin/python3", "-c", "import ssl; print('ok')") == "ok"
    assert len(layers) >= 1
    assert inspected["image"]["layers"][0]["title"].startswith("debian")
    name = f"packager-test-{built['name']}:{os.getpid()}"
    package = str(built["cwd"] / built["package"])
    arguments = ["--build-arg", f"BASE={base}", "--build-arg", f"UV={uv}"]
    with wheel_index(built, shared_cache, tmp_path / "index") as index:
        more = ("--build-arg", f"UV_DEFAULT_INDEX={index}")
        docker("build", "--network", "host", *arguments, *more, "--tag", name, package)
    said = docker(
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "/usr/bin/python3",
        name,
        "-c",
        "import bentoml, orjson; print('ok')",
    )
    assert said.endswith("ok")
    docker("rmi", name, base, uv)


@contextmanager
def wheel_index(built: dict[str, Any], cache: Path, folder: Path) -> Iterator[str]:
    """The image's wheels as a package index on loopback: a folder a project, as the simple repository API has it."""
    lock = json.loads((built["cwd"] / built["package"] / "packager.lock").read_text())
    for wheel in lock["wheels"]:
        (folder / wheel["name"]).mkdir(parents=True)
        (folder / wheel["name"] / wheel["file"]).symlink_to(Store(cache).path(wheel["sha256"]))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


def wait_until_ready(port: int, docker: Docker, container: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert docker("inspect", "--format", "{{.State.Running}}", container) == "true", docker("logs", container)
        time.sleep(0.2)
    pytest.fail(f"not ready: {docker('logs', container)}")


def stream(port: int, model: str) -> tuple[str, bool]:
    """The streamed text, and whether it ended with [DONE]."""
    text, done = "", False
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with httpx.stream("POST", url, json={"model": model, **QUESTION}, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    return text, done


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
