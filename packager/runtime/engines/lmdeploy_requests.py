"""Between our requests and LMDeploy's: prompts, sampling parameters, forms of the output, refusals."""

# Sets what the imports below read; it must come first.
from . import lmdeploy_environment  # noqa: F401

# isort: split

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmdeploy.messages import GenerationConfig
from lmdeploy.serve.core.exceptions import ErrorCode
from lmdeploy.serve.core.exceptions import RequestError as LmdeployError

from ...errors import ContextLengthError, EngineError, LoadError, PackagerError, RequestError
from ..engine import SAMPLING, Features, GenerationRequest, Likely, OutputForm, TokenLogprob
from ..threads import in_daemon_thread
from .chat_template import ChatTemplate
from .decode import Detokenizer
from .lmdeploy_options import PYTORCH

MOST_LOGPROBS = 20
_SHORT = 2000
"""Characters of a prompt that are tokenized on the event loop: the way to a thread and back takes longer."""
_GIVEN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_LACKS = frozenset({"presence_penalty", "frequency_penalty"})
_SEEDS = 2**63 - 1
_REFUSED = (ErrorCode.INVALID_REQUEST, ErrorCode.UNSUPPORTED_FEATURE, ErrorCode.PREPROCESS_FAILED)


class Prompts:
    """Prompts as token ids: the weights' chat template, and LMDeploy's tokenizer."""

    def __init__(self, tokenizer: Any, template: ChatTemplate | None, context: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._context = context

    async def token_ids(self, request: GenerationRequest) -> list[int]:
        """The request's prompt. Raises RequestError (ContextLengthError: it leaves no room for an answer)."""
        where, special = ("prompt", True) if request.messages is None else ("messages", False)
        text = self._text(request)
        if len(text) < _SHORT:
            ids = self._encode(text, special)
        else:
            ids = await in_daemon_thread(lambda: self._encode(text, special))
        if not ids:
            raise RequestError("the prompt has no tokens", where=where)
        if len(ids) >= self._context:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens; the context holds {self._context}, with at least one for the answer",
                where=where,
                mend="shorten it",
            )
        return ids

    def _text(self, request: GenerationRequest) -> str:
        if request.messages is None:
            return request.prompt or ""
        if self._template is None:
            raise RequestError("the model has no chat template", where="messages", mend="send a prompt")
        return self._template.render(request.messages)

    def _encode(self, text: str, special: bool) -> list[int]:  # noqa: FBT001
        """`special` is whether the tokenizer puts its own tokens at the start; a chat template has written them."""
        return list(self._tokenizer.encode(text, add_special_tokens=special))


def features(backend: str, outputs: frozenset[Any], *, chat: bool, logprobs: bool) -> Features:
    """What the engine `backend` honours: without `logprobs` the bytes of a token are not known.

    TurboMind's log probabilities are of the tokens that its filters have left (sampling_kernels.cu), not the model's.
    """
    lacks = _LACKS if backend == PYTORCH and logprobs else _LACKS | {"logprobs"}
    most = 0 if "logprobs" in lacks else MOST_LOGPROBS
    return Features(SAMPLING - lacks, logprobs=most, outputs=outputs, chat=chat)


def read_defaults(weights: Path) -> dict[str, Any]:
    """How the model's makers want it sampled, where a request does not say: generation_config.json. Raises LoadError."""
    path = weights / "generation_config.json"
    if not path.exists():
        return {}
    try:
        said = json.loads(path.read_bytes())
    except ValueError as error:
        raise LoadError(f"generation_config.json cannot be read: {error}", where=str(path)) from error
    given = said if isinstance(said, dict) else {}
    return {name: given[name] for name in _GIVEN if given.get(name) is not None}


def generation_config(request: GenerationRequest, defaults: Mapping[str, Any], room: int) -> GenerationConfig:
    """The request's sampling in LMDeploy's words: what is not given is the model's own default, then LMDeploy's.

    `room` is how many tokens the context has left. Stop strings are not LMDeploy's: it knows them as single tokens, and
    passes over others with a warning. Raises RequestError.
    """
    asked = request.sampling
    words = dict(defaults) | {name: value for name in _GIVEN if (value := getattr(asked, name)) is not None}
    if words.get("temperature") == 0:
        words |= {"temperature": 1.0, "top_k": 1}
    try:
        return GenerationConfig(
            **words,
            do_sample=True,  # else it drops the repetition penalty
            max_new_tokens=room if asked.max_tokens is None else min(asked.max_tokens, room),
            random_seed=None if asked.seed is None else asked.seed & _SEEDS,
            logprobs=None if asked.logprobs is None else max(asked.logprobs, 1),  # its 0 means none at all
            ignore_eos=asked.ignore_eos,
            response_format=None if request.output is None else _form(request.output),
        )
    except (AssertionError, ValueError) as error:
        raise RequestError(f"LMDeploy refuses the request: {error}") from error


def _form(form: OutputForm) -> dict[str, Any]:
    match form.kind:
        case "json_schema":
            return {"type": "json_schema", "json_schema": form.value}
        case "regex":
            return {"type": "regex_schema", "regex_schema": form.value}
        case _:
            return {"type": "json_object"}


def logprobs_of(step: Any, top: int, tokens: Detokenizer) -> tuple[TokenLogprob, ...]:
    """The log probabilities of a step's tokens, each with the `top` likeliest at its place."""
    return tuple(
        _logprob(place, chosen, top, tokens)
        for place, chosen in zip(step.logprobs or (), step.token_ids or (), strict=True)
    )


def _logprob(place: Mapping[int, float], chosen: int, top: int, tokens: Detokenizer) -> TokenLogprob:
    likely = {token: Likely(tokens.token_bytes(token), logprob) for token, logprob in place.items()}
    best = sorted(likely.values(), key=lambda one: one.logprob, reverse=True)
    return TokenLogprob(likely[chosen], tuple(best[:top]))


def translated(error: LmdeployError, where: str = "") -> PackagerError:
    """LMDeploy's error as ours: a refusal of the request, or a failure with what caused it.

    `where` is the parameter it may be about.
    """
    if error.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        return ContextLengthError(f"LMDeploy refuses the request: {error.message}", where="prompt", mend="shorten it")
    if error.code in _REFUSED:
        return RequestError(f"LMDeploy refuses the request: {error.message}", where=where)
    why = "" if error.__cause__ is None else f": {one_line(error.__cause__)}"
    return EngineError(f"LMDeploy failed: {error.message}{why}")


def one_line(error: BaseException) -> str:
    """The type of an error, and the first line of what it says."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
