"""The GPUs that a spec may name in `hardware.gpu`: compute capability and memory, each with its source.

Only GPUs of x86-64 hosts: images are for amd64, so the Grace superchips (GH200, GB200, GB300) are not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CURRENT = "https://developer.nvidia.com/cuda-gpus"
LEGACY = "https://developer.nvidia.com/cuda-legacy-gpus"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `capability` is ten times NVIDIA's compute capability (89 for 8.9), `memory` is GB as it is sold.

    `source` is NVIDIA's list that has the compute capability; memory is from the GPU's product page or datasheet.
    `mib` is the whole memory that nvidia-smi shows (memory.total, ECC as the GPU comes), where it was looked up: GDDR
    gives a sixteenth of itself to ECC (CUDA C++ Best Practices Guide), and GB are not always GiB.
    """

    capability: int
    memory: int
    source: str = CURRENT
    mib: int = 0

    @property
    def bytes(self) -> int:
        """Bytes that programs share, about: nvidia-smi's number (a hundredth less than is sold, where that is not known)
        without what the driver keeps.

        That was 0.60 GiB on an H200 (NVML's `used` of an idle GPU). By PyTorch's words when memory runs out, it is 0.25 to
        0.44 on T4, 0.43 on A10G, 0.46 on L4, 0.44 to 0.62 on A100: a fiftieth, not below 7/16 nor above 5/8 GiB.
        """
        whole = self.mib * 2**20 if self.mib else self.memory * 2**30 * 99 // 100
        return whole - min(max(whole // 50, 7 * 2**26), 5 * 2**27)


GPUS: Mapping[str, Gpu] = {
    "l4": Gpu(89, 24, mib=23034),
    "l40": Gpu(89, 48, mib=46068),
    "l40s": Gpu(89, 48, mib=46068),
    "h100": Gpu(90, 80, mib=81559),
    "h100-nvl": Gpu(90, 94, mib=95830),
    "h200": Gpu(90, 141, mib=143771),
    "b200": Gpu(100, 180, mib=183359),
    "b300": Gpu(103, 288, mib=275040),
    "a100-40gb": Gpu(80, 40, mib=40960),
    "a100-80gb": Gpu(80, 80, mib=81920),
    "a30": Gpu(80, 24),
    "a10": Gpu(86, 24, mib=23028),
    "a10g": Gpu(86, 24, "the AWS name of the A10's chip (G5 instances)", mib=23028),
    "a16": Gpu(86, 16),
    "a2": Gpu(86, 16),
    "a40": Gpu(86, 48, mib=46068),
    "t4": Gpu(75, 16, mib=15360),
    "v100": Gpu(70, 16, LEGACY),
    "v100-32gb": Gpu(70, 32, LEGACY),
    "p100": Gpu(60, 16, LEGACY),
    "p40": Gpu(61, 24, LEGACY),
    "p4": Gpu(61, 8, LEGACY),
    "rtx-pro-6000": Gpu(120, 96, mib=97887),
    "rtx-pro-5000": Gpu(120, 48),
    "rtx-pro-4500": Gpu(120, 32),
    "rtx-pro-4000": Gpu(120, 24),
    "rtx-6000-ada": Gpu(89, 48),
    "rtx-5000-ada": Gpu(89, 32),
    "rtx-4500-ada": Gpu(89, 24),
    "rtx-4000-ada": Gpu(89, 20),
    "rtx-a6000": Gpu(86, 48),
    "rtx-a5000": Gpu(86, 24),
    "rtx-a4000": Gpu(86, 16),
    "rtx-5090": Gpu(120, 32),
    "rtx-5080": Gpu(120, 16),
    "rtx-5070ti": Gpu(120, 16),
    "rtx-5070": Gpu(120, 12),
    "rtx-4090": Gpu(89, 24),
    "rtx-4080": Gpu(89, 16),
    "rtx-4070ti": Gpu(89, 12),
    "rtx-4070": Gpu(89, 12),
    "rtx-3090": Gpu(86, 24),
    "rtx-3090ti": Gpu(86, 24),
    "rtx-3080": Gpu(86, 10),
    "rtx-3080ti": Gpu(86, 12),
    "rtx-3070": Gpu(86, 8),
    "rtx-3060": Gpu(86, 12),
    "rtx-2080": Gpu(75, 8),
    "rtx-2080ti": Gpu(75, 11),
    "rtx-2070": Gpu(75, 8),
    "rtx-2060": Gpu(75, 6),
}
"""By the name in the spec. Messages that advise a GPU name the first that fit, so common ones of a data centre lead."""


def shown(capability: int) -> str:
    """`8.9` for 89."""
    return f"{capability // 10}.{capability % 10}"
