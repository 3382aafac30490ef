"""What is converted, at its source: listed, judged, and locked to exact bytes like any weights."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ..digest import sha256_hex
from ..errors import OfflineError, Problem, SpecError
from ..lock.model import ModelFacts, facts_of_config
from ..lock.origin import Origin, at
from ..lock.tools import Tools
from ..lock.weights import ADAPTER_FILES
from ..manifest import WeightsManifest
from ..spec.conversion import ConversionSpec
from ..spec.load import SpecFile
from ..weights.file import FileSource
from ..weights.mirrors import open_locked
from ..weights.policy import CONFIGURATIONS, check_names, code_files, refuse_own_code
from ..weights.source import Source, SourceFile, read_file

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", ".safetensors"
WORDS = (".json", ".jinja", ".model", ".tiktoken", ".txt")
"""How configurations, tokenizers and templates of a transformers folder end."""
_TWICE = "consolidated"
"""How the names of the same weights in Mistral's own form begin."""
_PICKLE = ".bin"
_PICKLES = "pytorch_model"
"""How the names of the pickles begin that transformers opens where there are no safetensors."""
_MODELOPT = "hf_quant_config.json"
_IMPORTED = re.compile(rb"^[ \t]*(?:from|import)[ \t]+\.(\w+)", re.MULTILINE)
"""A module beside this one, as transformers finds them (5.23.0, dynamic_module_utils.py get_relative_imports)."""
_MOST_CODE = 1 << 20
"""Bytes of a module: what is larger is not read here."""


@dataclass(frozen=True, slots=True)
class Found:
    """Weights to fetch: what of `address`, which is good from any folder, is taken at `revision`.

    `facts` are a model's. `where` is the place in the spec that asks for them.
    """

    address: str
    revision: str
    files: tuple[SourceFile, ...]
    facts: ModelFacts
    where: str

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(one.size for one in self.files)

    @property
    def listed(self) -> bool:
        """Whether its files are known: a conversion can be planned without."""
        return bool(self.files)


def look_at_model(file: SpecFile, asked: ConversionSpec, tools: Tools) -> Found:
    """The model that `conversion.source` names. Raises SpecError for what cannot be compiled, LoadError."""
    where = file.where("conversion", "source")
    with at(where), Origin(_open(asked.source, asked.revision, file, tools), tools) as source:
        listed = source.inventory()
        chosen = tuple(one for one in listed if one.path in asked.trusted_code or _is_taken(one.path, asked))
        modules, pickles = _modules(source, listed, chosen), _pickles(listed, chosen)
        problems = [*check_names(chosen, where=where), *_lacking(file, asked, chosen, pickles)]
        there = {one.path for one in modules}
        problems += _own_code(source, chosen, {*asked.trusted_code, *there}, where)
        problems += _unvouched(source, asked, modules, pickles, where)
        if problems:
            raise SpecError.collect(problems)
        return Found(_address(source, asked.source), source.revision, chosen, _facts(source, chosen), where)


def look_at_adapter(file: SpecFile, asked: ConversionSpec, tools: Tools) -> Found | None:
    """The adapter that `conversion.merge` names; None without one. Raises SpecError, LoadError."""
    if asked.merge is None:
        return None
    where = file.where("conversion", "merge", "source")
    with at(where), Origin(_open(asked.merge.source, asked.merge.revision, file, tools), tools) as source:
        chosen = tuple(one for one in source.inventory() if one.path in ADAPTER_FILES)
        if lacking := [name for name in ADAPTER_FILES if name not in {one.path for one in chosen}]:
            mend = "name the folder that PEFT's `save_pretrained` wrote, which has both"
            raise SpecError(f"the adapter lacks {' and '.join(lacking)}", where=where, mend=mend)
        return Found(_address(source, asked.merge.source), source.revision, chosen, ModelFacts(), where)


def look_beside(file: SpecFile, asked: ConversionSpec) -> tuple[Found, Found | None] | None:
    """Model and adapter as far as a config.json beside the spec says: enough for a plan where their source is out of reach.

    None where there is no such file. Raises SpecError for one that is damaged, or that names code.
    """
    beside, where = file.folder / CONFIG, file.where("conversion", "source")
    if not beside.is_file():
        return None
    config = FileSource(beside)
    if problems := [*_own_code(config, config.inventory(), asked.trusted_code, where)]:
        raise SpecError.collect(problems)
    model = Found(asked.source, asked.revision or "", (), _facts(config, config.inventory()), where)
    if asked.merge is None:
        return model, None
    place = file.where("conversion", "merge", "source")
    return model, Found(asked.merge.source, asked.merge.revision or "", (), ModelFacts(), place)


def lock_found(found: Found, tools: Tools, trusted: Mapping[str, str]) -> WeightsManifest:
    """What was found, each file with its sha256. Raises SpecError for a trusted file that is another one, LoadError."""
    with at(found.where), Origin(open_locked(found.address, found.revision), tools) as source:
        files = source.lock(found.files, keep=False)
    problems = [
        Problem(
            f"{one.path} is not the file that was vouched for: it has another sha256",
            found.where,
            f"read the file, then write its sha256 into `conversion.trusted_code`: {one.sha256}",
        )
        for one in files
        if trusted.get(one.path, one.sha256) != one.sha256
    ]
    if problems:
        raise SpecError.collect(problems)
    return WeightsManifest(found.address, found.revision, "on_load", ".", files)


def lock_tokenizer(file: SpecFile, tools: Tools) -> str | None:
    """The sha256 of the tokenizer that `weights.tokenizer` names; None where the spec names none.

    Raises SpecError where it has none that the served engine can read, LoadError.
    """
    weights, where = file.spec.weights, file.where("weights", "tokenizer")
    if weights is None or weights.tokenizer is None:
        return None
    with at(where), Origin(_open(weights.tokenizer, weights.tokenizer_revision, file, tools), tools) as source:
        found = [one for one in source.inventory() if one.path == TOKENIZER]
        if not found:
            what = f"there is no {TOKENIZER} here, which the served engine needs"
            raise SpecError(what, where=where, mend="name a repository that has it, or the folder within")
        (locked,) = source.lock(found, keep=False)
    return locked.sha256


def is_weights(path: str) -> bool:
    """Whether a file of a transformers folder holds weights, or is the index of such files."""
    return path.endswith((WEIGHTS, _PICKLE, ".index.json"))


def _open(address: str, revision: str | None, file: SpecFile, tools: Tools) -> Source:
    source = open_locked(address, revision or "", folder=file.folder)
    if tools.offline and not isinstance(source, FileSource):  # a mirror on a disk is no network
        mend = "run it where the network is, or say where a copy lies: PACKAGER_WEIGHTS_MIRRORS"
        raise OfflineError("offline, and what is converted is elsewhere", mend=mend)
    return source


def _address(source: Origin, asked: str) -> str:
    return source.uri if asked.startswith("file://") else asked


def _is_taken(path: str, asked: ConversionSpec) -> bool:
    if "/" in path or (path.startswith(_TWICE) and path.endswith(WEIGHTS)):
        return False
    if path.endswith(f"{_PICKLE}.index.json"):
        return any(one.endswith(_PICKLE) for one in asked.trusted_code)
    return path.endswith((WEIGHTS, *WORDS))


def _lacking(
    file: SpecFile, asked: ConversionSpec, chosen: Sequence[SourceFile], pickles: Sequence[SourceFile]
) -> Iterator[Problem]:
    paths, where = {one.path for one in chosen}, file.where("conversion", "source")
    if CONFIG not in paths:
        what = f"there is no model of transformers here: {CONFIG} is missing"
        yield Problem(what, where, "name the folder that has it")
        return
    if not pickles and not any(path.endswith(WEIGHTS) for path in paths):
        yield Problem(f"the model has no {WEIGHTS} files", where, "take a model that has them")
    for path in asked.trusted_code:
        if path not in paths:
            what = f"{path} is not among the files of {asked.source}"
            yield Problem(what, file.where("conversion", "trusted_code", path), "remove it, or correct its path")


def _own_code(source: Source, chosen: Sequence[SourceFile], trusted: Collection[str], where: str) -> Iterator[Problem]:
    for one in chosen:
        if one.path in CONFIGURATIONS:
            for problem in refuse_own_code(one.path, read_file(source, one), where=where, trusted=trusted):
                yield replace(problem, mend=problem.mend.replace("weights.trusted_code", "conversion.trusted_code"))


def _modules(source: Source, listed: Sequence[SourceFile], chosen: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    """The modules that the model's configurations name, and those that these import, as far as they are there."""
    there = {one.path: one for one in listed if "/" not in one.path}
    named = [path for one in chosen if one.path in CONFIGURATIONS for path in _named(read_file(source, one))]
    found: dict[str, SourceFile] = {}
    for path in named:  # which grows
        if path in there and path not in found:
            found[path] = one = there[path]
            data = read_file(source, one) if one.size <= _MOST_CODE else b""
            named += [f"{name.decode()}.py" for name in _IMPORTED.findall(data)]
    return tuple(found[path] for path in sorted(found))


def _named(data: bytes) -> list[str]:
    with suppress(ValueError, RecursionError):  # `_own_code` says what is no JSON
        return sorted(code_files(json.loads(data)))
    return []


def _pickles(listed: Sequence[SourceFile], chosen: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    """The pickles that hold the weights, where nothing else does."""
    if any(one.path.endswith(WEIGHTS) for one in chosen):
        return ()
    return tuple(
        one for one in listed if one.path.startswith(_PICKLES) and one.path.endswith(_PICKLE) and "/" not in one.path
    )


def _unvouched(
    source: Source,
    asked: ConversionSpec,
    modules: Sequence[SourceFile],
    pickles: Sequence[SourceFile],
    where: str,
) -> Iterator[Problem]:
    """All that has to be vouched for, in the words to write, while some of it is not."""
    files = (*modules, *pickles)
    if all(one.path in asked.trusted_code for one in files):
        return
    lines = ", ".join(f"{one.path}: {_sha256(source, one)}" for one in files)
    words = f"`conversion.trusted_code: {{{lines}}}`"
    named = ", ".join(one.path for one in modules)
    without = "or take a copy whose configurations have no `auto_map`, where TensorRT-LLM has the architecture itself"
    if not modules:
        yield Problem(f"the model has no {WEIGHTS} files", where, f"convert its pickles, or vouch for them: {words}")
    elif not pickles:
        what = f"the model is opened by code of its own: {named}"
        yield Problem(what, where, f"read it, and vouch for it: {words}; {without}")
    else:
        what = f"the model is opened by code of its own ({named}), and has no {WEIGHTS} files"
        yield Problem(what, where, f"read the code, and vouch for it and for the pickles: {words}; {without}")


def _sha256(source: Source, one: SourceFile) -> str:
    if one.sha256 is None and one.path.endswith(".py") and one.size <= _MOST_CODE:
        return sha256_hex(read_file(source, one))
    return one.sha256 or "SHA256"


def _facts(source: Source, chosen: Sequence[SourceFile]) -> ModelFacts:
    named = {one.path: one for one in chosen}
    config = json.loads(read_file(source, named[CONFIG]))  # which `_own_code` has read as JSON
    facts = facts_of_config(config) if isinstance(config, dict) else ModelFacts()
    return replace(facts, quantization="modelopt") if _MODELOPT in named and not facts.quantization else facts
