"""Requests to an engine under test, and what comes back."""

from packager.runtime.engine import Delta, Engine, GenerationRequest, SamplingParams

PROMPT = "one two three four five six seven eight nine ten"
LONG = "w " * 50


def ask(name: str = "r", *, prompt: str = PROMPT, max_tokens: int | None = 8, **sampling) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, seed=1, **sampling)
    return GenerationRequest(name, prompt=prompt, sampling=params)


async def read(engine: Engine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)
