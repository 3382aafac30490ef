"""What may stand among weights: data, never code.

Pickle formats run code when they are opened, and `trust_remote_code=False` is not a boundary
(CVE-2025-66448, CVE-2026-22807): both are refused by name, before a byte of them is fetched.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

from ..errors import Problem
from .source import SourceFile

_PICKLE = frozenset({".bin", ".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"})
_CODE = frozenset({".dll", ".dylib", ".exe", ".py", ".pyc", ".sh", ".so"})
_LONGEST_NAME = 255


def refuse(files: Iterable[SourceFile], *, where: str) -> tuple[Problem, ...]:
    """One problem for each file that must not be there; `where` is the source's place in the spec."""
    return tuple(problem for file in files if (problem := _problem(file.path, where)) is not None)


def _problem(path: str, where: str) -> Problem | None:
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or any(p in ("", ".", "..") or len(p) > _LONGEST_NAME for p in parts):
        return Problem(f"the weights list an unsafe path {path!r}", where, "rename the file at its source")
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PICKLE and not path.endswith("training_args.bin"):
        return Problem(
            f"{path} is a pickle: opening it runs code",
            where,
            "convert it to safetensors or GGUF, or leave it out with `weights.include`",
        )
    if suffix in _CODE:
        return Problem(f"{path} is code, not weights", where, "leave it out with `weights.include`")
    return None
