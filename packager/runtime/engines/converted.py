"""A model folder as CTranslate2's converters write it: what stands beside `model.bin`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ...errors import LoadError, RequestError
from ..engine import GenerationRequest
from .chat_template import ChatTemplate, read_chat_template
from .decode import Detokenizer

_SPECIAL = ("bos_token", "eos_token", "unk_token")
_MEND = "convert the model again, with tokenizer.json and tokenizer_config.json among its --copy_files"


@dataclass(frozen=True, slots=True)
class Converted:
    """Tokens in and out of a converted model.

    `vocabulary` are the model's tokens by id, `ends` those that end an answer, `first` is the one to begin
    with where a prompt has none; `template` is None when the model has no chat template.
    """

    tokenizer: Any
    detokenizer: Detokenizer
    vocabulary: tuple[str, ...]
    ends: frozenset[int]
    first: int
    template: ChatTemplate | None

    def prompt(self, request: GenerationRequest) -> list[int]:
        """The request's tokens. Special ones at the start come from the tokenizer for a prompt, from the template for
        messages. Raises RequestError.
        """
        if request.messages is None:
            text = request.prompt or ""
        elif self.template is None:
            raise RequestError("the model has no chat template", where="messages", mend="send a prompt")
        else:
            text = self.template.render(request.messages)
        # A batch of one, because `encode` keeps Python's lock: two megabytes would stop all streams for seconds.
        (encoded,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=request.messages is None)
        return list(encoded.ids) or [self.first]

    def tokens(self, ids: list[int]) -> list[str]:
        """These tokens as the library takes them. Raises RequestError for one that the model lacks."""
        if unknown := [at for at in ids if at >= len(self.vocabulary)]:
            token = self.tokenizer.id_to_token(unknown[0])
            raise RequestError(f"the model has no token {token!r}", where="prompt", mend="leave it out")
        return [self.vocabulary[at] for at in ids]


def read_converted(folder: Path, chat_template: str | None) -> Converted:
    """Read the folder; `chat_template` replaces its own. Raises LoadError for what is missing or does not fit."""
    config = read_json(folder / "config.json", dict, _MEND)
    for name in _SPECIAL:
        if config.get(name, "") is None:  # its converters write that, but the library refuses it without naming it
            raise LoadError(
                f"config.json says that the model's {name} is null",
                where=str(folder / "config.json"),
                mend=f'write the token there, or `"{name}": ""` for a model that has none',
            )
    vocabulary = _vocabulary(folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json", _MEND)
    for token, at in tokenizer.get_vocab().items():
        if at < len(vocabulary) and vocabulary[at] != token:
            raise LoadError(
                f"tokenizer.json is not the tokenizer of this model: its token {at} is {token!r}, "
                f"the model's is {vocabulary[at]!r}",
                where=str(folder),
                mend=_MEND,
            )
    special = {name: config[name] for name in _SPECIAL if config.get(name)}
    ends = {at for at, token in enumerate(vocabulary) if token == config.get("eos_token")}
    return Converted(
        tokenizer,
        Detokenizer(tokenizer),
        vocabulary,
        frozenset(ends | further_ends(folder / "generation_config.json", _MEND)),
        vocabulary.index(config["bos_token"]) if config.get("bos_token") in vocabulary else 0,
        read_chat_template(folder, chat_template, special),
    )


def _vocabulary(folder: Path) -> tuple[str, ...]:
    older = folder / "vocabulary.txt"
    if older.exists():
        return tuple(older.read_text("utf-8").removesuffix("\n").split("\n"))
    return tuple(read_json(folder / "vocabulary.json", list, _MEND))


def read_tokenizer(path: Path, mend: str) -> Any:
    """The `tokenizers.Tokenizer` in the file. Raises LoadError, with `mend`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(f"the model has no tokenizer: {error.strerror}", where=str(path), mend=mend) from error
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing more special
        raise LoadError(f"the tokenizer cannot be read: {error}", where=str(path), mend=mend) from error
    # Left over from training in some files: prompts would be cut or filled up in silence.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def further_ends(path: Path, mend: str) -> set[int]:
    """Chat models may end a turn with other tokens than a text: Hugging Face lists them all here. Raises LoadError."""
    if not path.exists():
        return set()
    ends = read_json(path, dict, mend).get("eos_token_id")
    return set(ends) if isinstance(ends, list) else {ends} - {None}


def read_json(path: Path, form: type, mend: str) -> Any:
    """The `form` (dict, list) that the file holds. Raises LoadError, with `mend`."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise LoadError(f"a file of the model is missing: {error.strerror}", where=str(path), mend=mend) from error
    except ValueError as error:
        raise LoadError(f"a file of the model cannot be read: {error}", where=str(path), mend=mend) from error
    if not isinstance(value, form):
        raise LoadError(f"a file of the model holds no {form.__name__}", where=str(path), mend=mend)
    return value
