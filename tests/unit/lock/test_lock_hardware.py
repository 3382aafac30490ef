"""Weights that alone are more than the GPUs have: said, by `lock` and by `build`, and not refused."""

from dataclasses import replace

import pytest
from fakes.locks import make_lock

from packager.cli.console import Console
from packager.cli.lock import tell
from packager.errors import FetchError
from packager.lock.hardware import loaded_bytes, too_small
from packager.lock.lockfile import WeightsLock
from packager.lock.model import ModelFacts
from packager.lock.tools import default_tools
from packager.manifest import WeightsFile
from packager.pipeline import BuildOptions, build
from packager.spec.load import load_spec

GIB = 2**30
NOTE = "the weights alone are 30.0 GiB, and l4 has 22.0 GiB: `packager plan` says what fits"


@pytest.fixture
def file(tmp_path):
    def write(more="hardware: {gpu: l4}", engine="{kind: vllm}"):
        path = tmp_path / "packager.yaml"
        path.write_text(f"name: m\nengine: {engine}\nweights: {{source: 'hf://ada/model'}}\n{more}\n")
        return load_spec(path)

    return write


def weights(*sizes, **facts):
    files = tuple(WeightsFile(f"model-{number}.safetensors", size, "0" * 64) for number, size in enumerate(sizes))
    return WeightsLock("hf://ada/model", "", files, ModelFacts(**facts))


def test_more_than_a_gpu_has(file):
    assert too_small(file().spec, weights(20 * GIB, 10 * GIB)) == NOTE


def test_less_is_no_news(file):
    assert too_small(file().spec, weights(20 * GIB)) == ""
    assert too_small(file("").spec, weights(300 * GIB)) == ""
    assert too_small(file().spec, None) == ""


def test_several_gpus_have_more(file):
    spec = file("hardware: {gpu: l4, count: 2}", "{kind: vllm, tensor_parallel: 2}").spec
    assert too_small(spec, weights(30 * GIB)) == ""
    assert "2 x l4 has 44.1 GiB" in too_small(spec, weights(60 * GIB))


@pytest.mark.parametrize("facts", [{"dtype": "float32"}, {"dtype": "bfloat16"}])
def test_weights_that_shrink_when_they_are_loaded_are_not_judged(file, facts):
    spec = file(f"hardware: {{gpu: l4}}\nquantization: {'none' if facts['dtype'] == 'float32' else 'fp8'}").spec
    assert too_small(spec, weights(30 * GIB, **facts)) == ""


def test_weights_that_are_quantized_already_do_not_shrink(file):
    spec = file("hardware: {gpu: l4}\nquantization: fp8").spec
    assert too_small(spec, weights(30 * GIB, quantization="fp8")) == NOTE


def test_layers_may_stay_on_the_cpu(file):
    lock = WeightsLock("hf://ada/model", "", (WeightsFile("m.gguf", 30 * GIB, "0" * 64),))
    assert too_small(file(engine="{kind: llama_cpp, gpu_layers: 9}").spec, lock) == ""
    assert too_small(file(engine="{kind: llama_cpp, gpu_layers: -1}").spec, lock) == NOTE


def test_files_that_an_engine_loads(file):
    sizes = [("model.safetensors", 5), ("consolidated.safetensors", 5), ("onnx/model.safetensors", 7), ("a.gguf", 2)]
    assert loaded_bytes(file().spec, sizes) == 5
    assert loaded_bytes(file().spec, sizes[1:]) == 5
    assert loaded_bytes(file("hardware: {gpu: l4}\nquantization: gguf").spec, sizes) == 2
    assert loaded_bytes(file(engine="{kind: llama_cpp}").spec, sizes) == 2
    assert loaded_bytes(file().spec, []) is None
    ranks = [("config.json", 1), ("model.safetensors", 5), ("rank0.engine", 3), ("rank1.engine", 3)]
    assert loaded_bytes(file(engine="{kind: tensorrt_llm_engine}").spec, ranks) == 6


def test_lock_says_it(file, capsys):
    lock = make_lock(file().spec, weights=weights(30 * GIB))
    tell(Console(), file(), lock)
    assert NOTE in capsys.readouterr().err.splitlines()


def test_build_says_it_before_it_fetches(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    lock = make_lock(file().spec, weights=weights(30 * GIB))
    (tmp_path / "packager.lock").write_bytes(lock.to_bytes())
    said = []
    tools = replace(default_tools(), offline=True, say=said.append)
    with pytest.raises(FetchError, match="offline, and the store lacks weights"):
        build(tmp_path / "packager.yaml", BuildOptions(output=tmp_path / "dist"), tools)
    assert NOTE in said
