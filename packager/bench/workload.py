"""What is asked, and when: drawn from a seed, so that a run can be repeated. Pure."""

import itertools
import json
import random
from dataclasses import dataclass
from typing import Any

_WORDS = (  # noqa: SIM905 -- a list literal has a line a word
    "about after again air all along also animal another answer around ask away back because been before began "
    "below between book both boy build came city close could country cut different does door down draw each early "
    "earth eat end even every example eye face far father feet few find first follow food form found four from "
    "garden gave girl give good great group grow hand hard head hear help here high home horse house idea island "
    "keep kind know land large last later learn leave left letter life light like line list little live long look"
).split()
"""Common words: most tokenizers have one token for each."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, and the most tokens its answer may have."""

    prompt: str
    max_tokens: int


def random_questions(count: int, words: int, max_tokens: int, seed: int) -> list[Question]:
    """`count` prompts of `words` words each. How many tokens that is says the server's usage."""
    draw = random.Random(seed)  # noqa: S311 -- no secret
    return [Question(" ".join(draw.choices(_WORDS, k=words)), max_tokens) for _ in range(count)]


def read_questions(text: str, count: int, max_tokens: int) -> list[Question]:
    """`count` prompts from JSON lines in their order, from the start again when there are fewer.

    A line is `{"prompt": TEXT}`, with `output_tokens` where it has a limit of its own: what vLLM's custom data
    set reads. Raises ValueError naming the line that is something else.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError("it holds no prompt")
    questions = [_question(number, line, max_tokens) for number, line in lines]
    return list(itertools.islice(itertools.cycle(questions), count))


def arrivals(count: int, rate: float | None, burstiness: float, seed: int) -> list[float]:
    """Seconds after the start at which each request is due; all at once without a rate.

    As in vLLM's `bench serve`: gaps from a gamma distribution with shape `burstiness` (1: a Poisson process,
    below: in bursts, above: more evenly), scaled so that the last request is due at `count` / `rate`.
    """
    if rate is None:
        return [0.0] * count
    draw = random.Random(seed)  # noqa: S311 -- no secret
    due = list(itertools.accumulate(draw.gammavariate(burstiness, 1.0) for _ in range(count)))
    scale = count / rate / due[-1]
    return [at * scale for at in due]


def _question(number: int, line: str, max_tokens: int) -> Question:
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from None
    prompt = value.get("prompt") if isinstance(value, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f'line {number} is not {{"prompt": TEXT}}')
    limit = value.get("output_tokens", max_tokens)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"line {number}: output_tokens must be a whole number above 0")
    return Question(prompt, limit)
