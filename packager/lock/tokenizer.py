"""What is taken of a tokenizer's source, and whether it fits the weights that it is for. Pure."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..errors import SpecError
from ..manifest import WeightsFile
from ..weights.compiled import FILE, parse_build
from ..weights.source import SourceFile

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""What is taken of a tokenizer's source, which is a model's whole repository most often: the files that tokenizers of
transformers save and read, and the one of Mistral's own (vLLM). The rest there is about other weights."""

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
"""Those of them without one of which there is no tokenizer; code of its own may read it under another name."""

_TOKENIZER = re.compile(
    r".*(vocab|tekken|spiece|sentencepiece|tokenizer\.|tokenization).*|.*\.(model|tiktoken|spm|bpe|codes)"
)
"""Names of files that a tokenizer of transformers is, or is made by; models with code of their own have yet others."""

_ENDS = "generation_config.json"
"""Which tokens end an answer; engines read it beside the tokenizer. It is the model's own, so that of the weights counts."""

_DESCRIBED = ("tokenizer.json", "tokenizer.model")
"""The files that an engine.json's `tokenizer_sha256` may be of."""
_NAMED = 5
"""Files and folders that a message names; more are counted."""


def lacks_tokenizer(paths: Iterable[str]) -> bool:
    """Whether nothing at the top of a folder of these files looks like a tokenizer; GGUF files carry theirs."""
    top = [path for path in paths if "/" not in path]
    return not any(_TOKENIZER.fullmatch(name) or name.endswith(".gguf") for name in top)


def choose_tokenizer(
    listed: Sequence[SourceFile], weights: Iterable[SourceFile], trusted: Collection[str], where: str
) -> tuple[SourceFile, ...]:
    """The files to take of a source with these, beside these `weights`. Of `trusted` code, and of what says how answers
    end, the weights' own counts.

    Raises SpecError, at `where`, where there is no tokenizer, and for a tokenizer's file that both have.
    """
    paths, own = [one.path for one in listed], {one.path for one in weights}
    there = [name for name in TOKENIZER_FILES if name in paths]
    if not there or not (trusted or own.union(there).intersection(_VOCABULARIES)):
        raise _none(paths, where)
    if both := [name for name in there if name in own]:
        what = f"the weights have {' and '.join(both)} of their own"
        mend = "remove `weights.tokenizer`, or leave theirs out with `weights.include`"
        raise SpecError(what, where=where, mend=mend)
    taken = {*there, *({_ENDS, *trusted} - own)}
    return tuple(one for one in listed if one.path in taken)


def check_described(described: Mapping[str, Any] | None, files: Iterable[WeightsFile], where: str) -> None:
    """Raise SpecError, at `where`, for a tokenizer of other bytes than an engine.json, if there is one, says it had."""
    if described is None:
        return
    build = parse_build(described)
    wanted, found = build.tokenizer_sha256, {one.path: one.sha256 for one in files if one.path in _DESCRIBED}
    if wanted is None or not found or wanted in found.values():
        return
    path, sha256 = min(found.items())
    what = f"{path} has the sha256 {sha256[:12]}, and {FILE} says that the engine's has {wanted[:12]}"
    mend = "name that one in `weights.tokenizer`, at its revision in `weights.tokenizer_revision`"
    if build.source_model is not None:
        mend += f"; the model is {build.source_model.repo} at {build.source_model.revision}"
    raise SpecError(what, where=where, mend=mend)


def _none(paths: Sequence[str], where: str) -> SpecError:
    within = sorted({path.rpartition("/")[0] for path in paths if path.endswith("/tokenizer.json")})
    named = ", ".join(paths[:_NAMED]) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")
    what = f"there is no tokenizer: none of {', '.join(_VOCABULARIES)}; there is {named or 'nothing'}"
    mend = "name the repository of the model that the weights were made of, or a folder with its tokenizer"
    if within:
        mend = f"name the folder within: {', '.join(within[:_NAMED])}"
    return SpecError(what, where=where, mend=mend)
