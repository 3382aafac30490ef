"""A real tritonserver over a package, as `.venv-triton` has it (`make engines`): started as its image starts it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from packager.manifest import MANIFEST_PATH, read_manifest
from packager.package.triton import repository, serve_command
from packager.weights.compiled import FILE

from . import compiled, models, nvml
from .machine import free_port, missing
from .packages import make_package
from .serving import ANSWER, PATIENCE

ENVIRONMENT = Path(__file__).parents[2] / ".venv-triton"
FURTHER_END = 1
"""A token that ends answers of `ensemble_package` beside the tokenizer's own end."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SHARED = Path("/dev/shm")


def triton_package(folder: Path, **fields: Any) -> Path:
    """A package named `hello` as `make_package` makes it, with the model repository that the plan gives it."""
    package = make_package(folder, **fields)
    _write(repository(read_manifest(package)), package)
    return package


def ensemble_package(folder: Path, *, stand_in: bool = True, **fields: Any) -> Path:
    """A package of a compiled engine for an A100, with hello's tokenizer, that Triton serves as TensorRT-LLM's ensemble.

    With `stand_in` its model `tensorrt_llm` is Python (triton_engine.py), and all else of its configuration as it was.
    """
    weights = compiled.write_engine(folder.parent / f"{folder.name}-engine")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(models.TOKENIZER / name, weights / name)
    (weights / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, FURTHER_END]}))
    build = compiled.description()
    build["files"] = {
        path.name: {"sha256": sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in weights.iterdir()
    }
    build["limits"]["max_batch_size"] = fields.setdefault("max_concurrency", 4)
    (weights / FILE).write_text(json.dumps(build))
    options = {"gpu_memory": 0.9, "prefix_caching": True} | fields.pop("options", {})
    serving = {"server": "triton", "triton": "ensemble", "max_queue": 8} | fields
    make_package(folder, engine="tensorrt_llm_engine", options=options, weights=weights, **serving)
    manifest = read_manifest(folder)
    assert manifest.weights is not None
    manifest = replace(manifest, weights=replace(manifest.weights, compiled=build))
    (folder / MANIFEST_PATH).write_bytes(manifest.to_bytes())
    _write(repository(manifest), folder)
    if stand_in:
        config = folder / "triton/tensorrt_llm/config.pbtxt"
        config.write_text(config.read_text().replace('backend: "tensorrtllm"', 'backend: "python"'))
        (config.parent / "1").mkdir()
        shutil.copyfile(Path(__file__).with_name("triton_engine.py"), config.parent / "1/model.py")
    return folder


def machine_of_the_engine(folder: Path, *gpus: nvml.FakeGpu) -> dict[str, str]:
    """Variables with which a process finds itself where such an engine runs: an A100, its driver, and the software."""
    folder.mkdir()
    nvml.write_nvml(folder, gpus or (nvml.A100,), cuda=13010)
    compiled.install(folder)
    return {"PYTHONPATH": str(folder), "CUDA_VERSION": "13.1.0", "TMPDIR": str(folder)}


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def installed() -> Path:
    """The folder of the tritonserver, with a Python backend of this Python. Skips where there is none."""
    folder = ENVIRONMENT / f"lib/python{PYTHON}/site-packages/pytriton/tritonserver"
    if not folder.exists():
        missing("no tritonserver: there is no .venv-triton of this Python (`make engines` sets it up)")
    stub = "triton_python_backend_stub"
    ours, place = folder / "python_backend_stubs" / PYTHON / stub, folder / "backends/python" / stub
    if not ours.exists():
        missing(f"this tritonserver has no Python backend for Python {PYTHON}")
    if not place.exists():
        shutil.copy2(ours, place)
    needed = subprocess.run(
        ["ldd", str(place)], capture_output=True, text=True, env=_environ(folder, ENVIRONMENT), check=True
    )
    if "not found" in needed.stdout:
        missing(f"Triton's Python backend needs libpython{PYTHON}.so.1.0 (Debian's package libpython{PYTHON})")
    return folder


def with_numpy_1(environment: Path, folder: Path) -> Path:
    """An environment in `folder` that is `environment` but for its numpy: this Triton's backend takes numpy 1 alone."""
    if not environment.exists():
        missing(f"there is no {environment.name} (`make engines` sets it up)")
    packages = f"lib/python{PYTHON}/site-packages"
    (folder / packages).mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin/python3").symlink_to((environment / "bin/python").resolve())
    shutil.copyfile(environment / "pyvenv.cfg", folder / "pyvenv.cfg")
    for name in ("numpy", "numpy.libs"):
        (folder / packages / name).symlink_to(ENVIRONMENT / packages / name)
    (folder / packages / "rest.pth").write_text(f"{environment / packages}\n")
    return folder


def _environ(folder: Path, environment: Path) -> dict[str, str]:
    own = Path(sys.base_prefix) / "lib"  # a Python that was built here has its library there
    libraries = [os.environ.get("LD_LIBRARY_PATH", ""), *([str(own)] if any(own.glob("libpython*")) else [])]
    return {
        # The backend's Python is the environment whose `python3` comes first.
        "PATH": f"{environment / 'bin'}:{folder / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
    }


class TritonServer:
    """A tritonserver that serves `package`; `options` are added to those of its image. Ended with the block.

    The model runs in the Python environment `environment`. `prefix` begins the names of what it makes in shared memory.
    """

    def __init__(self, package: Path, *options: str, environment: Path = ENVIRONMENT, **environ: str) -> None:
        folder = installed()
        self.http, self.grpc, self.metrics = (free_port() for _ in range(3))
        ports = (f"--http-port={self.http}", f"--grpc-port={self.grpc}", f"--metrics-port={self.metrics}")
        self.prefix = f"packager-test-{os.getpid()}-{self.http}-"
        memory = f"--backend-config=python,shm-region-prefix-name={self.prefix}"
        command = serve_command(read_manifest(package), str(environment / "bin/python3"), str(package))
        home = package.parent / f"{package.name}-home"
        home.mkdir(exist_ok=True)
        environ["PYTHONPATH"] = f"{package / 'packages'}:{environ.get('PYTHONPATH', '')}".rstrip(":")
        self.process = subprocess.Popen(
            [*command, *ports, memory, f"--backend-directory={folder / 'backends'}", *options],
            env=_environ(folder, environment) | {"HOME": str(home), "PACKAGER_CACHE": str(home / "cache")} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def model(self) -> str:
        return f"{self.url}/v2/models/hello"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait_exit()
        for name in self.regions():
            (SHARED / name).unlink(missing_ok=True)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_ready(self, seconds: float = PATIENCE) -> Self:
        deadline = time.monotonic() + seconds
        while not self._answers() and self.process.poll() is None:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        assert self.process.poll() is None, self.output()
        return self

    def wait_exit(self) -> int:
        """The exit status. All output has been read."""
        status = self.process.wait(PATIENCE * 2)
        self._reader.join()
        return status

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its models at once, as the system ends a container."""
        if self.process.poll() is None:
            # The models' processes go first: with their parent gone nobody would know them.
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def regions(self) -> list[str]:
        """The names in shared memory that its Python backend made and that are still there."""
        return [path.name for path in SHARED.glob(f"{self.prefix}*")]

    def stubs(self) -> list[psutil.Process]:
        """The processes of the Python backend that run, one for each of its models."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _is_stub(child)]

    def model_processes(self) -> int:
        """How many processes of the Python backend run."""
        return len(self.stubs())

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log records with this name of the runtime in the model's process."""
        records = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [record for record in records if record.get("event") == name]

    def output(self) -> str:
        return "".join(self.lines)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=ANSWER).status_code == 200
        except httpx.TransportError:
            return False

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


def _is_stub(process: psutil.Process) -> bool:
    """Whether it is the Python backend's, and has not ended since it was listed."""
    try:
        return "stub" in process.name() or "triton_python" in process.name()
    except psutil.NoSuchProcess:
        return False


def read_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of server-sent events, as their lines come."""
    return (json.loads(line.removeprefix("data: ")) for line in lines if line)
