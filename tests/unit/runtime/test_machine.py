"""What is found to stand here, and that a compiled engine from elsewhere is refused for it."""

import inspect
import logging
import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.compiled import description, install, put, write_engine
from fakes.nvml import A10G, A100, ERRORS, H200, FakeGpu, FakeSlice, Nvml, install_nvml, names

from packager.digest import sha256_hex
from packager.errors import MismatchError, PackageError
from packager.fetch import fetch_package
from packager.manifest import EngineManifest, Manifest, ServingManifest, WeightsFile, WeightsManifest
from packager.runtime.load import load_engine
from packager.runtime.machine import find_machine, refuse_mismatch
from packager.runtime.metrics import Metrics
from packager.store import Store
from packager.weights.compiled import Gpu

SLICES = (FakeSlice("MIG-aaaa-1", "NVIDIA H200 MIG 1g.18gb", 18000), None, FakeSlice("MIG-bbbb-2", "NVIDIA H200 MIG 3g.71gb", 71000))  # fmt: skip
SPLIT = FakeGpu("GPU-51170000-5555", "NVIDIA H200", (9, 0), 143771, SLICES, split=True)
OTHER_H200 = FakeGpu("GPU-42ff0000-6666", "NVIDIA H200", (9, 0), 143771, slices=())


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """Nothing of this machine's GPUs and CUDA."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_VERSION"):
        monkeypatch.delenv(name, raising=False)


def test_the_fake_has_the_librarys_signatures_and_errors():
    import pynvml as real

    ours = names(Nvml())
    for name, value in ours.items():
        theirs = getattr(real, name)
        if name in ERRORS:
            assert issubclass(theirs, real.NVMLError)
            if theirs is not real.NVMLError:
                assert str(theirs()) == str(value())
        elif callable(value):
            assert list(inspect.signature(value).parameters) == list(inspect.signature(theirs).parameters), name
        else:
            assert value == theirs, name


def test_what_stands_here(monkeypatch, tmp_path):
    nvml = install_nvml(monkeypatch, H200, OTHER_H200, driver="580.159.04", cuda=13010)
    monkeypatch.syspath_prepend(install(tmp_path))
    monkeypatch.setenv("CUDA_VERSION", "13.1.0.036")
    found = find_machine()
    assert found.gpus == (Gpu("NVIDIA H200", "9.0", 143771),) * 2
    assert (found.driver, found.cuda_driver, found.cuda) == ("580.159.04", "13.1", "13.1")
    assert (found.tensorrt, found.tensorrt_llm) == ("10.14.1.48", "1.2.1")
    assert found.os == f"{sys.platform}-{platform.machine()}".lower()
    assert nvml.open == 0


def test_what_is_not_installed(monkeypatch):
    install_nvml(monkeypatch, H200)
    found = find_machine()
    assert (found.cuda, found.tensorrt, found.tensorrt_llm) == ("", "", "")


@pytest.mark.parametrize(
    ("software", "tensorrt"),
    [
        ({"tensorrt_cu12": "10.9.0.34"}, "10.9.0.34"),
        ({"tensorrt_cu13": "10.14.1.48", "tensorrt": "10.14.1.48.post1"}, "10.14.1.48"),
        ({"tensorrt_cu12": "10.9.0.34", "tensorrt": "10.14.1.48"}, "10.14.1.48 and 10.9.0.34"),
    ],
)
def test_tensorrt_by_its_other_names(monkeypatch, tmp_path, software, tensorrt):
    install_nvml(monkeypatch, H200)
    monkeypatch.syspath_prepend(install(tmp_path, software))
    assert find_machine().tensorrt == tensorrt


def test_cuda_that_came_as_a_wheel(monkeypatch, tmp_path):
    install_nvml(monkeypatch, H200)
    monkeypatch.syspath_prepend(install(tmp_path, {"nvidia-cuda-runtime-cu12": "12.8.90"}))
    assert find_machine().cuda == "12.8"


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, "AAHO"),
        ("0", "A"),
        ("3,1", "OA"),
        (" 2 , 3 ", "HO"),
        ("", ""),
        ("-1", ""),
        ("NoDevFiles", ""),
        ("2,9,3", "H"),
        ("2,2,3", ""),
        ("2,9,2", "H"),
        ("2x,+3", "HO"),
        ("-0", "A"),
        ("2 3", "H"),
        ("2,GPU-42ff", "H"),
        ("GPU-42ff,2", "O"),
        ("GPU-42ff ,GPU-4200", "OH"),
        ("GPU-42ff, GPU-4200", "O"),
        (" GPU-42ff", ""),
        ("gpu-42ff", ""),
        ("GPU-42FF", "O"),
        ("GPU-42ff,GPU-42ff", ""),
        ("0,-1,1", "A"),
        ("GPU-42000000-4444", "H"),
        ("GPU-42f", "O"),
        ("GPU-42", ""),
        ("GPU-42ff,GPU-4200", "OH"),
        ("42000000", ""),
        ("²", ""),
        ("9" * 5000, ""),
    ],
)
def test_what_cuda_is_told_to_show(monkeypatch, chosen, names):
    letters = {"A": A100, "H": H200, "O": OTHER_H200}
    twin = FakeGpu("GPU-a1ff0000-7777", A100.name, A100.sm, A100.memory_mib)
    install_nvml(monkeypatch, A100, twin, H200, OTHER_H200)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    expected = [Gpu(one.name, "{}.{}".format(*one.sm), one.memory_mib) for one in map(letters.get, names)]
    assert list(find_machine().gpus) == expected


@pytest.mark.parametrize("chosen", ["1", " 0,1"])
def test_a_number_that_could_mean_either_gpu(monkeypatch, chosen):
    install_nvml(monkeypatch, A10G, H200)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    with pytest.raises(MismatchError, match="can mean several GPUs") as caught:
        find_machine()
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in caught.value.problems[0].mend


def test_gpus_that_differ_are_all_in_sight(monkeypatch):
    install_nvml(monkeypatch, A10G, H200)
    assert [gpu.sm for gpu in find_machine().gpus] == ["8.6", "9.0"]


@pytest.mark.parametrize(
    ("chosen", "name", "memory"),
    [
        (None, "NVIDIA H200 MIG 1g.18gb", 18000),
        ("0", "NVIDIA H200 MIG 1g.18gb", 18000),
        ("GPU-5117", "NVIDIA H200 MIG 1g.18gb", 18000),
        ("GPU-42000000-4444,GPU-5117", "NVIDIA H200 MIG 1g.18gb", 18000),
        ("MIG-bbbb-2", "NVIDIA H200 MIG 3g.71gb", 71000),
        ("MIG-b", "NVIDIA H200 MIG 3g.71gb", 71000),
        ("GPU-42000000-4444", "NVIDIA H200", 143771),
    ],
)
def test_slices_of_a_gpu(monkeypatch, chosen, name, memory):
    install_nvml(monkeypatch, SPLIT, H200)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert find_machine().gpus == (Gpu(name, "9.0", memory),)


def test_a_container_that_was_given_slices_alone(monkeypatch):
    """The driver does not tell it the memory of the whole GPU."""
    install_nvml(monkeypatch, replace(SPLIT, denied=True))
    assert find_machine().gpus == (Gpu("NVIDIA H200 MIG 1g.18gb", "9.0", 18000),)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-bbbb-2")
    assert find_machine().gpus == (Gpu("NVIDIA H200 MIG 3g.71gb", "9.0", 71000),)


def test_a_gpu_that_uses_the_machines_memory(monkeypatch):
    install_nvml(monkeypatch, FakeGpu("GPU-6b10", "NVIDIA GB10", (12, 1), None))
    (found,) = find_machine().gpus
    told = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert found == Gpu("NVIDIA GB10", "12.1", int(told.split()[1]) >> 10)


def test_a_whole_gpu_that_may_not_be_asked(monkeypatch):
    install_nvml(monkeypatch, replace(H200, denied=True))
    with pytest.raises(MismatchError, match="the GPU driver does not answer: insufficient permissions"):
        find_machine()


def test_a_gpu_that_is_to_be_split_and_has_no_slice(monkeypatch):
    install_nvml(monkeypatch, FakeGpu("GPU-1", "NVIDIA H200", (9, 0), 143771, (None, None), split=True))
    assert find_machine().gpus == ()


@pytest.mark.parametrize(
    ("state", "what", "mend"),
    [
        ({"fails": "NVMLError_LibraryNotFound"}, "no GPU driver found", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        ({"fails": "NVMLError_DriverNotLoaded"}, "no GPU driver found", "--gpus all"),
        ({"no_cuda": True}, "no GPU driver found", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        ({"fails": "NVMLError_LibRmVersionMismatch"}, "the GPU driver does not answer: rm has detected", "nvidia-smi"),
    ],
)
def test_no_driver_that_answers(monkeypatch, state, what, mend):
    nvml = install_nvml(monkeypatch, H200, **state)
    with pytest.raises(MismatchError) as caught:
        find_machine()
    (problem,) = caught.value.problems
    assert problem.what.startswith(what)
    assert mend in problem.mend
    assert nvml.open == 0


def test_no_nvidia_ml_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as Python marks what cannot be imported
    with pytest.raises(MismatchError, match="nvidia-ml-py is not installed"):
        find_machine()


def packaged(world_size=1, drop=(), **changed):
    compiled = description(world_size)
    files = compiled["files"].items()
    weights = tuple(WeightsFile(path, one["size"], one["sha256"]) for path, one in files if path not in drop)
    for place, one in changed.items():
        put(compiled, place.replace("__", "."), one)
    return Manifest(
        name="m",
        packager="0",
        engine=EngineManifest("tensorrt_llm_engine", "1.2.1", {}),
        weights=WeightsManifest("file://nowhere", "", "on_load", ".", weights, compiled=compiled),
        serving=ServingManifest("standalone", "packager", 8000, 1, 1, 1),
    )


@pytest.fixture
def software(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(install(tmp_path))


@pytest.mark.usefixtures("software")
def test_the_machine_that_compiled_it(monkeypatch, caplog):
    install_nvml(monkeypatch, A100)
    here = f"{sys.platform}-{platform.machine()}".lower()
    assert refuse_mismatch(packaged(os=here)) == ()
    assert caplog.records == []


@pytest.mark.usefixtures("software")
def test_its_sister_is_a_warning_in_the_log(monkeypatch, caplog):
    install_nvml(monkeypatch, FakeGpu("GPU-1", "NVIDIA A100 80GB PCIe", (8, 0), 81920))
    caplog.set_level(logging.WARNING, "packager.runtime")
    (warning,) = refuse_mismatch(packaged(os=f"{sys.platform}-{platform.machine()}".lower()))
    (record,) = caplog.records
    assert (record.msg, record.fields) == ("compiled_engine", {"warning": warning})


def test_everything_that_differs_is_said_at_once(monkeypatch):
    install_nvml(monkeypatch, A10G, driver="470.1", cuda=11040)
    with pytest.raises(MismatchError) as caught:
        refuse_mismatch(packaged(2, drop=["rank1.engine"], os="linux-riscv64"))
    fields = [problem.where.partition(":")[2] for problem in caught.value.problems]
    expected = ["files", "mapping.world_size", "gpu.sm", "gpu.memory_mib", "tensorrt", "tensorrt_llm", "os", "cuda"]
    assert fields == expected
    assert all(problem.mend for problem in caught.value.problems)


async def test_nothing_is_fetched_before(monkeypatch, tmp_path):
    install_nvml(monkeypatch, A10G)
    with pytest.raises(MismatchError):  # and not that file://nowhere has no weights
        await load_engine(packaged(), tmp_path, Store(tmp_path / "store"), Metrics())
    assert not (tmp_path / "store").exists()


def test_a_machine_without_a_gpu_fetches_for_one_that_has_it(monkeypatch, tmp_path):
    """Init containers have none: what cannot run here is brought into the store all the same."""
    install_nvml(monkeypatch, fails="NVMLError_LibraryNotFound")
    source = write_engine(tmp_path / "engine")
    read = {path.name: path.read_bytes() for path in source.iterdir()}
    listed = {name: {"sha256": sha256_hex(data), "size": len(data)} for name, data in read.items()}
    manifest = packaged(files=listed)
    files = tuple(WeightsFile(name, len(data), sha256_hex(data)) for name, data in read.items())
    manifest = replace(manifest, weights=replace(manifest.weights, source=f"file://{source}", files=files))
    with pytest.raises(MismatchError):
        refuse_mismatch(manifest)
    done = fetch_package(manifest, Store(tmp_path / "store"))
    assert done.bytes(found=False) == sum(len(data) for data in read.values())


def test_a_file_that_is_not_the_one_described(monkeypatch):
    install_nvml(monkeypatch, A10G)
    with pytest.raises(MismatchError, match=r"config\.json has 10 bytes, and engine\.json says 11"):
        refuse_mismatch(packaged(files={**description()["files"], "config.json": {"sha256": "c" * 64, "size": 11}}))


def test_a_damaged_description():
    with pytest.raises(PackageError, match=r"damaged: gpu\.sm is missing"):
        refuse_mismatch(packaged(gpu__sm=...))


def test_other_weights_ask_nobody(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    manifest = packaged()
    plain = WeightsManifest("file://nowhere", "", "on_load", ".", manifest.weights.files)
    for weights in (None, plain):
        one = Manifest(manifest.name, manifest.packager, manifest.engine, weights, manifest.serving)
        assert refuse_mismatch(one) == ()


@pytest.mark.parametrize(("chosen", "seen"), [("GPU-", 0), ("MIG-", 0), ("GPU-1", 1)])
def test_the_beginning_alone_names_no_gpu(monkeypatch, chosen, seen):
    """Where there is but one, too: so libcuda has it (an H200, driver 580)."""
    install_nvml(monkeypatch, FakeGpu("GPU-1", "NVIDIA H200", (9, 0), 143771))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert len(find_machine().gpus) == seen
