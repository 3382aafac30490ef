"""Merging, by the real PEFT and transformers: the step as a program, as a conversion runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes.cli import ROOT, environment
from fakes.compiled import make_environment
from fakes.lora import write_adapter
from fakes.models import write_model
from fakes.nvml import A100, write_nvml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from packager.convert.step import Step, run_step
from packager.errors import ConvertError
from packager.weights.compiled import read_build

SPEC = """name: hello
engine: {kind: tensorrt_llm_engine}
weights: {source: hf://ada/engine, ship: on_load}
conversion:
  source: file://model
  merge: {source: file://adapter}
hardware: {gpu: a100-40gb}
image: {base: {kind: registry, image: "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"}}
"""
PROMPT = torch.tensor([[5, 17, 300, 41, 8]])


def merged(model: Path, adapter: Path, folder: Path) -> Path:
    """The folder that the step wrote."""
    folder.mkdir()
    task = {"model": str(model), "adapter": str(adapter), "save": str(folder / "merged"), "own_code": False}
    run_step(Step("merge", task, {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}), folder, sys.executable, print)
    return folder / "merged"


def continued(model: torch.nn.Module) -> list[int]:
    return model.generate(PROMPT, max_new_tokens=24, do_sample=False)[0].tolist()


@pytest.fixture(params=["mistral", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", request.param)


def test_it_is_the_sum_and_answers_like_model_and_adapter(model, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", rank=8, strength=0.5)
    found = load_file(merged(model, adapter, tmp_path / "work") / "model.safetensors")
    base, lora = load_file(model / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    scale = 2.0  # lora_alpha / r
    assert found.keys() == base.keys()
    touched = 0
    for name, weight in base.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{place}.lora_A.weight" in lora:
            touched += 1
            delta = scale * lora[f"{place}.lora_B.weight"] @ lora[f"{place}.lora_A.weight"]
            assert delta.abs().max() > 0.1
            torch.testing.assert_close(found[name], weight + delta, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(found[name], weight)
    assert touched == 4
    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
    with apart.disable_adapter():
        plain = continued(apart)
    answer = continued(AutoModelForCausalLM.from_pretrained(tmp_path / "work/merged"))
    assert answer == continued(apart)
    assert answer != plain


def test_numbers_keep_their_format(tmp_path):
    model, adapter = write_model(tmp_path / "model"), write_adapter(tmp_path / "adapter")
    halved = {name: one.to(torch.bfloat16) for name, one in load_file(model / "model.safetensors").items()}
    save_file(halved, model / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    found = load_file(merged(model, adapter, tmp_path / "work") / "model.safetensors")
    assert {one.dtype for one in found.values()} == {torch.bfloat16}


def test_an_adapter_of_another_model(tmp_path):
    """PEFT only warns when tensors that it looks for are not there, and is silent about those that are too many."""
    model, adapter = write_model(tmp_path / "model"), write_adapter(tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    moved = {name.replace("layers.1.", "layers.7."): one for name, one in tensors.items()}
    save_file(moved, adapter / "adapter_model.safetensors")
    with pytest.raises(ConvertError) as caught:
        merged(model, adapter, tmp_path / "work")
    (problem,) = caught.value.problems
    assert problem.what.startswith("the step merge ended with exit status 1; the last it said:\n")
    assert "the adapter is not this model's: 8 of its tensors have no counterpart, such as" in problem.what


def test_what_is_compiled_is_the_merged_model(tmp_path):
    """The whole conversion, over the stand-in of TensorRT-LLM, whose plans hold the weights that it was given."""
    model, adapter = write_model(tmp_path / "model", "mistral"), write_adapter(tmp_path / "adapter")
    python = make_environment(tmp_path / "venv")  # of packager and TensorRT-LLM both
    write_nvml(next(tmp_path.glob("venv/lib/python*/site-packages")), (A100,))
    (tmp_path / "packager.yaml").write_text(SPEC)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/fakes/vendor")))
    argv = [python, "-m", "packager", "convert", ".", "--output", "engine"]
    env = environment(tmp_path / "cache", {"PYTHONPATH": path})
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "engine/rank0.engine").read_bytes().removeprefix(b"plan of rank 0 ")
    (tmp_path / "given.safetensors").write_bytes(given)
    compiled = load_file(tmp_path / "given.safetensors")
    apart = load_file(merged(model, adapter, tmp_path / "work") / "model.safetensors")
    assert compiled.keys() == apart.keys()
    assert all(torch.equal(compiled[name], weight) for name, weight in apart.items())
    build = read_build((tmp_path / "engine/engine.json").read_bytes())
    assert build.source_model.repo.startswith("model + adapter@")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "engine" / name).read_bytes() == (model / name).read_bytes()
    assert not (tmp_path / "engine/model.safetensors").exists()
