"""Sampling, log probabilities and text: what holds for every engine that has the feature."""

import asyncio
import math
from contextlib import suppress
from itertools import pairwise

import pytest
from asking import PROMPT, ask, read, text_of
from cases import SLOTS, Case

from packager.errors import RequestError
from packager.runtime.engine import Delta, Engine, EngineFacts, GenerationRequest, SamplingParams, TokenLogprob
from packager.runtime.features import refuse_unsupported

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROMPTS = (PROMPT, "The cat sat", "日本 é 😀", "0 1 2 3 4", "{", "a a a a a")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Of the test models' tokenizer: no text."""


NOT_FOR = ("echo",)
"""It has no choice of words (conftest.py leaves it out)."""
OTHERS = {"seed": 5, "min_p": 0.5, "top_p": 0.5, "top_k": 2, "logprobs": 1, "ignore_eos": True}


def refused(facts: EngineFacts, *names: str) -> bool:
    """Whether the engine lacks one of these parameters; then it is one that is refused by name."""
    missing = sorted(set(names) - facts.features.sampling)
    for name in missing:
        with pytest.raises(RequestError, match=name):
            refuse_unsupported(sample(**{name: OTHERS[name]}), facts.features, facts.engine)
    return bool(missing)


def sample(name: str = "r", *, prompt: str = PROMPT, max_tokens: int = 24, **sampling) -> GenerationRequest:
    return GenerationRequest(name, prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens, **sampling))


def logprobs_of(deltas: list[Delta]) -> list[TokenLogprob]:
    return [one for delta in deltas for one in delta.logprobs]


@pytest.mark.every_model
async def test_a_seed_repeats_its_text(engine: Engine, facts: EngineFacts) -> None:
    if refused(facts, "seed"):
        return
    texts = [text_of(await read(engine, sample(temperature=1, seed=5))) for _ in range(2)]
    assert texts[0] == texts[1]


async def test_seeds_differ(engine: Engine, facts: EngineFacts) -> None:
    if refused(facts, "seed"):
        return
    assert len({text_of(await read(engine, sample(temperature=1, seed=seed))) for seed in range(5)}) > 1


async def test_without_a_seed_answers_differ(engine: Engine) -> None:
    assert len({text_of(await read(engine, sample(temperature=1.5))) for _ in range(5)}) > 1


async def test_a_seed_repeats_its_text_beside_others(engine: Engine, facts: EngineFacts) -> None:
    """The numbers drawn are the request's own; few tokens, because a batch of another shape rounds differently."""
    if refused(facts, "seed"):
        return
    alone = text_of(await read(engine, sample(temperature=0.7, seed=5, max_tokens=6)))
    requests = [sample(f"r{seed}", temperature=0.7, seed=seed, max_tokens=6) for seed in range(5, 5 + SLOTS)]
    answers = await asyncio.gather(*(read(engine, request) for request in requests))
    assert text_of(answers[0]) == alone
    assert len({text_of(deltas) for deltas in answers}) > 1


async def test_temperature_0_is_greedy_whatever_the_seed(engine: Engine, facts: EngineFacts) -> None:
    seeds = (None, 1, 2) if "seed" in facts.features.sampling else (None, None)
    assert len({text_of(await read(engine, sample(temperature=0, seed=seed))) for seed in seeds}) == 1


@pytest.mark.parametrize("only", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}], ids=lambda only: next(iter(only)))
async def test_only_the_likeliest_token_is_greedy(engine: Engine, facts: EngineFacts, only: dict[str, float]) -> None:
    if refused(facts, *only):
        return
    greedy = text_of(await read(engine, sample(temperature=0)))
    assert text_of(await read(engine, sample(temperature=1, **only))) == greedy


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
async def test_a_penalty_changes_the_text_or_is_refused(engine: Engine, facts: EngineFacts, name: str) -> None:
    asked = [sample(prompt=prompt, max_tokens=100, temperature=0, **{name: 2.0}) for prompt in PROMPTS]
    if name not in facts.features.sampling:
        with pytest.raises(RequestError, match=name):
            refuse_unsupported(asked[0], facts.features, facts.engine)
        return
    plain = [sample(prompt=prompt, max_tokens=100, temperature=0) for prompt in PROMPTS]
    changed = [text_of(await read(engine, request)) for request in asked]
    assert changed != [text_of(await read(engine, request)) for request in plain]


@pytest.mark.every_model
async def test_logprobs(engine: Engine, facts: EngineFacts) -> None:
    if refused(facts, "logprobs"):
        return
    deltas = await read(engine, ask(max_tokens=12, logprobs=3))
    tokens = logprobs_of(deltas)
    assert len(tokens) == deltas[-1].usage.completion_tokens
    for one in tokens:
        assert len(one.top) == 3
        assert one.top[0] == one.token  # greedy
        assert all(better.logprob >= worse.logprob for better, worse in pairwise(one.top))
        assert one.token.logprob <= 0
        assert sum(math.exp(likely.logprob) for likely in one.top) < 1.0001


async def test_logprobs_of_the_chosen_token_alone(engine: Engine, facts: EngineFacts) -> None:
    if refused(facts, "logprobs"):
        return
    deltas = await read(engine, ask(max_tokens=6, logprobs=0))
    assert [one.top for one in logprobs_of(deltas)] == [()] * 6
    assert not logprobs_of(await read(engine, ask(max_tokens=6)))


@pytest.mark.every_model
async def test_characters_stay_whole(engine: Engine, facts: EngineFacts, case: Case) -> None:
    """Random models write broken characters: the text is what all bytes together say, however they were cut."""
    if refused(facts, "logprobs"):
        return
    broken, seed = 0, {"seed": 5} if "seed" in facts.features.sampling else {}
    for prompt in PROMPTS:
        request = sample(prompt=prompt, max_tokens=100, temperature=1, logprobs=0, **seed)
        deltas = await read(engine, request)
        raw = [one.token.raw for one in logprobs_of(deltas)]
        whole = b"".join(part for part in raw if part.decode(errors="replace") not in SPECIAL)
        said = whole.decode(errors="replace")
        # vLLM leaves out what is broken at the very end: it may be a character that the next token would complete.
        assert text_of(deltas) == (said.rstrip("\ufffd") if case.kind == "vllm" else said)
        broken += sum(part.decode(errors="replace").encode() != part for part in raw)
    assert broken or case.kind == "llama_cpp"  # whose models here write whole characters


async def test_a_stop_string_is_met_across_tokens(engine: Engine) -> None:
    deltas = await read(engine, ask(max_tokens=24))
    whole = text_of(deltas)
    pieces = [delta.text for delta in deltas if delta.text]
    stops = {before[-1] + after[0] for before, after in pairwise(pieces)}
    assert stops
    for stop in sorted(stops)[:8]:
        stopped = await read(engine, ask(max_tokens=24, stop=("never", stop)))
        assert text_of(stopped) == whole[: whole.index(stop)]
        assert stopped[-1].finish_reason == "stop"


async def test_ignore_eos_goes_on_to_the_limit(engine: Engine, facts: EngineFacts) -> None:
    if refused(facts, "ignore_eos"):
        return
    for prompt in PROMPTS[:2]:
        deltas = await read(engine, sample(prompt=prompt, max_tokens=150, temperature=0, ignore_eos=True))
        assert deltas[-1].finish_reason == "length"
        assert deltas[-1].usage.completion_tokens == 150


async def test_an_empty_prompt_is_refused_or_answered(engine: Engine) -> None:
    with suppress(RequestError):
        deltas = await read(engine, ask(prompt="", max_tokens=4))
        assert deltas[-1].finish_reason in ("stop", "length")
    assert text_of(await read(engine, ask()))
