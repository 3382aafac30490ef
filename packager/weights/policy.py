"""What may stand among weights: data, never code.

Pickle formats run code when they are opened, and `trust_remote_code=False` is not a boundary
(CVE-2025-66448, CVE-2026-22807): both are refused by name, before a byte of them is fetched, unless the
spec's author vouches for that very file by its sha256.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from ..errors import Problem
from .source import SourceFile

CONFIGURATIONS = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""The files of a Hugging Face folder whose `auto_map` names code to run."""

_PICKLE = frozenset({".bin", ".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"})
_CODE = frozenset({".dll", ".dylib", ".exe", ".py", ".pyc", ".sh", ".so"})
_PICKLE_STARTS = (b"\x80", b"PK")
"""How pickles of protocol 2 and later begin, and the zip archives that torch saves."""
_LONGEST_NAME = 255
_OR_VOUCH = ", or vouch for it: its path and sha256 in `weights.trusted_code`"


def refuse(
    files: Iterable[SourceFile],
    *,
    where: str,
    data_files: Collection[str] = (),
    trusted: Collection[str] | None = None,
) -> tuple[Problem, ...]:
    """One problem for each file that must not be there; `where` is the source's place in the spec.

    `data_files` are the engine's own formats under a name that a pickle may have (their first bytes are for
    `refuse_pickle`), `trusted` the files that the spec's author vouches for; None where no vouching helps, because
    the engine runs no code of the weights.
    """
    found = []
    mend = "" if trusted is None else _OR_VOUCH
    for file in files:
        if (problem := _unsafe(file.path, where)) is None and file.path not in (trusted or ()):
            problem = _runs_code(file.path, where, data_files, mend)
        if problem is not None:
            found.append(problem)
    return tuple(found)


def refuse_pickle(path: str, start: bytes, *, where: str) -> tuple[Problem, ...]:
    """A problem when the data file `path` begins, with `start`, like a pickle after all."""
    if not start.startswith(_PICKLE_STARTS):
        return ()
    mend = "it is a checkpoint of torch: convert the model for this engine"
    return (Problem(f"{path} has the name of a data file and begins like a pickle", where, mend),)


def refuse_own_code(path: str, data: bytes, *, where: str, trusted: Collection[str] = ()) -> tuple[Problem, ...]:
    """Problems with the code that the configuration `path`, which holds `data`, names in its `auto_map`.

    https://huggingface.co/docs/transformers/custom_models: `{"AutoModel": "module.Class"}`, a list of two
    for tokenizers, `owner/repository--module.Class` for code that lies elsewhere.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        return (Problem(f"{path} is not JSON: {error}", where, "restore the file"),)
    named = value.get("auto_map") if isinstance(value, dict) else None
    problems = []
    for code in sorted(_code_files(named)):
        if "--" in code:
            mend = "copy that code into the weights' folder and name it without `--`, or remove `auto_map`"
            problems.append(Problem(f"{path} names code of another repository: {code}", where, mend))
        elif code not in trusted:
            mend = (
                f"remove `auto_map` from {path} if the engine knows the architecture itself, "
                f"or vouch for {code}: its path and sha256 in `weights.trusted_code`"
            )
            problems.append(Problem(f"{path} names code to run: {code}", where, mend))
    return tuple(problems)


def _code_files(auto_map: Any) -> set[str]:
    """The files that hold the classes of an `auto_map`."""
    values = auto_map.values() if isinstance(auto_map, Mapping) else [auto_map]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return {f"{one.rpartition('.')[0]}.py" for one in flat if isinstance(one, str)}


def _unsafe(path: str, where: str) -> Problem | None:
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or any(p in ("", ".", "..") or len(p) > _LONGEST_NAME for p in parts):
        return Problem(f"the weights list an unsafe path {path!r}", where, "rename the file at its source")
    return None


def _runs_code(path: str, where: str, data_files: Collection[str], or_else: str) -> Problem | None:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PICKLE and path not in data_files and not path.endswith("training_args.bin"):
        return Problem(
            f"{path} is a pickle: opening it runs code",
            where,
            f"convert it to safetensors or GGUF, or leave it out with `weights.include`{or_else}",
        )
    if suffix in _CODE:
        return Problem(f"{path} is code, not weights", where, f"leave it out with `weights.include`{or_else}")
    return None
