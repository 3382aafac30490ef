"""What stands here, as far as a compiled engine cares: GPUs and driver by NVML, software by its metadata.

Nothing of an engine is imported and no GPU is touched: asking takes milliseconds, so that a mismatch is refused before
the first byte of the weights is fetched.
"""

import logging
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import environ
from ..errors import MismatchError, PackageError
from ..manifest import MANIFEST_PATH, Manifest
from ..weights.compiled import Gpu, Machine, check_machine, parse_build
from ..weights.source import SourceFile
from .logs import event

_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
"""The distributions that bring `import tensorrt`; a vendor's image has the first alone."""
_CUDA = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}")
_MIB = 1 << 20
_START = (
    "start the container with its GPUs (`--gpus all`; in Kubernetes `nvidia.com/gpu` in the limits) "
    "and NVIDIA_DRIVER_CAPABILITIES=compute,utility, on a machine with NVIDIA's driver"
)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as NVML lists it; `slices` are its MIG devices, None where it is not split."""

    uuid: str
    gpu: Gpu
    slices: "tuple[Device, ...] | None" = None


def refuse_mismatch(manifest: Manifest) -> tuple[str, ...]:
    """Raise MismatchError, with every reason, when the package's compiled engine cannot run here.

    What is returned has been logged as a warning. Does nothing for weights that are no compiled engine. Raises
    PackageError when the manifest's description of the engine is damaged.
    """
    weights = manifest.weights
    if weights is None or weights.compiled is None:
        return ()
    try:
        build = parse_build(weights.compiled)
    except ValueError as error:
        what = f"the description of the compiled engine is damaged: {error}"
        raise PackageError(what, where=f"{MANIFEST_PATH}: weights.compiled", mend="build the package again") from error
    files = [SourceFile(one.path, one.size, one.sha256) for one in weights.files]
    warnings = check_machine(build, find_machine(), files)
    for warning in warnings:
        event("compiled_engine", level=logging.WARNING, warning=warning)
    return warnings


def find_machine() -> Machine:
    """The GPUs that a CUDA program of this process sees, their driver, and the engine's software.

    Raises MismatchError where no driver answers, or where CUDA_VISIBLE_DEVICES does not say which GPU is meant.
    """
    with _nvml() as nvml:
        devices = tuple(_device(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = nvml.nvmlSystemGetDriverVersion()
    chosen = os.environ.get(environ.CUDA_VISIBLE_DEVICES.name)
    ordered = environ.CUDA_DEVICE_ORDER.get() == "PCI_BUS_ID"
    return Machine(
        gpus=tuple(device.gpu for device in visible(devices, chosen, ordered=ordered)),
        driver=driver,
        cuda_driver=f"{cuda // 1000}.{cuda % 1000 // 10}",
        cuda=_cuda(),
        tensorrt=_tensorrt(),
        tensorrt_llm=_installed("tensorrt-llm"),
        os=f"{sys.platform}-{platform.machine()}".lower(),
    )


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVIDIA's library, loaded; its errors are ours."""
    try:
        import pynvml
    except ImportError as error:
        what = "what GPU stands here cannot be asked: nvidia-ml-py is not installed"
        raise MismatchError(what, mend="install nvidia-ml-py, which packages of compiled engines require") from error
    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded) as error:
        what = f"no GPU driver found, and a compiled engine runs on NVIDIA GPUs alone ({str(error).lower()})"
        raise MismatchError(what, mend=_START) from error
    except pynvml.NVMLError as error:
        what = f"the GPU driver does not answer: {str(error).lower()}"
        raise MismatchError(what, mend="see what `nvidia-smi` says on this machine") from error


def _device(nvml: Any, index: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    sm = f"{major}.{minor}"

    def read(part: Any) -> Gpu:
        # A slice has a name and memory of its own; its compute capability is the GPU's.
        return Gpu(nvml.nvmlDeviceGetName(part), sm, _memory(nvml, part))

    uuid = nvml.nvmlDeviceGetUUID(handle)
    if not _is_split(nvml, handle):
        return Device(uuid, read(handle))
    slices = tuple(Device(nvml.nvmlDeviceGetUUID(part), read(part)) for part in _slices(nvml, handle))
    try:
        return Device(uuid, read(handle), slices)
    except nvml.NVMLError_NoPermission:
        # A container that was given slices may not ask for the memory of the whole (nvidia-container-toolkit, issue
        # 842), which no program sees beside them.
        return Device(uuid, Gpu(nvml.nvmlDeviceGetName(handle), sm, 0), slices)


def _memory(nvml: Any, part: Any) -> int:
    """MiB. A GPU that has none of its own (GB10) uses the machine's, and the driver tells none.

    https://docs.nvidia.com/dgx/dgx-spark/known-issues.html
    """
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(part).total) // _MIB
    except nvml.NVMLError_NotSupported:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB


def _is_split(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _slices(nvml: Any, handle: Any) -> Iterator[Any]:
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue  # places are numbered, and not all are taken


def visible(devices: Sequence[Device], chosen: str | None, *, ordered: bool) -> tuple[Device, ...]:
    """The devices that CUDA shows a program; `chosen` is CUDA_VISIBLE_DEVICES, or None where it is not set.

    A program sees one MIG device, and then no GPU beside it
    (https://docs.nvidia.com/datacenter/tesla/mig-user-guide/, CUDA Device Enumeration). `ordered` says that CUDA counts
    as NVML does; otherwise the fastest GPU comes first, which only CUDA knows, and MismatchError is raised where a
    number could mean one of several kinds.
    """
    if chosen is not None and _NUMBER.match(chosen) and not ordered and len({one.gpu for one in devices}) > 1:
        what = f"{environ.CUDA_VISIBLE_DEVICES.name}={chosen} can mean several GPUs: they differ on this machine"
        mend = f"name the GPU as `nvidia-smi -L` does (GPU-...), or set {environ.CUDA_DEVICE_ORDER.name}=PCI_BUS_ID"
        raise MismatchError(what, mend=mend)
    seen = devices if chosen is None else _chosen(devices, chosen.split(","))
    parts = [part for one in seen for part in (one.slices or ())]
    whole = [one for one in seen if one.slices is None]
    return tuple(parts[:1] or whole)


def _chosen(devices: Sequence[Device], entries: Sequence[str]) -> list[Device]:
    """What the entries of CUDA_VISIBLE_DEVICES name, read as driver 580 does (tests/gpu compares).

    All are numbers or all are UUIDs, as the first is; what follows one that names nothing does not count, and nothing
    is shown when a device is named twice.
    """
    read = _numbered if _NUMBER.match(entries[0]) else _named
    seen: list[Device] = []
    for entry in entries:
        found = read(devices, entry)
        if found is None:
            break
        if found in seen:
            return []
        seen.append(found)
    return seen


def _numbered(devices: Sequence[Device], entry: str) -> Device | None:
    found = _NUMBER.match(entry)
    number = int(found[0]) if found else -1
    return devices[number] if 0 <= number < len(devices) else None


def _named(devices: Sequence[Device], entry: str) -> Device | None:
    """The device of a UUID, which may be cut short where it stays unique."""
    start = entry[:4] + entry[4:].rstrip().lower()
    every = (*devices, *(part for one in devices for part in (one.slices or ())))
    fitting = [one for one in every if start[4:] and start[:4] in ("GPU-", "MIG-") and one.uuid.startswith(start)]
    return fitting[0] if len(fitting) == 1 else None


def _tensorrt() -> str:
    """Four parts of a version (a later build of the same library has a fifth), or several where they disagree."""
    found = {".".join(_installed(name).split(".")[:4]) for name in _TENSORRT} - {""}
    return " and ".join(sorted(found))


def _cuda() -> str:
    """The CUDA that the software here is for: NVIDIA's images say it, else it came as a wheel."""
    for text in (environ.CUDA_VERSION.get(), *map(_installed, _CUDA)):
        if found := re.match(r"\d+\.\d+", text):
            return found[0]
    return ""


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
