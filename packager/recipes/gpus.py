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
    """

    capability: int
    memory: int
    source: str = CURRENT


GPUS: Mapping[str, Gpu] = {
    "l4": Gpu(89, 24),
    "l40": Gpu(89, 48),
    "l40s": Gpu(89, 48),
    "h100": Gpu(90, 80),
    "h100-nvl": Gpu(90, 94),
    "h200": Gpu(90, 141),
    "b200": Gpu(100, 180),
    "b300": Gpu(103, 288),
    "a100-40gb": Gpu(80, 40),
    "a100-80gb": Gpu(80, 80),
    "a30": Gpu(80, 24),
    "a10": Gpu(86, 24),
    "a10g": Gpu(86, 24, "the AWS name of the A10's chip (G5 instances)"),
    "a16": Gpu(86, 16),
    "a2": Gpu(86, 16),
    "a40": Gpu(86, 48),
    "t4": Gpu(75, 16),
    "v100": Gpu(70, 16, LEGACY),
    "v100-32gb": Gpu(70, 32, LEGACY),
    "p100": Gpu(60, 16, LEGACY),
    "p40": Gpu(61, 24, LEGACY),
    "p4": Gpu(61, 8, LEGACY),
    "rtx-pro-6000": Gpu(120, 96),
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
