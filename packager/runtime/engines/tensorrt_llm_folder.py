"""What stands beside TensorRT-LLM's weights: tokenizer, chat template, and which tokens end an answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ContextLengthError, LoadError, RequestError
from ..engine import GenerationRequest
from .chat_template import SETTINGS, ChatTemplate, read_chat_template
from .converted import further_ends, read_json, read_tokenizer
from .decode import Detokenizer

_MEND = "put tokenizer.json, tokenizer_config.json and generation_config.json of the source model into the folder"


@dataclass(frozen=True, slots=True)
class Words:
    """Tokens in and out of a model whose requests hold `context` tokens, of which the prompt takes `longest` at most.

    `ends` are the tokens that end an answer; `template` is None when the model has no chat template.
    """

    tokenizer: Any
    detokenizer: Detokenizer
    ends: tuple[int, ...]
    template: ChatTemplate | None
    context: int
    longest: int

    def prompt(self, request: GenerationRequest) -> list[int]:
        """The request's tokens. Raises RequestError (ContextLengthError: they leave no room for an answer)."""
        where = "prompt" if request.messages is None else "messages"
        if request.messages is None:
            text = request.prompt or ""
        elif self.template is None:
            raise RequestError("the model has no chat template", where=where, mend="send a prompt")
        else:
            text = self.template.render(request.messages)
        # A batch of one, because `encode` keeps Python's lock.
        (encoded,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=request.messages is None)
        ids = list(encoded.ids)
        if not ids:
            raise RequestError("the prompt has no tokens", where=where)
        if len(ids) > self.longest:
            what = f"the prompt has {len(ids)} tokens; it can have {self.longest} of the {self.context} of the context"
            raise ContextLengthError(what, where=where, mend="shorten it")
        return ids


def read_words(folder: Path, chat_template: str | None, context: int, longest: int) -> Words:
    """Read the folder; `chat_template` replaces its own. Raises LoadError for what is missing."""
    tokenizer = read_tokenizer(folder / "tokenizer.json", _MEND)
    ends = _ends(folder, tokenizer)
    template = read_chat_template(folder, chat_template)
    return Words(tokenizer, Detokenizer(tokenizer), ends, template, context, min(longest, context - 1))


def _ends(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's end of a text first, then those of generation_config.json."""
    settings = read_json(folder / SETTINGS, dict, _MEND) if (folder / SETTINGS).exists() else {}
    named = settings.get("eos_token")
    token = named.get("content") if isinstance(named, dict) else named
    first = None if token is None else tokenizer.token_to_id(token)
    further = further_ends(folder / "generation_config.json", _MEND)
    ends = ([] if first is None else [first]) + sorted(further - {first})
    if not ends:
        raise LoadError("nothing says which token ends an answer", where=str(folder), mend=_MEND)
    return tuple(ends)


def trained_context(folder: Path, asked: int | None) -> int:
    """`asked`, else the tokens that the model in `folder` was trained for. Raises LoadError where nothing says it."""
    if asked is not None:
        return asked
    config = read_json(folder / "config.json", dict, "build the package again")
    text = config.get("text_config")  # where a model with eyes has it
    said = [one.get("max_position_embeddings") for one in (config, text) if isinstance(one, dict)]
    found = next((one for one in said if isinstance(one, int)), None)
    if found is None:
        what = "config.json does not say for how many tokens the model was trained"
        raise LoadError(what, where=str(folder), mend="write `engine.context_length` in the spec")
    return found
