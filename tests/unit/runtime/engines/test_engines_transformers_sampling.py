"""Choosing tokens: against the library's own processors, and OpenAI's words for the penalties that it lacks."""

from itertools import combinations

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from packager.runtime.engine import SamplingParams
from packager.runtime.engines.transformers_sampling import Choice, Defaults, choose

PROMPT = [3, 5]
WORDS = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}
VALUES = {"temperature": 0.6, "top_k": 5, "top_p": 0.7, "min_p": 0.1}
DRAWS = 6000


def logits_of(seed: int = 0, count: int = 16) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 2


def shares(sampling: dict[str, float], logits: torch.Tensor) -> torch.Tensor:
    """How often each token is chosen, each time with another seed."""
    choices = [Choice(SamplingParams(seed=seed, **sampling), Defaults(), PROMPT, logits) for seed in range(DRAWS)]
    chosen = choose(choices, logits.expand(DRAWS, -1))
    return torch.bincount(torch.tensor([one.token for one in chosen]), minlength=len(logits)) / DRAWS


@pytest.mark.parametrize(
    "names",
    [("temperature", *names) for count in range(len(VALUES)) for names in combinations(list(VALUES)[1:], count)],
    ids="-".join,
)
def test_the_distribution_is_the_librarys(names: tuple[str, ...]) -> None:
    logits = logits_of()
    processors = LogitsProcessorList([WORDS[name](VALUES[name]) for name in names])
    expected = processors(torch.tensor([PROMPT]), logits[None]).softmax(-1)[0]
    found = shares({name: VALUES[name] for name in names}, logits)
    assert set(found.nonzero().flatten().tolist()) <= set(expected.nonzero().flatten().tolist())
    assert (found - expected).abs().max() < 0.03  # five standard deviations


def test_the_repetition_penalty_is_the_librarys() -> None:
    logits = logits_of(1)
    expected = RepetitionPenaltyLogitsProcessor(3.0)(torch.tensor([PROMPT]), logits[None]).softmax(-1)[0]
    assert (shares({"temperature": 1, "repetition_penalty": 3.0}, logits) - expected).abs().max() < 0.03


def greedy(sampling: SamplingParams, logits: torch.Tensor, steps: int) -> list[int]:
    choice = Choice(sampling, Defaults(), PROMPT, logits)
    return [choose([choice], logits[None])[0].token for _ in range(steps)]


def test_a_frequency_penalty_counts_and_a_presence_penalty_does_not() -> None:
    """OpenAI's: of the answer's tokens alone, `count * frequency` and once `presence`."""
    logits = torch.tensor([0.0, 0.0, 0.0, 5.0, 4.1, 1.0])  # 3 and 5 are in the prompt: that does not count
    assert greedy(SamplingParams(temperature=0), logits, 3) == [3, 3, 3]
    assert greedy(SamplingParams(temperature=0, frequency_penalty=0.5), logits, 4) == [3, 3, 4, 3]
    assert greedy(SamplingParams(temperature=0, presence_penalty=1.0), logits, 4) == [3, 4, 3, 3]
    assert greedy(SamplingParams(temperature=0, presence_penalty=-1.0), logits, 3) == [3, 3, 3]


def test_a_seed_repeats_its_draws_and_no_seed_does_not() -> None:
    logits = torch.zeros(1000)

    def draws(seed: int | None) -> list[int]:
        choice = Choice(SamplingParams(temperature=1, seed=seed), Defaults(), PROMPT, logits)
        return [choose([choice], logits[None])[0].token for _ in range(4)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(-1) == draws(-1)
    assert draws(None) != draws(None)


def test_a_draw_does_not_depend_on_who_else_draws() -> None:
    rows = torch.stack([logits_of(seed) for seed in range(3)])

    def choices() -> list[Choice]:
        return [Choice(SamplingParams(temperature=1, seed=seed), Defaults(), PROMPT, rows[seed]) for seed in range(3)]

    together = [one.token for one in choose(choices(), rows)]
    assert together == [choose([one], row[None])[0].token for one, row in zip(choices(), rows, strict=True)]


def test_logprobs_are_the_models_own() -> None:
    logits = logits_of()
    sampling = SamplingParams(temperature=0.5, top_k=3, frequency_penalty=2, seed=1, logprobs=4)
    (chosen,) = choose([Choice(sampling, Defaults(), PROMPT, logits)], logits[None])
    expected = logits.log_softmax(0)
    assert chosen.logprob == pytest.approx(expected[chosen.token].item())
    assert [token for token, _ in chosen.top] == expected.topk(4).indices.tolist()
    assert [logprob for _, logprob in chosen.top] == pytest.approx(expected.topk(4).values.tolist())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen_and_spoils_one_row(number: float) -> None:
    rows = torch.stack([logits_of(), logits_of()])
    rows[0, 3] = number
    choices = [Choice(SamplingParams(temperature=temperature), Defaults(), PROMPT, rows[0]) for temperature in (1, 0)]
    broken, whole = choose(choices, rows)
    assert broken.broken
    assert not whole.broken
    assert whole.token == rows[1].argmax()


def test_the_models_own_defaults() -> None:
    warm = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1)
    assert Defaults.of(warm) == Defaults(0.6, 0.9, 20, 0.0, 1.1)
    assert Defaults.of(GenerationConfig(do_sample=True)).temperature == 1
    assert Defaults.of(GenerationConfig(temperature=0.6)).temperature == 0  # greedy without do_sample


@pytest.mark.parametrize(
    ("asked", "defaults", "draws"),
    [
        ({}, Defaults(), False),
        ({}, Defaults(temperature=0.7), True),
        ({"temperature": 0}, Defaults(temperature=0.7), False),
        ({"temperature": 1e-9}, Defaults(), False),
        ({"temperature": 1}, Defaults(), True),
        ({"top_p": 0.9}, Defaults(), True),
        ({"seed": 1}, Defaults(), False),
    ],
)
def test_who_draws(asked: dict[str, float], defaults: Defaults, *, draws: bool) -> None:
    logits = torch.zeros(1000)
    sampling = SamplingParams(**asked)
    tokens = {choose([Choice(sampling, defaults, PROMPT, logits)], logits[None])[0].token for _ in range(5)}
    assert (len(tokens) > 1) == draws
