"""Requests and answers in the words of llama.cpp's server."""

from typing import Any, NamedTuple

import orjson

from ...errors import ContextLengthError, EngineError, PackagerError, RequestError
from ..engine import FinishReason, GenerationRequest, Likely, OutputForm, SamplingParams, TokenLogprob, Usage
from .forced_call import ForcedCall, Piece
from .json_grammar import object_grammar, schema_grammar

_RANDOM_SEED = 2**32 - 1
"""llama.cpp's seeds have 32 bits, and this one means a random seed."""
_TOO_LONG = "exceed_context_size_error"
_BAD_GRAMMAR = "failed to parse grammar"


def write_request(request: GenerationRequest, call: ForcedCall | None) -> str:
    """The body of the request, as JSON. Raises RequestError for a schema that cannot be made a grammar.

    Without stop strings: those are StopText's, because llama.cpp loses the text that it holds back for
    them when the answer ends at its limit.
    """
    if request.tools is not None and request.tools.choice == "auto" and request.sampling.logprobs is not None:
        raise RequestError(
            "logprobs cannot be had of an answer that may call tools: llama.cpp loses those of the call's beginning",
            where="logprobs",
            mend='leave them out, or ask with tool_choice "none" or "required"',
        )
    body = _sampling(request.sampling)
    if request.messages is None:
        body["prompt"] = request.prompt
    else:
        body["messages"] = [message.plain() for message in request.messages]
    if request.tools is not None:
        body["tools"] = request.tools.functions
        # It knows no named function, and lets a model that must call one talk first: a grammar of ours does both.
        body["tool_choice"] = "auto" if request.tools.choice == "auto" else "none"
        body["parallel_tool_calls"] = request.tools.parallel
    if call is not None:
        body["grammar"] = call.grammar()
    elif request.output is not None:
        body["grammar"] = _grammar(request.output)
    return orjson.dumps({name: value for name, value in body.items() if value is not None}).decode()


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    # n_probs 0 asks for none; the token's own comes with one alternative, which the reader leaves out again.
    probabilities = None if sampling.logprobs is None else max(1, sampling.logprobs)
    return {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "timings_per_token": True,
        "n_predict": -1 if sampling.max_tokens is None else sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": None if sampling.seed is None else sampling.seed % _RANDOM_SEED,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        "ignore_eos": sampling.ignore_eos or None,
        "n_probs": probabilities,
    }


def _grammar(output: OutputForm) -> str:
    if output.kind == "json_object":
        return object_grammar()
    if output.kind == "json_schema":
        return schema_grammar(orjson.loads(output.value), "response_format")
    if output.value.lstrip().startswith("%llguidance"):
        raise RequestError("response_format.grammar must be GBNF", where="response_format")
    return output.value


class Chunk(NamedTuple):
    """What one of llama.cpp's chunks adds; `tokens` stand behind it."""

    text: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[Piece, ...] = ()


_NOTHING = Chunk()


class ChunkReader:
    """Reads the chunks of one answer: text as it comes; at the end why, and how many tokens."""

    __slots__ = ("_alternatives", "_finish", "_parameter", "_prompt", "_written")

    def __init__(self, request: GenerationRequest) -> None:
        self._parameter = "prompt" if request.messages is None else "messages"
        self._alternatives = request.sampling.logprobs or 0
        self._finish: FinishReason | None = None
        self._prompt = 0
        self._written = 0

    def read(self, chunk: str) -> Chunk:
        """Raises what an error chunk says."""
        value = orjson.loads(chunk)
        if error := value.get("error"):
            raise self._failure(error)
        if progress := value.get("prompt_progress"):
            self._prompt = progress["total"]
            return _NOTHING
        before, choice = self._written, None
        for choice in value["choices"]:
            self._finish = choice["finish_reason"] or self._finish
        if timings := value.get("timings"):
            self._written = timings["predicted_n"]
        if usage := value.get("usage"):
            self._prompt, self._written = usage["prompt_tokens"], usage["completion_tokens"]
        tokens = self._written - before
        return Chunk(tokens=tokens) if choice is None else self._chunk(choice, tokens)

    def _chunk(self, choice: dict[str, Any], tokens: int) -> Chunk:
        delta = choice.get("delta")
        text = (choice["text"] if delta is None else delta.get("content")) or ""
        calls = tuple(delta.get("tool_calls") or ()) if delta else ()
        probabilities = choice.get("logprobs")
        if not probabilities:
            return Chunk(text, tokens, (), calls)
        return Chunk(text, tokens, tuple(self._logprob(one) for one in probabilities["content"]), calls)

    def _logprob(self, one: dict[str, Any]) -> TokenLogprob:
        top = one["top_logprobs"][: self._alternatives]
        return TokenLogprob(_likely(one), tuple(_likely(other) for other in top))

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self._prompt, self._written)

    def end(self, *, cancelled: bool) -> tuple[FinishReason, Usage]:
        """Why the stream ended. Raises EngineError when llama.cpp does not say."""
        if self._finish is not None:
            return self._finish, self.usage
        if cancelled:
            return "abort", self.usage
        raise EngineError("llama.cpp ended the stream without a reason")

    def _failure(self, error: dict[str, Any]) -> PackagerError:
        message = str(error.get("message", error))
        if error.get("type") == _TOO_LONG:
            return ContextLengthError(
                f"the prompt has {error.get('n_prompt_tokens')} tokens; the context holds {error.get('n_ctx')}",
                where=self._parameter,
                mend="shorten it",
            )
        if _BAD_GRAMMAR in message:
            return RequestError("response_format: llama.cpp cannot parse the grammar", where="response_format")
        if error.get("code") == 400:
            return RequestError(f"llama.cpp refuses the request: {message}")
        return EngineError(f"llama.cpp failed: {message}")


def _likely(one: dict[str, Any]) -> Likely:
    return Likely(bytes(one["bytes"]), one["logprob"])
