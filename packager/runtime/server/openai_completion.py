"""POST /v1/completions."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..engine import Delta, GenerationRequest, TokenLogprob
from ..fields import Fields
from ..structured import parse_output
from .choices import Choices, Json
from .openai import MOST_LOGPROBS, floored, make_envelope, make_reply, take_shared
from .sse import Reply

_NEUTRAL: dict[str, tuple[Any, ...]] = {"echo": (False,), "best_of": (1,), "suffix": ("",)}
_MOST_PROMPTS = 128


def parse_completion(body: Any, request_id: str, model: str) -> Reply | Choices:
    """The request and its answer's form. Raises RequestError."""
    fields = Fields(body)
    asked = take_shared(fields, model)
    prompts = _prompts(fields)
    sampling, output = fields.sampling(), parse_output(fields)
    logprobs = fields.integer("logprobs", 0, MOST_LOGPROBS)
    for name, values in _NEUTRAL.items():
        fields.neutral(name, *values)
    fields.finish()
    requests = [
        GenerationRequest(
            request_id if len(prompts) == 1 else f"{request_id}-p{at}",
            prompt=prompt,
            sampling=replace(sampling, logprobs=logprobs),
            output=output,
            adapter=asked.adapter,
        )
        for at, prompt in enumerate(prompts)
    ]
    envelope = make_envelope(f"cmpl-{request_id}", "text_completion", "text_completion", asked)
    return make_reply(requests, asked, envelope, CompletionForm(logprobs=logprobs is not None))


def _prompts(fields: Fields) -> list[str]:
    """One prompt, or a list of them: each is answered by choices of its own."""
    value = fields.take("prompt")
    prompts = [value] if isinstance(value, str) else value
    if value is None:
        raise fields.refusal("prompt", "is missing")
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= _MOST_PROMPTS:
        raise fields.refusal("prompt", f"must be a string, or a list of 1 to {_MOST_PROMPTS} strings")
    if any(isinstance(prompt, int | list) for prompt in prompts):
        raise fields.refusal("prompt", "must be text: token ids are not supported by this model server")
    each = [Fields({"prompt": prompt}).text("prompt") for prompt in prompts]
    if None in each:
        raise fields.refusal("prompt", "must not have null among its strings")
    return [prompt for prompt in each if prompt is not None]


class CompletionForm:
    """Choices as texts; `logprobs` says whether they were asked for."""

    def __init__(self, *, logprobs: bool) -> None:
        self._logprobs = logprobs
        self._tables: dict[int, _Table] = {}

    def opening(self, index: int) -> None:  # noqa: ARG002 - a text has no beginning but itself
        return None

    def piece(self, index: int, delta: Delta) -> Json | None:
        if not delta.text and not delta.logprobs:
            return None
        table = self._tables.setdefault(index, _Table()).rows(delta.logprobs) if delta.logprobs else None
        return {"index": index, "text": delta.text, "logprobs": table, "finish_reason": None}

    def finish(self, index: int, last: Delta) -> Json:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": last.finish_reason}

    def whole(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = "".join(delta.text for delta in deltas)
        table = _Table().rows([one for delta in deltas for one in delta.logprobs]) if self._logprobs else None
        return {"index": index, "text": text, "logprobs": table, "finish_reason": deltas[-1].finish_reason}


class _Table:
    """Log probabilities as this route has them. `text_offset` counts the characters of the choice before a token."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def rows(self, tokens: Sequence[TokenLogprob]) -> Json:
        """Those of the next tokens."""
        offsets = []
        for one in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(one.token.raw))
        return {
            "tokens": [one.token.text for one in tokens],
            "token_logprobs": [floored(one.token.logprob) for one in tokens],
            "top_logprobs": [_likely_json(one) for one in tokens],
            "text_offset": offsets,
        }


def _likely_json(one: TokenLogprob) -> dict[str, float]:
    """The token itself and its alternatives by their text; of two that read the same the first counts."""
    likely: dict[str, float] = {}
    for other in (one.token, *one.top):
        likely.setdefault(other.text, floored(other.logprob))
    return likely
