"""Models of fakes.models with weights of four bits, as AutoAWQ (gemm) and GPTQ (symmetric) pack them. Needs numpy alone.

Beside each goes the same model unpacked: what an engine answers from both is the same, but for rounding.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

GROUP = 128
"""Inputs of a group, which has one scale (and one zero) for each output."""
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_MIDDLE = 8


def write_packed(plain: Path, folder: Path, method: str) -> tuple[Path, Path]:
    """The model in `plain` packed by `method` (`awq`, `gptq`), and what was packed as float16, in folders below `folder`."""
    from safetensors.numpy import load_file, save_file

    packed, unpacked = {}, {}
    for name, value in load_file(plain / "model.safetensors").items():
        if value.ndim == 2 and name.startswith("model.layers."):
            levels, scales = _levels(value.T)
            stem = name.removesuffix(".weight")
            packed |= {f"{stem}.{part}": array for part, array in _PACK[method](levels, scales).items()}
            whole = (levels.astype(np.float32) - _MIDDLE) * np.repeat(scales, GROUP, axis=0).astype(np.float32)
            unpacked[name] = np.ascontiguousarray(whole.T).astype(np.float16)
        else:
            packed[name] = unpacked[name] = value.astype(np.float16)
    config = json.loads((plain / "config.json").read_text()) | {"dtype": "float16"}
    made = []
    for part, tensors, more in (
        ("packed", packed, {"quantization_config": _CONFIG[method]}),
        ("unpacked", unpacked, {}),
    ):
        shutil.copytree(plain, folder / part)
        arrays = {name: np.ascontiguousarray(one) for name, one in tensors.items()}
        save_file(arrays, folder / part / "model.safetensors", {"format": "pt"})
        (folder / part / "config.json").write_text(json.dumps(config | more))
        made.append(folder / part)
    return made[0], made[1]


def _levels(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four-bit levels around 8 of (inputs, outputs), and the float16 scales of each group of inputs."""
    groups = weight.reshape(-1, GROUP, weight.shape[1])
    scales = (np.abs(groups).max(axis=1) / (_MIDDLE - 1)).astype(np.float16)
    levels = np.rint(groups / scales[:, None].astype(np.float32)) + _MIDDLE
    return levels.clip(0, 15).astype(np.uint32).reshape(weight.shape), scales


def _awq(levels: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
    zeros = np.full(scales.shape, _MIDDLE, np.uint32)
    return {
        "qweight": _along_outputs(levels, _AWQ_ORDER),
        "qzeros": _along_outputs(zeros, _AWQ_ORDER),
        "scales": scales,
    }


def _gptq(levels: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
    zeros = np.full(scales.shape, _MIDDLE - 1, np.uint32)  # one less is written
    order = tuple(range(8))
    return {
        "qweight": np.ascontiguousarray(_along_outputs(levels.T, order).T),
        "qzeros": _along_outputs(zeros, order),
        "scales": scales,
        "g_idx": (np.arange(levels.shape[0]) // GROUP).astype(np.int32),
    }


def _along_outputs(levels: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Eight neighbours of a row in one int32, the first of `order` lowest."""
    eights = levels.reshape(levels.shape[0], -1, 8)[:, :, order]
    return np.bitwise_or.reduce(eights << (4 * np.arange(8, dtype=np.uint32)), axis=2).astype(np.uint32).view(np.int32)


_PACK: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]] = {"awq": _awq, "gptq": _gptq}
_CONFIG = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False},
}
