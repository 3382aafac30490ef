"""What may stand among weights: data, never code, under names that mean one file everywhere.

Pickle formats run code when they are opened, and `trust_remote_code=False` is not a boundary
(CVE-2025-66448, CVE-2026-22807): both are refused by name, before a byte of them is fetched, unless the
spec's author vouches for that very file by its sha256.

Names come from a listing that somebody else wrote, and become paths on this machine: one that leaves its folder, or
that two file systems read differently, is refused when the weights are locked and again when they are loaded.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol

from ..errors import Problem
from .source import SourceFile

CONFIGURATIONS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
"""The files of a Hugging Face folder whose `auto_map` names code to run."""

_PICKLE = frozenset({
    ".bin", ".ckpt", ".dill", ".distcp", ".joblib", ".npy", ".npz", ".ot", ".pdparams", ".pickle", ".pk", ".pkl", ".pt",
    ".pt2", ".pth", ".ptl",
})  # fmt: skip
_PACKED = frozenset({".bz2", ".gz", ".lzma", ".tar", ".xz", ".z", ".zip", ".zst"})
"""With these behind its name a pickle is one still (`.pth.tar` is nothing but a name, and joblib opens the others)."""
_CODE = frozenset({".bat", ".cmd", ".dll", ".dylib", ".exe", ".ps1", ".py", ".pyc", ".pyd", ".pyo", ".sh", ".so"})
_LIBRARY = re.compile(r".+\.so(?:\.\d+)+", re.IGNORECASE)
"""A shared library with its version."""
_UNREAD = "training_args.bin"
"""The one pickle that is let by: nearly every trained model has one, and no engine opens it."""
_PICKLE_STARTS = (b"\x80", b"PK")
"""How pickles of protocol 2 and later begin, and the zip archives that torch saves."""
MOST_FILES = 10_000
"""Files of one model: more is a data set, or a listing that wants to do harm."""
_LONGEST_NAME, _LONGEST_PATH = 255, 1000
"""Bytes in UTF-8: what ext4 and xfs take for a name, and what is left of PATH_MAX below a store's own folder."""
_RESERVED = re.compile(
    r"(?:aux|con|conin\$|conout\$|nul|prn|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?:[ .].*)?", re.IGNORECASE
)
"""Names that are devices on Windows, whatever follows a dot.
https://learn.microsoft.com/windows/win32/fileio/naming-a-file"""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_SHOWN = 120
_OR_VOUCH = ", or vouch for it: its path and sha256 in `weights.trusted_code`"


class Listed(Protocol):
    """A file of a listing, a lock or a manifest."""

    @property
    def path(self) -> str:
        """Its relative POSIX path."""
        ...

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    @property
    def sha256(self) -> str | None:
        """Hex, where it is known."""
        ...


def check_names(files: Collection[Listed], *, where: str = "") -> tuple[Problem, ...]:
    """One problem for each path that cannot be, or cannot be beside the others, on every file system.

    And for each sha256 that is none, because it becomes a file's name in the store. `where` is the place of the
    listing: the source in a spec, or a manifest.
    """
    if len(files) > MOST_FILES:
        mend = "take only what the engine needs, with `weights.include`"
        return (Problem(f"the weights list {len(files):,} files; {MOST_FILES:,} is the most", where, mend),)
    mend = "rename the file at its source, or leave it out with `weights.include`"
    found, safe = [], []
    for file in files:
        if why := _unsafe(file.path):
            found.append(Problem(f"the weights list an unsafe path {_shown(file.path)}: {why}", where, mend))
        elif file.size < 0 or (file.sha256 is not None and not _SHA256.fullmatch(file.sha256)):
            what = (
                f"the weights list {_shown(file.path)} with {file.size} bytes and the sha256 {_shown(str(file.sha256))}"
            )
            found.append(Problem(what, where, "lock again, and build the package again"))
        else:
            safe.append(file.path)
    return (*found, *(Problem(what, where, mend) for what in _collisions(safe)))


def _unsafe(path: str) -> str:
    """Why `path` is no name for a file, or an empty string."""
    names = path.split("/")
    if not path.isprintable():  # half surrogates too, which have no UTF-8
        return "it has characters that do not print"
    if path.startswith("/"):
        return "it does not start at the weights' folder"
    if any(name in ("", ".", "..") for name in names):
        return "it has a part that is empty, `.` or `..`"
    if any(character in path for character in '\\<>:"|?*'):
        return "it has a character that Windows keeps for itself"
    if any(len(name.encode()) > _LONGEST_NAME for name in names) or len(path.encode()) > _LONGEST_PATH:
        return f"a name has at most {_LONGEST_NAME} bytes, a path {_LONGEST_PATH:,}"
    if any(name.endswith((".", " ")) for name in names):
        return "a name ends in a dot or a space, which Windows drops"
    return "a name is a device on Windows" if any(_RESERVED.fullmatch(name) for name in names) else ""


def _collisions(paths: Iterable[str]) -> Iterable[str]:
    """What is wrong with paths of which a file system that ignores case or Unicode form would make one."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = _folded(path)
        other = seen.get(folded)
        if other is None:
            seen[folded] = path
        elif other == path:
            yield f"the weights list {_shown(path)} twice"
        else:
            yield f"the weights list {_shown(other)} and {_shown(path)}: they differ in case or Unicode form alone"
    for folded, path in seen.items():
        above = [folded[:at] for at, character in enumerate(folded) if character == "/"]
        if file := next((seen[one] for one in above if one in seen), None):
            yield f"the weights list {_shown(file)} as a file, and {_shown(path)} in a folder of that name"


def _folded(path: str) -> str:
    """The same for paths that are canonical caseless matches (Unicode 3.13, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _shown(path: str) -> str:
    text = repr(path)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 4]}...'"


def refuse(
    files: Collection[SourceFile],
    *,
    where: str,
    data_files: Collection[str] = (),
    trusted: Collection[str] | None = None,
) -> tuple[Problem, ...]:
    """One problem for each file that must not be there, by its name or its kind; `where` is the source's place.

    `data_files` are the engine's own formats under a name that a pickle may have (their first bytes are for
    `refuse_pickle`), `trusted` the files that the spec's author vouches for; None where no vouching helps, because
    the engine runs no code of the weights.
    """
    mend = "" if trusted is None else _OR_VOUCH
    others = [file.path for file in files if file.path not in (trusted or ()) and not _unsafe(file.path)]
    code = (problem for path in others for problem in _runs_code(path, where, data_files, mend))
    return (*check_names(files, where=where), *code)


def refuse_pickle(path: str, start: bytes, *, where: str) -> tuple[Problem, ...]:
    """A problem when the data file `path` begins, with `start`, like a pickle after all."""
    if not start.startswith(_PICKLE_STARTS):
        return ()
    mend = "it is a checkpoint of torch: convert the model for this engine"
    return (Problem(f"{path} has the name of a data file and begins like a pickle", where, mend),)


def refuse_own_code(path: str, data: bytes, *, where: str, trusted: Collection[str] = ()) -> tuple[Problem, ...]:
    """Problems with the code that the configuration `path`, which holds `data`, names in its `auto_map`.

    Or within: a model's parts have configurations in the model's own (`text_config`, `image_processor`), and engines look
    for code there too (auto_factory.py of transformers; vLLM, CVE-2025-66448).
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        return (Problem(f"{path} is not JSON: {error}", where, "restore the file"),)
    problems = []
    for code in sorted(code_files(value)):
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


def code_files(configuration: Any) -> set[str]:
    """The files that hold the classes which a decoded configuration names in an `auto_map`, however deep that stands.

    https://huggingface.co/docs/transformers/custom_models: `{"AutoModel": "module.Class"}`, a list of two for tokenizers,
    by backend for image processors, `owner/repository--module.Class` for code that lies elsewhere.
    """
    found, left = set(), [(configuration, False)]
    while left:
        value, named = left.pop()
        if isinstance(value, Mapping):
            left += [(one, named or key == "auto_map") for key, one in value.items()]
        elif isinstance(value, list):
            left += [(one, named) for one in value]
        elif named and isinstance(value, str):
            found.add(f"{value.rpartition('.')[0]}.py")
    return found


def _runs_code(path: str, where: str, data_files: Collection[str], or_else: str) -> tuple[Problem, ...]:
    name, mend = PurePosixPath(path), f"leave it out with `weights.include`{or_else}"
    suffix = ".so" if _LIBRARY.fullmatch(name.name) else name.suffix.lower()
    if suffix in _PACKED:
        suffix = PurePosixPath(name.stem).suffix.lower()
    if suffix in _PICKLE and path not in data_files and name.name != _UNREAD:
        what = f"{path} is a pickle: opening it runs code"
        return (Problem(what, where, f"convert it to safetensors or GGUF, or {mend}"),)
    return (Problem(f"{path} is code, not weights", where, mend),) if suffix in _CODE else ()
