"""The `docker run` that a dry run shows: what it mounts, hands on and installs."""

import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

from packager.convert.describe import Told
from packager.convert.docker import docker_command
from packager.convert.plan import make_plan
from packager.convert.source import Found
from packager.lock.model import ModelFacts
from packager.spec.load import load_spec
from packager.weights.source import SourceFile

SPEC = """name: x
engine: {{kind: tensorrt_llm_engine, tensor_parallel: 2}}
weights: {{source: '{weights}'{tokenizer}, ship: {ship}}}
quantization: awq
conversion: {{source: {source}, merge: {{source: {merge}}}, calibration: {{dataset: {dataset}}}}}
hardware: {{gpu: a10g, count: 2}}
image: {{base: {{kind: registry, image: registry.example.com/trt:1}}}}
"""
NOTHING = Told()
NONE: Mapping[str, str] = {}
HUB = {"weights": "hf://ada/engine", "source": "hf://ada/model", "merge": "hf://ada/lora", "dataset": "pileval"}
HUB |= {"tokenizer": "", "ship": "on_load"}


@pytest.fixture
def command(tmp_path: Path):
    def make(
        *, upload: bool = False, told: Told = NOTHING, mirrors: Mapping[str, str] = NONE, **changed: str
    ) -> list[str]:
        (tmp_path / "packager.yaml").write_text(SPEC.format(**HUB | changed))
        file = load_spec(tmp_path)
        found = Found("hf://ada/model", "", (SourceFile("tokenizer.json", 1),), ModelFacts(context=64), "")
        plan = make_plan(file, found, found, Path("/engines/x y"), upload=upload)
        return docker_command(plan, file, Path("/store"), told, mirrors)

    return make


def values(command: list[str], option: str) -> list[str]:
    return [command[place + 1] for place, one in enumerate(command) if one == option]


def test_paths_mean_inside_what_they_mean_outside(command, tmp_path):
    run = command()
    assert values(run, "-v") == [f"{tmp_path}:{tmp_path}:ro", "/store:/store", "/engines:/engines"]
    hub = ["HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
    assert values(run, "-e") == ["PACKAGER_CACHE=/store", "PACKAGER_WEIGHTS_MIRRORS", *hub]
    assert values(run, "--gpus") == ["2"]
    *_, image, shell, option, script = run
    assert (image, shell, option) == ("registry.example.com/trt:1", "bash", "-c")
    venv, install, convert = script.split(" && ")
    assert shlex.split(venv)[-1] == "/packager"
    assert shlex.split(install)[-1] == f"llm-packager[nvml]=={version('llm-packager')}"
    assert shlex.split(convert) == [
        "/packager/bin/packager", "convert", f"{tmp_path}/packager.yaml", "--output", "/engines/x y",
        "--image", "registry.example.com/trt:1",
    ]  # fmt: skip


def test_what_lies_on_this_machine_is_mounted(command, tmp_path):
    run = command(source="file://model", merge="file:///adapters/one", dataset="/texts")
    assert values(run, "-v")[:4] == [
        f"{tmp_path}:{tmp_path}:ro",
        f"{tmp_path}/model:{tmp_path}/model:ro",
        "/adapters/one:/adapters/one:ro",
        "/texts:/texts:ro",
    ]


def test_a_tokenizer_of_this_machine_is_mounted(command):
    run = command(tokenizer=", tokenizer: 'file:///words'")
    assert "/words:/words:ro" in values(run, "-v")


@pytest.mark.parametrize(
    ("weights", "ship", "folder"),
    [("file:///engines there/one", "on_load", "/engines there/one"), ("file://shipped", "in_image", "{}/shipped")],
)
def test_what_is_uploaded_into_a_folder_stays_when_the_container_goes(command, tmp_path, weights, ship, folder):
    folder = folder.format(tmp_path)
    assert f"{folder}:{folder}" in values(command(weights=weights, ship=ship, upload=True), "-v")
    assert not [one for one in values(command(weights=weights, ship=ship), "-v") if one.startswith(folder)]


def test_an_object_store_brings_its_library_and_settings(command):
    assert "s3" not in command(weights="s3://bucket/engine")[-1]
    run = command(weights="s3://bucket/engine", upload=True)
    assert shlex.split(run[-1].split(" && ")[1])[-1].startswith("llm-packager[nvml,s3]==")
    assert run[-1].endswith(" --upload")
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert keys <= {*values(run, "-e")}


def test_what_is_said_of_the_engine_is_handed_on(command):
    told = Told(memory_mib=39000, image="registry.example.com/trt@sha256:1")
    *_, image, _, _, script = command(told=told)
    assert image == told.image
    assert shlex.split(script)[-4:] == ["--image", told.image, "--gpu-memory", "39000"]


def test_mirrors_are_read_inside_as_outside(command):
    run = command(mirrors={"hf://ada/": "file:///copies/ada/"})
    assert {"/copies/ada/model:/copies/ada/model:ro", "/copies/ada/lora:/copies/ada/lora:ro"} <= {*values(run, "-v")}
    run = command(mirrors={"hf://ada/model/": "s3://copies/model/"})
    assert "llm-packager[nvml,s3]" in run[-1]
    assert "AWS_SESSION_TOKEN" in values(run, "-e")
