"""One request while it is computed: what it may write, and the Deltas that it makes of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import EngineError
from ..engine import Delta, FinishReason, Likely, SamplingParams, TokenLogprob, Usage
from ..stops import HeldLogprobs, StopText
from .calls import Call
from .decode import Detokenizer
from .transformers_sampling import Choice, Chosen, Defaults


@dataclass(frozen=True, slots=True)
class Words:
    """What a model's answers are written with: `ends` are the tokens that end one."""

    detokenizer: Detokenizer
    ends: frozenset[int]
    defaults: Defaults


class Answer:
    """Made on the event loop; from then on the computing thread's, which hands its Deltas over through `call`."""

    def __init__(self, words: Words, call: Call[Delta], prompt: Sequence[int], sampling: SamplingParams) -> None:
        """`sampling.max_tokens` must be given."""
        self.tokens = list(prompt)
        """The prompt, and what is written: the last one is not computed yet."""
        self.sampling = sampling
        self._prompt = len(prompt)
        self._words = words
        self._call = call
        self._ends = frozenset[int]() if sampling.ignore_eos else words.ends
        self._choice: Choice | None = None
        self._text = words.detokenizer.stream()
        self._stop = StopText(sampling.stop)
        self._held = HeldLogprobs()
        self._ended = False

    @property
    def written(self) -> int:
        """How many tokens."""
        return len(self.tokens) - self._prompt

    @property
    def over(self) -> bool:
        """Whether it writes no more: ended, failed, or nobody wants it."""
        return self._ended or self._call.cancelled

    def choice(self, logits: Any) -> Choice:
        """How it chooses; `logits` are those for its next token."""
        if self._choice is None:
            self._choice = Choice(self.sampling, self._words.defaults, self.tokens, logits)
        return self._choice

    def take(self, chosen: Chosen) -> None:
        """Write one token."""
        if chosen.broken:
            self.fail(
                EngineError("the model computed no numbers (NaN or infinity): its number format may be too small")
            )
            return
        self.tokens.append(chosen.token)
        ended = chosen.token in self._ends
        piece = "" if ended else self._text.feed(chosen.token)
        text, met = self._stop.feed(piece)
        likely = () if self.sampling.logprobs is None else (self._likely(chosen),)
        logprobs = self._held.feed(likely, piece, text)
        if ended or met or self.written >= (self.sampling.max_tokens or 0):
            self._end(text, logprobs, met=met, reason="stop" if ended or met else "length")
        else:
            self._call.put(Delta(text, 1, logprobs=logprobs))

    def fail(self, error: EngineError) -> None:
        """End its stream with `error`."""
        self._ended = True
        self._call.failure = self._call.failure or error
        self._call.put(None)

    def _end(self, text: str, logprobs: tuple[TokenLogprob, ...], *, met: bool, reason: FinishReason) -> None:
        if not met:
            piece = self._text.rest()
            more, met = self._stop.feed(piece)
            text, logprobs = text + more, logprobs + self._held.feed((), piece, more)
            reason = "stop" if met else reason
        if not met:
            text, logprobs = text + self._stop.rest(), logprobs + self._held.rest()
        self._ended = True
        self._call.put(Delta(text, 1, reason, Usage(self._prompt, self.written), logprobs))
        self._call.put(None)

    def _likely(self, chosen: Chosen) -> TokenLogprob:
        raw = self._words.detokenizer.token_bytes
        top = tuple(Likely(raw(token), logprob) for token, logprob in chosen.top)
        return TokenLogprob(Likely(raw(chosen.token), chosen.logprob), top)
