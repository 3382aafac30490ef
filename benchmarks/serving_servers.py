"""The servers that serving.py compares: how each is started, and the folders and environments that takes."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure import ROOT, BenchmarkError, run

sys.path.insert(0, str(ROOT / "tests"))

from fakes.packages import make_package

PEERS = Path(__file__).resolve().parent / "serving_peers"
BASE, LEAST, CEILING = "BentoML's own streaming API", "raw ASGI, uvicorn", "(client alone)"
OURS_BENTO, OURS = "packager's package under `bentoml serve`", "packager's own runner"
_TRUSS_ROUTE = "/v1/models/model:predict"


@dataclass(frozen=True, slots=True)
class Server:
    """How to start one: `{port}` and `{events}` stand for themselves. `extra` events come after the tokens."""

    name: str
    argv: Sequence[str]
    path: str
    body: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = PEERS
    extra: int = 1


def servers(work: Path, slots: int, *, environment: bool) -> list[Server]:
    """All that are compared, the base first; without `environment` those that need one of their own are left out."""
    package = make_package(work / "package", max_concurrency=slots, max_queue=slots)
    address = ["--host", "127.0.0.1", "--port", "{port}"]
    bento = [sys.executable, "-m", "bentoml", "serve", *address]
    quick = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", *address]
    runner = [sys.executable, "-m", "packager_runtime.runtime", "serve", str(package), "--port", "{port}"]
    peers = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PEERS)])}
    vendored = {"PYTHONPATH": str(package / "packages")}
    stream = {"stream": True}
    openai = {"stream": True, "model": "hello"}
    return [
        Server(BASE, [*bento, "bento:Service"], "/generate", env={**peers, "TRACED": "yes"}),
        Server(f"{BASE}, spans left out", [*bento, "bento:Service"], "/generate", env={**peers, "TRACED": "no"}),
        *(_foreign(work, peers, quick) if environment else ()),
        Server(LEAST, [sys.executable, "-m", "uvicorn", "raw:app", *quick], "/generate", env=peers),
        Server(OURS_BENTO, bento, "/predict", stream, cwd=package, extra=2),
        Server(OURS, runner, "/predict", stream, vendored, package, 2),
        Server(f"{OURS}, OpenAI's completions", runner, "/v1/completions", openai, vendored, package, 2),
        Server(CEILING, [sys.executable, "blast.py", "{port}", "{events}"], "/"),
    ]


def _foreign(work: Path, peers: Mapping[str, str], quick: Sequence[str]) -> list[Server]:
    """Truss's server and FastAPI, both in an environment of requirements/truss.txt."""
    python = work / "truss/bin/python"
    try:
        uv = [sys.executable, "-m", "uv"]
        run([*uv, "venv", "--quiet", "--python", sys.executable, work / "truss"])
        pins = ["--require-hashes", "-r", ROOT / "requirements/truss.txt"]
        run([*uv, "pip", "install", "--quiet", "--python", python, *pins])
        app = _truss_app(python, work)
    except BenchmarkError as error:
        print(f"no Truss and no FastAPI: {error}", file=sys.stderr)
        return []
    env = {**peers, "HOME": str(work), "INFERENCE_SERVER_PORT": "{port}"}
    return [
        Server("Truss's server", [str(python), "main.py"], _TRUSS_ROUTE, env=env, cwd=app),
        Server("FastAPI, pydantic a token", [str(python), "-m", "uvicorn", "fast:app", *quick], "/generate", env=peers),
    ]


def _truss_app(python: Path, work: Path) -> Path:
    """Truss's server with serving_peers/truss in it, laid out as Truss's Dockerfile lays it."""
    context, app = work / "context", work / "app"
    env = {**os.environ, "HOME": str(work)}
    run([python.with_name("truss"), "image", "build-context", context, PEERS / "truss"], env=env, cwd=work)
    shutil.copytree(context / "server", app)
    shutil.copytree(context / "model", app / "model")
    shutil.copyfile(context / "config.yaml", app / "config.yaml")
    return app
