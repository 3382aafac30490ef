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
    """How one request chooses its tokens, and what it has chosen so far. Lives on the thread that computes."""

    def __init__(self, sampling: SamplingParams, defaults: Defaults, prompt: Sequence[int], logits: Any) -> None:
        """`logits` are those of the first token: they say how many tokens there are, and where to compute."""
        self._top_p = _given(sampling.top_p, defaults.top_p)
        self._top_k = _given(sampling.top_k, defaults.top_k)
        self._min_p = _given(sampling.min_p, defaults.min_p)
        # A request that says how to sample samples, also where the model's own default is greedy.
        narrowed = any(value is not None for value in (sampling.top_p, sampling.top_k, sampling.min_p))
        self._temperature = _given(sampling.temperature, defaults.temperature or (1.0 if narrowed else 0.0))
        self._repetition = _given(sampling.repetition_penalty, defaults.repetition_penalty)
        self._presence = sampling.presence_penalty or 0.0
        self._frequency = sampling.frequency_penalty or 0.0
        self._logprobs = sampling.logprobs
        self._counts = self._seen = self._generator = None
        if not self.greedy:
            self._generator = _generator(sampling.seed, logits.device)
        if self._presence or self._frequency:
            self._counts = logits.new_zeros(logits.shape, dtype=torch.float32)
        if self._repetition != 1:
            self._seen = logits.new_zeros(logits.shape, dtype=torch.bool)
            self._seen[torch.tensor(prompt, device=logits.device)] = True

    @property
    def greedy(self) -> bool:
        return bool(self._temperature < _COLDEST)

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token as the model says it."""
        return self.greedy and self._counts is None and self._seen is None

    def pick(self, logits: Any) -> Any:
        """The next token, a scalar, from `[vocabulary]` float32 logits."""
        scores = self._penalized(logits)
        if self.greedy:
            return scores.argmax()
        scores = self._narrowed(scores / self._temperature)
        noise = torch.empty_like(scores).exponential_(generator=self._generator)
        return (scores - noise.log_()).argmax()

    def chosen(self, token: int, logits: Any) -> "Chosen":
        """Note that `token` was picked, and say what is asked of it."""
        if self._counts is not None:
            self._counts[token] += 1
        if self._seen is not None:
            self._seen[token] = True
        if self._logprobs is None:
            return Chosen(token)
        logprobs = logits.log_softmax(0)
        best = logprobs.topk(min(self._logprobs, len(logprobs)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Chosen(token, logprobs[token].item(), top)

    def _penalized(self, scores: Any) -> Any:
        if self._seen is not None:
            dimmed = torch.where(scores > 0, scores / self._repetition, scores * self._repetition)
            scores = torch.where(self._seen, dimmed, scores)
        if self._counts is not None:
            scores = scores - self._frequency * self._counts - self._presence * (self._counts > 0)
        return scores

    def _narrowed(self, scores: Any) -> Any:
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


def choose(choices: Sequence[Choice], logits: Any) -> list[Chosen]:
    """One token for each row of the `[rows, vocabulary]` logits."""
    with torch.inference_mode():
        logits = logits.float()
        best, likeliest = logits.max(-1)
        picks = [likeliest[at] if one.plain else one.pick(logits[at]) for at, one in enumerate(choices)]
        tokens, numbers = torch.stack(picks).tolist(), best.isfinite().tolist()
        return [
            one.chosen(token, row) if number else Chosen(token, broken=True)
            for one, token, row, number in zip(choices, tokens, logits, numbers, strict=True)
        ]


def _generator(seed: int | None, device: Any) -> Any:
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()  # a new one begins with the same number in every process
        return generator
    return generator.manual_seed(seed % 2**64)


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
