"""The step before Triton: the model repository with the weights' paths, the command, and what ends it with a reason."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.compiled import description
from fakes.nvml import A10G
from fakes.serving import PATIENCE, wait_until
from fakes.tritonserver import ensemble_package, machine_of_the_engine
from google.protobuf import text_format as protobuf
from tritonclient.grpc.model_config_pb2 import ModelConfig

from packager.errors import LoadError
from packager.manifest import EngineManifest, Manifest, WeightsManifest, read_manifest
from packager.package.triton import serve_command
from packager.runtime.server.triton_start import launch, write_repository
from packager.store import Store
from packager.weights.leases import living


@pytest.fixture
def package(tmp_path) -> Path:
    return ensemble_package(tmp_path / "package", stand_in=False)


def repository(package: Path, weights: Path, tmp_path: Path) -> Path:
    target = tmp_path / "repository"
    target.mkdir()
    return write_repository(package / "triton", weights, target)


def parameters(config: Path) -> dict[str, str]:
    found = protobuf.Parse(config.read_text(), ModelConfig())
    return {name: one.string_value for name, one in found.parameters.items()}


class TestRepository:
    def test_every_parameter_is_filled(self, package, tmp_path):
        weights = tmp_path / 'a "quoted" ünï\\path'
        made = repository(package, weights, tmp_path)
        names = {path.name for path in made.iterdir()}
        assert names == {"preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls", "ensemble"}
        for model in made.iterdir():
            assert "${" not in (model / "config.pbtxt").read_text()
            assert (model / "1").is_dir()
        engine = parameters(made / "tensorrt_llm/config.pbtxt")
        assert (engine["gpt_model_path"], engine["tokenizer_dir"]) == (str(weights), str(weights))
        for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
            assert parameters(made / model / "config.pbtxt")["tokenizer_dir"] == str(weights)

    def test_programs_are_the_packages_own(self, package, tmp_path):
        made = repository(package, tmp_path, tmp_path)
        program = made / "preprocessing/1/model.py"
        assert program.resolve() == package / "triton/preprocessing/1/model.py"

    def test_a_variable_that_nobody_filled_in(self, package, tmp_path):
        config = package / "triton/tensorrt_llm/config.pbtxt"
        config.write_text(config.read_text().replace('"inflight_fused_batching"', '"${batching_strategy}"'))
        with pytest.raises(LoadError, match=r'not filled in: string_value: "\$\{batching_strategy\}"') as caught:
            repository(package, tmp_path, tmp_path)
        assert caught.value.problems[0].where.startswith(f"{config}:")


class TestCommand:
    OPTIONS = ("tritonserver", "--http-port=8000")

    def manifest(self, package: Path, ranks: int) -> Manifest:
        found = read_manifest(package)
        weights = WeightsManifest("file://x", "", "in_image", ".", (), compiled=description(ranks))
        return Manifest("hello", "0", EngineManifest("tensorrt_llm_engine", "1.2.1", {}), weights, found.serving)

    def test_one_gpu(self, package):
        command = launch(self.manifest(package, 1), self.OPTIONS, Path("/models"))
        assert command == ("tritonserver", "--model-repository=/models", "--http-port=8000")

    def test_a_triton_for_each_part_of_an_engine(self, package):
        command = " ".join(launch(self.manifest(package, 2), self.OPTIONS, Path("/models")))
        assert command == (
            "mpirun --allow-run-as-root "
            "-n 1 tritonserver --model-repository=/models --http-port=8000 "
            "--backend-config=python,shm-region-prefix-name=prefix0_ : "
            "-n 1 tritonserver --model-repository=/models --http-port=8000 "
            "--backend-config=python,shm-region-prefix-name=prefix1_ "
            "--model-control-mode=explicit --load-model=tensorrt_llm"
        )


PROGRAM = """\
#!/bin/sh
echo "served by $$: $@"
exec sleep 600
"""


class TestStart:
    """The step as the image starts it, and a program that stands for tritonserver."""

    @pytest.fixture
    def start(self, package, tmp_path):
        started: list[subprocess.Popen[str]] = []

        def run(*gpus, program: bool = True, **environ: str) -> subprocess.Popen[str]:
            found = machine_of_the_engine(tmp_path / "machine", *gpus)
            place = tmp_path / "bin"
            place.mkdir()
            if program:
                (place / "tritonserver").write_text(PROGRAM)
                (place / "tritonserver").chmod(0o755)
            found["PYTHONPATH"] += f":{package / 'packages'}"
            env = {
                "PATH": f"{place}:/bin:/usr/bin",
                "TMPDIR": str(tmp_path),
                "PACKAGER_CACHE": str(tmp_path / "cache"),
                **found,
                **environ,
            }
            process = subprocess.Popen(
                serve_command(read_manifest(package), sys.executable, str(package)),
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            return process

        yield run
        for process in started:
            process.kill()
            process.communicate()

    def test_it_becomes_triton(self, start):
        process = start()
        line = process.stdout.readline()
        assert line.startswith(f"served by {process.pid}: --model-repository=")
        assert "--metrics-port=3002" in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM

    def test_what_it_uses_of_the_store_stays_its_own(self, start, package, tmp_path):
        """The lease outlives the program that took it: what became of the process still holds it."""
        manifest = json.loads((package / "model/manifest.json").read_bytes())
        manifest["weights"] |= {"ship": "on_load", "source": f"file://{tmp_path / 'package-engine'}"}
        (package / "model/manifest.json").write_text(json.dumps(manifest))
        process = start()
        assert "served by" in process.stdout.readline()
        store = Store(tmp_path / "cache")
        (lease,) = living(store)
        assert (lease.pid, lease.holder) == (process.pid, "hello")
        process.kill()
        process.wait(PATIENCE)
        wait_until(lambda: living(store) == (), "nobody holds it any more")

    def failure(self, process: "subprocess.Popen[str]") -> dict[str, str]:
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert output == ""
        return json.loads(errors.splitlines()[-1])

    def test_another_gpu(self, start):
        said = self.failure(start(A10G))
        assert said["event"] == "failed"
        assert "the engine was compiled for compute capability 8.0" in said["reason"]
        assert "CUDA_VISIBLE_DEVICES" in said["mend"]

    def test_weights_that_are_not_what_was_packaged(self, start, package):
        (package / "data/rank0.engine").write_bytes(b"something else")
        assert "the weights are not what was packaged" in self.failure(start())["reason"]

    def test_api_keys_would_be_checked_by_nobody(self, start):
        said = self.failure(start(PACKAGER_API_KEYS="a" * 20))
        assert "PACKAGER_API_KEYS is set, and Triton checks no API keys" in said["reason"]

    def test_what_is_no_log_level(self, start):
        assert "PACKAGER_LOG_LEVEL: it is 'bogus'" in self.failure(start(PACKAGER_LOG_LEVEL="bogus"))["reason"]

    def test_a_base_without_triton(self, start):
        said = self.failure(start(program=False))
        assert "tritonserver cannot be started" in said["reason"]
        assert "a base that has Triton" in said["mend"]

    def test_a_stop_signal_while_weights_are_read(self, start, package, tmp_path):
        """Also as a container's first process, which no signal ends by itself."""
        pipe = tmp_path / "package-engine" / "rank0.engine"
        pipe.unlink()
        os.mkfifo(pipe)
        manifest = json.loads((package / "model/manifest.json").read_bytes())
        manifest["weights"] |= {"ship": "on_load", "source": f"file://{pipe.parent}"}
        (package / "model/manifest.json").write_text(json.dumps(manifest))
        process = start()
        assert '"phase": "resolve"' in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
