"""engine.json: what it may say, and on which machines what it describes may run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.compiled import description, put
from hypothesis import given
from hypothesis import strategies as st

from packager.errors import MismatchError
from packager.weights.compiled import (
    DRIVERS,
    Gpu,
    Machine,
    check_machine,
    disagreements,
    explain,
    parse_build,
    rank_files,
    read_build,
)
from packager.weights.source import SourceFile

A100 = Gpu("NVIDIA A100-SXM4-40GB", "8.0", 40960)


def built(world_size=1, **changed):
    value = description(world_size)
    for place, one in changed.items():
        put(value, place.replace("__", "."), one)
    return parse_build(value)


def machine(world_size=1, **changed):
    fitting = Machine((A100,) * world_size, "580.159.04", "13.0", "13.1", "10.14.1.48", "1.2.1", "linux-x86_64")
    return replace(fitting, **changed)


def files(build):
    return [SourceFile(path, one.size, one.sha256) for path, one in build.files.items()]


def refused(build, here, listing=None):
    with pytest.raises(MismatchError) as caught:
        check_machine(build, here, files(build) if listing is None else listing)
    return caught.value.problems


def test_bytes_there_and_back():
    build = built(2)
    assert read_build(build.to_bytes()) == build
    assert json.loads(build.to_bytes()) == description(2) == build.to_value()
    assert parse_build(build.to_value()) == build


def test_the_reference_page_names_every_key():
    page = (Path(__file__).parents[3] / "docs/reference/engine-json.md").read_text()
    keys = {key for row in re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE) for key in re.findall(r"`(.*?)`", row)}
    value = description()
    value["files"] = {"NAME": value["files"]["config.json"]}
    assert keys == set(_paths(value))


def _paths(value, place=""):
    for key, one in value.items():
        if isinstance(one, dict):
            yield from _paths(one, f"{place}{key}.")
        else:
            yield place + key


@pytest.mark.parametrize("name", ["image", "source_model", "tokenizer_sha256"])
def test_what_may_be_left_out(name):
    build = built(**{name: ...})
    assert getattr(build, name) is None
    assert read_build(build.to_bytes()) == build


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("schema", 2, "it has schema 2; this packager reads schema 1"),
        ("schema", ..., "it has schema null"),
        ("schema", True, "it has schema true"),
        ("kind", "tensorrt_llm", 'kind cannot be "tensorrt_llm"'),
        ("tensorrt", ..., "tensorrt is missing"),
        ("tensorrt", "10.14.1", 'tensorrt cannot be "10.14.1"'),
        ("tensorrt", 10, "tensorrt cannot be 10"),
        ("tensorrt_llm", "", 'tensorrt_llm cannot be ""'),
        ("cuda", "13", 'cuda cannot be "13"'),
        ("driver_build", "new", 'driver_build cannot be "new"'),
        ("gpu.sm", "80", 'gpu.sm cannot be "80"'),
        ("gpu.sm", ..., "gpu.sm is missing"),
        ("gpu.colour", "black", "gpu.colour is unknown"),
        ("gpu.memory_mib", 0, "gpu.memory_mib cannot be 0"),
        ("gpu.count", True, "gpu.count cannot be true"),
        ("os", "linux", 'os cannot be "linux"'),
        ("mapping.tp", 2, "mapping.world_size cannot be 1"),
        ("mapping.cp", 0, "mapping.cp cannot be 0"),
        ("limits.max_seq_len", -1, "limits.max_seq_len cannot be -1"),
        ("limits.max_seq_len", None, "limits.max_seq_len cannot be null"),
        ("lora", "no", 'lora cannot be "no"'),
        ("source_model", {"repo": "x"}, "source_model.revision is missing"),
        ("tokenizer_sha256", "b" * 63, "tokenizer_sha256 cannot be"),
        ("cuda", f"{'9' * 5000}.0", 'cuda cannot be "999'),
        ("gpu.memory_mib", 1 << 50, "gpu.memory_mib cannot be 1125899906842624"),
        ("mapping", {"world_size": 10**12, "tp": 10**12, "pp": 1, "cp": 1}, "files.rank1.engine is missing"),
        ("files", {}, "files.config.json is missing"),
        ("files", [], "files cannot be []"),
        ("extra", 1, "extra is unknown"),
    ],
)
def test_what_is_off_is_named_with_its_place(place, value, said):
    with pytest.raises(ValueError) as caught:
        built(**{place.replace(".", "__"): value})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rank1.engine", None, "files.rank1.engine is missing"),
        ("rank2.engine", {"sha256": "0" * 64, "size": 1}, "files.rank2.engine is one rank more than mapping.world_size says"),
        ("rank0.engine", {"sha256": "0" * 64, "size": -1}, "files.rank0.engine.size cannot be -1"),
        ("rank0.engine", {"sha256": "0" * 64}, "files.rank0.engine.size is missing"),
        ("rank0.engine", {"sha256": "X" * 64, "size": 1}, "files.rank0.engine.sha256 cannot be"),
    ],
)  # fmt: skip
def test_files_that_are_off(path, value, said):
    whole = description(2)
    whole["files"].pop(path, None)
    if value is not None:
        whole["files"][path] = value
    with pytest.raises(ValueError) as caught:
        parse_build(whole)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null", b"1"])
def test_no_description_at_all(data):
    with pytest.raises(ValueError):
        read_build(data)


# What differs in one thing, and the field that must be named. `as_it_was` draws from values that differ.
SMS = st.builds("{}.{}".format, st.integers(1, 20), st.integers(0, 9)).filter(lambda sm: sm != "8.0")
PARTS = st.lists(st.integers(0, 99), min_size=4, max_size=4).map(lambda parts: ".".join(map(str, parts)))
ONE = {
    "gpu.sm": SMS.map(lambda sm: {"gpus": (A100, replace(A100, sm=sm))}),
    "gpu.memory_mib": st.integers(1, 40140).map(lambda mib: {"gpus": (replace(A100, memory_mib=mib), A100)}),
    "mapping.world_size": st.integers(0, 1).map(lambda count: {"gpus": (A100,) * count}),
    "tensorrt": (PARTS | st.just("")).filter(lambda one: one != "10.14.1.48").map(lambda one: {"tensorrt": one}),
    "tensorrt_llm": st.text(max_size=9).filter(lambda one: one != "1.2.1").map(lambda one: {"tensorrt_llm": one}),
    "os": st.sampled_from(["linux-aarch64", "win32-amd64", "darwin-arm64", "linux-ppc64le"]).map(
        lambda one: {"os": one}
    ),
    "cuda": st.builds(lambda a, b: {"cuda_driver": f"{a}.{b}", "driver": "1"}, st.integers(9, 12), st.integers(0, 9)),
}


@pytest.mark.parametrize("field", ONE)
@given(data=st.data())
def test_one_thing_that_differs_is_refused_by_its_name(field, data):
    (problem,) = refused(built(2), machine(2, **data.draw(ONE[field])))
    assert problem.where == f"engine.json:{field}"
    assert problem.mend


@given(drawn=st.fixed_dictionaries({}, optional=ONE))
def test_every_reason_at_once(drawn):
    here = machine(2)
    for changed in drawn.values():
        here = replace(here, **changed)
    fields = {problem.where.partition(":")[2] for problem in refused(built(2), here)} if drawn else set()
    of_gpus = {
        "gpu.sm",
        "gpu.memory_mib",
        "mapping.world_size",
    }  # they draw one field of the machine: the last one stays
    assert fields - of_gpus == drawn.keys() - of_gpus
    assert bool(fields & of_gpus) == bool(drawn.keys() & of_gpus)


@given(
    world=st.integers(1, 4),
    more=st.integers(0, 4),
    memory=st.integers(40960, 200_000),
    driver=st.integers(13, 20),
    minor=st.integers(0, 9),
)
def test_what_fits_passes_without_a_word(world, more, memory, driver, minor):
    gpus = (replace(A100, memory_mib=memory),) * (world + more)
    build = built(world)
    assert check_machine(build, machine(gpus=gpus, cuda_driver=f"{driver}.{minor}"), files(build)) == ()


def test_a_driver_that_keeps_a_little_more_memory_back():
    build = built(gpu__memory_mib=23028)
    assert check_machine(build, machine(gpus=(replace(A100, memory_mib=22731),)), files(build)) == ()


def test_another_model_of_the_same_capability_is_a_warning():
    build = built(2)
    pcie = replace(A100, name="NVIDIA A100-PCIE-40GB")
    (warning,) = check_machine(build, machine(gpus=(A100, pcie, pcie)), files(build))
    assert warning.startswith("the engine was compiled on NVIDIA A100-SXM4-40GB and runs on NVIDIA A100-PCIE-40GB: ")


def test_what_is_said_of_another_gpu():
    h200 = Gpu("NVIDIA H200", "9.0", 143771)
    (problem,) = refused(built(), machine(gpus=(h200, h200)))
    assert problem.what == (
        "the engine was compiled for compute capability 8.0 (NVIDIA A100-SXM4-40GB); this machine has 9.0 (NVIDIA H200)"
    )
    assert "CUDA_VISIBLE_DEVICES" in problem.mend
    assert "`engine.kind: tensorrt_llm`" in problem.mend


@pytest.mark.parametrize(("cuda", "driver"), [("12.4", "525"), ("13.1", "580"), ("11.8", "450")])
def test_the_driver_that_is_needed_is_named(cuda, driver):
    (problem,) = refused(built(cuda=cuda), machine(cuda_driver="10.2", driver="440.33"))
    assert f"driver {driver} or newer" in problem.mend
    assert "the driver here (440.33) runs CUDA 10.2 and older" in problem.what


def test_a_cuda_that_is_not_recorded():
    (problem,) = refused(built(cuda=f"{max(DRIVERS) + 1}.0"), machine())
    assert "install a newer driver" in problem.mend


def test_no_gpu_in_sight_is_one_reason():
    (problem,) = refused(built(), machine(gpus=()))
    assert problem.what == "the engine is split over 1 GPU; none can be seen here"


def test_two_tensorrts_are_not_the_one():
    (problem,) = refused(built(), machine(tensorrt="10.13.3.9 and 10.14.1.48"))
    assert "10.13.3.9 and 10.14.1.48 is installed here" in problem.what


def test_a_rank_that_is_missing_and_a_gpu_that_is_wrong():
    build = built(2)
    listing = [one for one in files(build) if one.path != "rank1.engine"]
    first, second = refused(build, machine(gpus=(replace(A100, sm="8.9"),) * 2), listing)
    assert (first.where, first.what) == ("engine.json:files", "rank1.engine is missing, and engine.json lists it")
    assert second.where == "engine.json:gpu.sm"


def said(build, listing):
    return [problem.what for problem in disagreements(build, listing, where="x")]


def test_listings_that_agree():
    build = built(2)
    assert said(build, files(build)) == []
    assert said(build, [*(replace(one, sha256=None) for one in files(build)), SourceFile("README.md", 1)]) == []


@pytest.mark.parametrize("path", ["config.json", "rank0.engine", "rank1.engine"])
def test_listings_that_do_not(path):
    build = built(2)
    (at,) = [number for number, one in enumerate(files(build)) if one.path == path]
    for changed, words in [
        ([], f"{path} is missing, and engine.json lists it"),
        ([replace(files(build)[at], size=5)], f"{path} has 5 bytes, and engine.json says"),
        ([replace(files(build)[at], sha256="d" * 64)], f"{path} has the sha256 dddddddddddd, and engine.json says"),
    ]:
        (found,) = said(build, [*files(build)[:at], *changed, *files(build)[at + 1 :]])
        assert found.startswith(words)


@pytest.mark.parametrize("path", ["rank2.engine", "sub/rank0.engine", "model.plan"])
def test_engines_that_nothing_describes(path):
    build = built(2)
    assert said(build, [*files(build), SourceFile(path, 1)]) == [
        f"{path} is a compiled engine that engine.json does not describe"
    ]


def test_the_names_of_ranks():
    assert rank_files(2) == ("rank0.engine", "rank1.engine")


OTHER_GPU = (
    "[TRT] [E] IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an "
    "incompatible device, expecting compute 8.0 got compute 8.9, please rebuild.)"
)
OTHER_TENSORRT = (
    "The engine plan file is not compatible with this version of TensorRT, expecting library version 10.14.1.48 got "
    "10.13.3.9, please rebuild."
)
OTHER_FORMAT = (
    "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed. Version tag does not match. Note: Current "
    "Version: 228, Serialized Engine Version: 237"
)
OTHER_MODEL = "Using an engine plan file across different models of devices is not supported and is likely to be slow."


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        (OTHER_GPU, "the engine was compiled for another compute capability (8.0 and 8.9 were compared)"),
        (OTHER_TENSORRT, "the engine was compiled with another TensorRT (10.14.1.48 and 10.13.3.9 were compared)"),
        (OTHER_FORMAT, "the engine was compiled with another TensorRT: its files have format 237, this one reads 228"),
        (
            "Assertion failed: Failed to deserialize cuda engine (runtime.cpp:1)",
            "TensorRT cannot read the engine: it was compiled with or for something else",
        ),
        (OTHER_MODEL, "the engine was compiled on another model of GPU"),
        ("CUDA out of memory", None),
    ],
)
def test_tensorrts_own_words(message, meaning):
    assert explain(message) == meaning
