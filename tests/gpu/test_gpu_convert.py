"""A conversion on a machine with a GPU, by NVML, PEFT and torch as they are there; TensorRT-LLM is the stand-in."""

import os
import sys
from pathlib import Path

import pytest
from fakes.compiled import SOFTWARE, install
from fakes.lora import write_adapter
from fakes.models import write_model

from packager.command import run_command
from packager.convert.describe import Told
from packager.convert.plan import conversion_of, make_plan
from packager.convert.run import convert
from packager.convert.source import look_at_adapter, look_at_model
from packager.errors import MismatchError
from packager.lock.tools import Tools
from packager.recipes.gpus import GPUS, shown
from packager.runtime.machine import find_machine
from packager.spec.load import load_spec
from packager.store import Store

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytest.importorskip("peft", reason="PEFT is not installed")
try:
    pynvml.nvmlInit()
except pynvml.NVMLError as error:
    pytestmark = [pytest.mark.gpu, pytest.mark.skip(reason=f"needs a GPU: {error}")]
else:
    pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
SPEC = """name: hello
engine: {{kind: tensorrt_llm_engine}}
weights: {{source: hf://ada/engine, ship: on_load}}
conversion: {{source: "file://model", merge: {{source: "file://adapter"}}}}
hardware: {{gpu: {gpu}}}
image: {{base: {{kind: registry, image: "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"}}}}
"""


def run(folder: Path, gpu: str):
    (folder / "packager.yaml").write_text(SPEC.format(gpu=gpu))
    file, tools = load_spec(folder), Tools(Store(folder / "cache"), run_command)
    asked = conversion_of(file)
    found = look_at_model(file, asked, tools), look_at_adapter(file, asked, tools)
    return convert(make_plan(file, *found, folder / "engine", upload=False), file, Told(), tools)


def test_the_gpu_here_is_what_the_engine_is_for(tmp_path, monkeypatch):
    write_model(tmp_path / "model", "mistral")
    write_adapter(tmp_path / "adapter")
    monkeypatch.syspath_prepend(install(tmp_path / "site", SOFTWARE))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))  # the environment of packager is that of TensorRT-LLM
    vendor = str(ROOT / "tests/fakes/vendor")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((vendor, os.environ.get("PYTHONPATH", ""))))
    here = find_machine().gpus[0]
    fits = [name for name, one in GPUS.items() if shown(one.capability) == here.sm]
    other = next(name for name, one in GPUS.items() if one.capability >= 80 and name not in fits)
    with pytest.raises(MismatchError, match=f"the engine is for {other}, of compute capability"):
        run(tmp_path, other)
    assert not (tmp_path / "cache/trees").exists()
    (gpu, *_) = [name for name in fits if GPUS[name].memory * 1024 >= here.memory_mib]
    build = run(tmp_path, gpu)
    assert (build.gpu.name, build.gpu.sm, build.gpu.memory_mib) == (here.name, here.sm, here.memory_mib)
    assert (tmp_path / "engine/rank0.engine").stat().st_size > (tmp_path / "model/model.safetensors").stat().st_size
