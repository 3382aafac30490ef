"""What stands here, asked of NVIDIA's own library, and an engine for another GPU refused in time. Needs pytest alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.compiled import description, install

from packager.runtime.machine import find_machine

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
try:
    pynvml.nvmlInit()
except pynvml.NVMLError as error:
    pytestmark = [pytest.mark.gpu, pytest.mark.skip(reason=f"needs a GPU: {error}")]
else:
    pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
REFUSE = """
import json, sys, time
begun = time.perf_counter()
from packager.errors import MismatchError
from packager.manifest import EngineManifest, Manifest, ServingManifest, WeightsFile, WeightsManifest
from packager.runtime.machine import refuse_mismatch
compiled = json.loads(sys.argv[1])
files = tuple(WeightsFile(path, one["size"], one["sha256"]) for path, one in compiled["files"].items())
weights = WeightsManifest("file://nowhere", "", "on_load", ".", files, compiled=compiled)
serving = ServingManifest("standalone", "packager", 8000, 1, 1, 1)
manifest = Manifest("m", "0", EngineManifest("tensorrt_llm_engine", "1.2.1", {}), weights, serving)
try:
    refuse_mismatch(manifest)
    problems = []
except MismatchError as error:
    problems = [[one.where, one.what] for one in error.problems]
heavy = sorted({"torch", "tensorrt", "tensorrt_llm", "numpy"} & sys.modules.keys())
print(json.dumps({"problems": problems, "seconds": time.perf_counter() - begun, "heavy": heavy}))
"""


def refuse(site: Path, **environment: str) -> dict:
    """What a new process says of an engine that an A100 compiled, and in how many seconds."""
    install(site)
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, json.dumps(description())],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def smi(*fields: str) -> list[list[str]]:
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return [[word.strip() for word in line.split(",")] for line in lines]


def test_it_is_what_nvidia_smi_says(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = find_machine()
    said = smi("name", "compute_cap", "memory.total", "driver_version")
    assert [[one.name, one.sm, str(one.memory_mib), found.driver] for one in found.gpus] == said
    assert int(found.cuda_driver.split(".")[0]) >= 12


COUNT = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print(count.value if status == 0 else 0)
"""


def test_cuda_itself_shows_as_many(monkeypatch):
    uuids = [uuid for (uuid,) in smi("uuid")]
    first, last = uuids[0], uuids[-1]
    numbers = [
        "0",
        "",
        "-1",
        "0,-1",
        "7,0",
        "0,7",
        "0,0",
        "1,0",
        "0,1",
        "0,1,0",
        " 0 , 1 ",
        "x",
        "0,x,1",
        "00",
        "0,9,0",
    ]
    numbers += ["+0", "-0", "0x0", "0x1,0", "1abc", "1 0", "0;1", "0,,1", ",0", "1.5", "²", "9999999999", "1,1,9"]
    named = [first, first[:12], first[:5], first[4:], "GPU-", "GPU-nothing", f"{first},{first}", f"{last},{first}"]
    named += [first.lower(), first.upper(), f" {first}", f"{first} ,{last}", f"{first}, {last}"]
    mixed = [f"0,{last}", f"{last},0", f"{first},0", f"{first},GPU-nothing,{last}", f"{first},x,{last}"]
    differ = {}
    for chosen in (None, *numbers, *named, *mixed):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if chosen is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
        ours, theirs = len(find_machine().gpus), int(done.stdout)
        if ours != theirs:
            differ[chosen] = (ours, theirs)
    assert differ == {}


def test_an_engine_of_another_gpu_is_refused_in_under_a_second(tmp_path):
    if find_machine().gpus[0].sm == "8.0":
        pytest.skip("this is such a GPU")
    said = refuse(tmp_path)
    assert [where for where, _ in said["problems"]] == ["engine.json:gpu.sm"], said
    assert find_machine().gpus[0].name in said["problems"][0][1]
    assert said["heavy"] == []
    assert said["seconds"] < 1
    print(said)


def test_hidden_gpus_are_not_there(tmp_path):
    said = refuse(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert [where for where, _ in said["problems"]] == ["engine.json:mapping.world_size"]
