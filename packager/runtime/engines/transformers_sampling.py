"""Choosing tokens from logits: each request by its own parameters and its own random numbers.

The parameters mean what they mean in the library's `generate`: penalties first, then temperature, top_k, top_p,
min_p. `presence_penalty` and `frequency_penalty`, which it lacks, are OpenAI's: they count the answer's tokens.
The draw is made with Gumbel noise, drawn for the whole vocabulary: a token's noise does not depend on which others
are left, and no sum of probabilities can fail on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..engine import SamplingParams

MOST_ALTERNATIVES = 20
"""Of `logprobs`, as OpenAI's API has it."""
_COLDEST = 1e-5
"""Temperatures below are greedy: dividing by them leaves the range of float32."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that leaves a parameter out gets: the model's generation_config.json.

    `temperature` 0 is greedy, as the library is without `do_sample`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, config: Any) -> "Defaults":
        """From a `transformers.GenerationConfig`."""
        warm = 1.0 if config.temperature is None else float(config.temperature)
        return cls(
            temperature=warm if config.do_sample else 0.0,
            top_p=1.0 if config.top_p is None else float(config.top_p),
            top_k=int(config.top_k or 0),
            min_p=float(config.min_p or 0),
            repetition_penalty=float(config.repetition_penalty or 1),
        )


class Choice:
    """How one request chooses its tokens, and what it has chosen so far."""

    __slots__ = ("_counts", "_frequency", "_generator", "_min_p", "_presence", "_repetition", "_seen", "_temperature")
    __slots__ += ("_top_k", "_top_p", "logprobs")

    def __init__(self, sampling: SamplingParams, defaults: Defaults) -> None:
        self.logprobs = sampling.logprobs
        self._top_p = _given(sampling.top_p, defaults.top_p)
        self._top_k = _given(sampling.top_k, defaults.top_k)
        self._min_p = _given(sampling.min_p, defaults.min_p)
        # A request that says how to sample samples, also where the model's own default is greedy.
        narrowed = any(value is not None for value in (sampling.top_p, sampling.top_k, sampling.min_p))
        self._temperature = _given(sampling.temperature, defaults.temperature or (1.0 if narrowed else 0.0))
        self._repetition = _given(sampling.repetition_penalty, defaults.repetition_penalty)
        self._presence = sampling.presence_penalty or 0.0
        self._frequency = sampling.frequency_penalty or 0.0
        self._generator: torch.Generator | None = None
        self._counts: torch.Tensor | None = None
        self._seen: torch.Tensor | None = None

    def begin(self, prompt: Sequence[int], vocabulary: int, device: Any, seed: int | None) -> None:
        """Before the first token, on the thread that computes: make what lives on the device."""
        if not self.greedy:
            self._generator = torch.Generator(device)
            if seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(seed % 2**64)
        if self._presence or self._frequency:
            self._counts = torch.zeros(vocabulary, device=device)
        if self._repetition != 1:
            self._seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt, device=device)] = True

    @property
    def greedy(self) -> bool:
        return self._temperature < _COLDEST

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token as the model says it."""
        return self.greedy and self._counts is None and self._seen is None

    def note(self, token: int) -> None:
        """`token` was chosen."""
        if self._counts is not None:
            self._counts[token] += 1
        if self._seen is not None:
            self._seen[token] = True

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token, a scalar, from `[vocabulary]` float32 logits."""
        scores = self._penalized(logits)
        if self.greedy:
            return scores.argmax()
        scores = self._narrowed(scores / self._temperature)
        noise = torch.empty_like(scores).exponential_(generator=self._generator)
        return (scores - noise.log_()).argmax()

    def _penalized(self, scores: torch.Tensor) -> torch.Tensor:
        if self._seen is not None:
            dimmed = torch.where(scores > 0, scores / self._repetition, scores * self._repetition)
            scores = torch.where(self._seen, dimmed, scores)
        if self._counts is not None:
            scores = scores - self._frequency * self._counts - self._presence * (self._counts > 0)
        return scores

    def _narrowed(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores, with -inf for what top_k, top_p and min_p leave out."""
        best = None
        if 0 < self._top_k < len(scores):
            best = scores.topk(self._top_k).values
            scores = scores.masked_fill(scores < best[-1], -math.inf)
        if self._top_p < 1:
            best = scores.sort(descending=True).values if best is None else best
            shares = best.softmax(0)
            kept = (shares.cumsum(0) - shares < self._top_p).sum().clamp(min=1)
            scores = scores.masked_fill(scores < best[kept - 1], -math.inf)
        if self._min_p > 0:
            scores = scores.masked_fill(scores < scores.max() + math.log(self._min_p), -math.inf)
        return scores


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token; its log probability and the likeliest tokens with theirs, where they were asked for.

    Log probabilities are the model's own, before penalties and temperature. `broken`: the model gave no number.
    """

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    broken: bool = False


@torch.inference_mode()
def choose(choices: Sequence[Choice], logits: torch.Tensor) -> list[Chosen]:
    """One token for each row of the `[rows, vocabulary]` logits."""
    logits = logits.float()
    best, likeliest = logits.max(-1)
    picks = [likeliest[at] if one.plain else one.pick(logits[at]) for at, one in enumerate(choices)]
    tokens = torch.stack(picks).tolist()
    broken = (~best.isfinite()).tolist()
    chosen = []
    for at, one in enumerate(choices):
        if broken[at]:
            chosen.append(Chosen(0, broken=True))
            continue
        one.note(tokens[at])
        chosen.append(_with_logprobs(tokens[at], logits[at], one.logprobs))
    return chosen


def _with_logprobs(token: int, logits: torch.Tensor, count: int | None) -> Chosen:
    if count is None:
        return Chosen(token)
    logprobs = logits.log_softmax(0)
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    return Chosen(token, logprobs[token].item(), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
