"""NVIDIA's library without a GPU: a module with pynvml's own names, signatures and errors.

`install_nvml(monkeypatch, H200)` makes it what `import pynvml` gives; `write_nvml(folder, H200)` puts it where another
process imports it from. tests/unit/runtime/test_machine.py compares the signatures with nvidia-ml-py's.
"""

# ruff: noqa: N802 -- the library's names

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class FakeSlice:
    uuid: str
    name: str
    memory_mib: int


@dataclass(frozen=True)
class FakeGpu:
    """`slices` is None where the GPU cannot be split, and `split` says whether it is.

    `denied`: a container may not ask for its memory, as where that was given slices of it alone. `memory_mib` is None
    where it uses the machine's.
    """

    uuid: str
    name: str
    sm: tuple[int, int]
    memory_mib: int | None
    slices: tuple[FakeSlice | None, ...] | None = None
    split: bool = False
    denied: bool = False


A100 = FakeGpu("GPU-a1000000-1111", "NVIDIA A100-SXM4-40GB", (8, 0), 40960, slices=())
A10G = FakeGpu("GPU-a10a0000-2222", "NVIDIA A10G", (8, 6), 23028)
A40 = FakeGpu("GPU-a4000000-3333", "NVIDIA A40", (8, 6), 46068)
H200 = FakeGpu("GPU-42000000-4444", "NVIDIA H200", (9, 0), 143771, slices=())


class NVMLError(Exception):
    text = "Unknown Error"

    def __str__(self) -> str:
        return self.text


ERRORS: dict[str, type[NVMLError]] = {"NVMLError": NVMLError} | {
    f"NVMLError_{name}": type(f"NVMLError_{name}", (NVMLError,), {"text": text})
    for name, text in {
        "Uninitialized": "Uninitialized",
        "InvalidArgument": "Invalid Argument",
        "NotSupported": "Not Supported",
        "NoPermission": "Insufficient Permissions",
        "NotFound": "Not Found",
        "DriverNotLoaded": "Driver Not Loaded",
        "LibraryNotFound": "NVML Shared Library Not Found",
        "LibRmVersionMismatch": "RM has detected an NVML/RM version mismatch.",
    }.items()
}


class Nvml:
    """The library's functions over some GPUs. `fails` names the error that the library's start ends with."""

    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(
        self, *gpus: FakeGpu, driver: str = "580.159.04", cuda: int = 13000, fails: str = "", no_cuda: bool = False
    ) -> None:
        self._gpus, self._driver, self._cuda, self._fails, self._no_cuda = gpus, driver, cuda, fails, no_cuda
        self.open = 0

    def nvmlInit(self) -> None:
        if self._fails:
            raise ERRORS[self._fails]
        self.open += 1

    def nvmlShutdown(self) -> None:
        self._started()
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._started()
        return self._driver

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        self._started()
        if self._no_cuda:
            raise ERRORS["NVMLError_LibraryNotFound"]
        return self._cuda

    def nvmlDeviceGetCount(self) -> int:
        self._started()
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        self._started()
        return self._gpus[index]

    def nvmlDeviceGetName(self, handle: FakeGpu | FakeSlice) -> str:
        return handle.name

    def nvmlDeviceGetUUID(self, handle: FakeGpu | FakeSlice) -> str:
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu | FakeSlice, version: int | None = None) -> Any:
        if isinstance(handle, FakeGpu) and handle.denied:
            raise ERRORS["NVMLError_NoPermission"]
        if handle.memory_mib is None:
            raise ERRORS["NVMLError_NotSupported"]
        return SimpleNamespace(total=handle.memory_mib * MIB, free=0, used=0)

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeGpu) -> tuple[int, int]:
        if isinstance(handle, FakeSlice):
            raise ERRORS["NVMLError_InvalidArgument"]
        return handle.sm

    def nvmlDeviceGetMigMode(self, device: FakeGpu) -> list[int]:
        if device.slices is None:
            raise ERRORS["NVMLError_NotSupported"]
        return [int(device.split), int(device.split)]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: FakeGpu) -> int:
        return len(device.slices or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeGpu, index: int) -> FakeSlice:
        found = (device.slices or ())[index]
        if found is None:
            raise ERRORS["NVMLError_NotFound"]
        return found

    def _started(self) -> None:
        if not self.open:
            raise ERRORS["NVMLError_Uninitialized"]


def names(nvml: Nvml) -> dict[str, Any]:
    """What the module holds."""
    return ERRORS | {name: getattr(nvml, name) for name in dir(nvml) if name.lower().startswith("nvml")}


def install_nvml(monkeypatch: Any, *gpus: FakeGpu, **state: Any) -> Nvml:
    """Make `import pynvml` give a library over these GPUs."""
    module, nvml = ModuleType("pynvml"), Nvml(*gpus, **state)
    vars(module).update(names(nvml))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return nvml


def write_nvml(folder: Path, gpus: Sequence[FakeGpu], **state: Any) -> None:
    """Put such a `pynvml` into a folder of another process's path."""
    tests = Path(__file__).resolve().parents[1]
    (folder / "pynvml.py").write_text(
        f"import sys\nsys.path.append({str(tests)!r})\n"
        "from fakes.nvml import FakeGpu, FakeSlice, Nvml, names\n"
        f"globals().update(names(Nvml(*{list(gpus)!r}, **{state!r})))\n"
    )
