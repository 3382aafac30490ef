"""The Deltas of one answer, of an engine that gives its text in steps and looks for no stop strings of ours."""

from typing import cast

from ...errors import EngineError
from ..engine import Delta, FinishReason, TokenLogprob, Usage
from ..stops import StopText


class Answer:
    """One answer as it grows. `engine` is what people call who gives it, `prompt_tokens` is for its usage."""

    __slots__ = ("_engine", "_stop", "_written", "prompt_tokens")

    def __init__(self, engine: str, stops: tuple[str, ...], prompt_tokens: int = 0) -> None:
        self._engine = engine
        self._stop = StopText(stops)
        self._written = 0
        self.prompt_tokens = prompt_tokens

    def delta(self, text: str, tokens: int, reason: str | None, logprobs: tuple[TokenLogprob, ...] = ()) -> Delta:
        """What a step of so many tokens added; the last Delta when it has a `reason`, or a stop string was met in it.

        Raises EngineError for a reason that is a failure.
        """
        self._written += tokens
        text, met = self._stop.feed(text)
        if met:
            return Delta(text, tokens, "stop", self._usage, logprobs)
        if reason is None:
            return Delta(text, tokens, None, None, logprobs)
        return Delta(text + self._stop.rest(), tokens, self._finish(reason), self._usage, logprobs)

    def unbegun(self) -> Delta:
        """The last Delta of a request that was aborted before the engine saw it."""
        return Delta("", 0, "abort", self._usage)

    @property
    def _usage(self) -> Usage:
        return Usage(self.prompt_tokens, self._written)

    def _finish(self, reason: str) -> FinishReason:
        if reason in ("stop", "length", "abort"):
            return cast("FinishReason", reason)
        raise EngineError(f"{self._engine} ended the request: {reason}")
