"""A conversion on a machine with a GPU, by NVML, PEFT and torch as they are there; TensorRT-LLM is the stand-in."""

import os
import subprocess
from pathlib import Path

import pytest
from fakes.cli import ROOT
from fakes.compiled import make_environment
from fakes.lora import write_adapter
from fakes.models import write_model

from packager.recipes.gpus import GPUS, shown
from packager.runtime.machine import find_machine
from packager.weights.compiled import read_build

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytest.importorskip("peft", reason="PEFT is not installed")
try:
    pynvml.nvmlInit()
except pynvml.NVMLError as error:
    pytestmark = [pytest.mark.gpu, pytest.mark.skip(reason=f"needs a GPU: {error}")]
else:
    pytestmark = pytest.mark.gpu

SPEC = """name: hello
engine: {{kind: tensorrt_llm_engine}}
weights: {{source: hf://ada/engine, ship: on_load}}
conversion: {{source: "file://model", merge: {{source: "file://adapter"}}}}
hardware: {{gpu: {gpu}}}
image: {{base: {{kind: registry, image: "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"}}}}
"""


def convert(python: Path, folder: Path, gpu: str) -> "subprocess.CompletedProcess[str]":
    """`packager convert` in an environment that TensorRT-LLM is in, too."""
    (folder / "packager.yaml").write_text(SPEC.format(gpu=gpu))
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests/fakes/vendor"), os.environ.get("PYTHONPATH", "")))
    env = {**os.environ, "PYTHONPATH": path, "PACKAGER_CACHE": str(folder / "cache")}
    argv = [python, "-m", "packager", "convert", ".", "--output", "engine"]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_gpu_here_is_what_the_engine_is_for(tmp_path):
    write_model(tmp_path / "model", "mistral")
    write_adapter(tmp_path / "adapter")
    python = make_environment(tmp_path / "venv")
    here = find_machine().gpus[0]
    fits = [name for name, one in GPUS.items() if shown(one.capability) == here.sm]
    other = next(name for name, one in GPUS.items() if one.capability >= 80 and name not in fits)
    refused = convert(python, tmp_path, other)
    assert refused.returncode == 1
    assert f"the engine is for {other}, of compute capability" in refused.stderr
    assert not (tmp_path / "cache/trees").exists()
    (gpu, *_) = [name for name in fits if GPUS[name].memory * 1024 >= here.memory_mib]
    done = convert(python, tmp_path, gpu)
    assert done.returncode == 0, done.stderr
    build = read_build((tmp_path / "engine/engine.json").read_bytes())
    assert (build.gpu.name, build.gpu.sm, build.gpu.memory_mib) == (here.name, here.sm, here.memory_mib)
    assert (tmp_path / "engine/rank0.engine").stat().st_size > (tmp_path / "model/model.safetensors").stat().st_size
