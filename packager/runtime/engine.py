"""The seam between the runtime and an engine.

Read this file to write an adapter: one Protocol with five methods, and the values it speaks in.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

FinishReason = Literal["stop", "length", "abort", "error"]
"""Why a stream ended: the model or a stop string, a limit, `abort`, or a failure."""


class Message(NamedTuple):
    """One turn of a chat; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. None leaves a value to the engine's own default.

    `max_tokens` None means until the context is full. `top_k` 0 switches it off.
    Of two stop strings the one that appears first in the text wins; it is not part of the output.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request. Exactly one of `prompt` and `messages` is given; `id` is unique in the process."""

    id: str
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)


class Usage(NamedTuple):
    """Tokens read and written, as the engine counts them."""

    prompt_tokens: int
    completion_tokens: int


class Delta(NamedTuple):
    """What one step of the engine added. Made per token, so it is a tuple and nothing more.

    `tokens` is how many tokens stand behind `text` (0 when a token's text is still held back).
    Only the last Delta of a stream has `finish_reason` and `usage`; it always has both.
    """

    text: str
    tokens: int = 1
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a started engine says of itself.

    `context_length` is the most tokens one request may hold, prompt and output together;
    `slots` is how many requests run at once.
    """

    engine: str
    version: str
    model: str
    context_length: int
    slots: int


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """Whether the engine can still serve; `reason` says why not."""

    alive: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """What an adapter is built from.

    `weights` is the file or folder the engine opens (None for an engine without weights), `options`
    are the engine's own words from the spec, `slots` bounds the requests that run at once, and
    `chat_template` is Jinja text that replaces the one in the weights.
    """

    model: str
    version: str
    options: Mapping[str, Any]
    weights: Path | None
    slots: int
    chat_template: str | None = None


class Engine(Protocol):
    """One engine, driven from one event loop: the loop that awaited `start` owns it.

    Synchronous engines live in threads behind a queue, inside their adapter.
    """

    async def start(self) -> EngineFacts:
        """Load the model and be ready to stream. Raises LoadError. Called once."""
        ...

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """The request's tokens as they come, consumed by one task.

        The last Delta carries the finish reason and the usage. Raises RequestError before the first
        Delta when the request asks what this model cannot do (ContextLengthError: the prompt is too
        long), EngineError whenever the engine fails. Never ends early in silence.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End the request: its stream gives a last Delta with `abort`, and its slot is free.

        Idempotent, for unknown ids too, from any task; works before the first token.
        """
        ...

    async def stop(self) -> None:
        """Give everything back. Streams still open end with EngineError. Idempotent."""
        ...

    def health(self) -> EngineHealth:
        """Whether it can still serve. Cheap: called by every probe."""
        ...
