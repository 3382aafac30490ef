"""The seam between the runtime and an engine.

Read this file to write an adapter: one Protocol with five methods, and the values it speaks in.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

ASGI = Callable[[Any, Any, Any], Awaitable[None]]
"""An application that a server hands its connections' scope, receive and send."""

FinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]
"""Why a stream ended: the model or a stop string, a limit, the model calls tools, `abort`, or a failure."""


class Message(NamedTuple):
    """One turn of a chat; `role` is `system`, `user`, `assistant` or `tool`.

    `tool_calls` are those an assistant made, as OpenAI's JSON; `tool_call_id` says which one a `tool` answers.
    `name` is the speaker's, or the tool's: chat templates that know names write it.
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def plain(self) -> dict[str, Any]:
        """The message as chat templates and OpenAI's JSON know it, without what is not given."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            message["name"] = self.name
        return message


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. None leaves a value to the engine's own default.

    `max_tokens` None means until the context is full. `top_k` 0 switches it off.
    Of two stop strings the one that appears first in the text wins; it is not part of the output.
    `logprobs` asks for each token's log probability with that many alternatives (0: the token's own only).
    `ignore_eos` goes on to `max_tokens` whatever the model says, for measurements.
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
    logprobs: int | None = None
    ignore_eos: bool = False


OutputKind = Literal["json_object", "json_schema", "grammar", "regex"]


class OutputForm(NamedTuple):
    """What the output must be: `value` is the JSON schema (as JSON text), the GBNF grammar or the regular expression."""

    kind: OutputKind
    value: str = ""


class Tools(NamedTuple):
    """Functions that the model may call, as OpenAI's JSON. `choice` is `auto`, `none`, `required` or one function's name in OpenAI's form.

    Without `parallel` an answer has one call at most.
    """

    functions: tuple[Mapping[str, Any], ...]
    choice: Any = "auto"
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request. Exactly one of `prompt` and `messages` is given; `id` is unique in the process.

    `adapter` names a LoRA adapter of the package. What is asked beyond the engine's Features never gets here.
    """

    id: str
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    output: OutputForm | None = None
    tools: Tools | None = None
    adapter: str | None = None


class Usage(NamedTuple):
    """Tokens read and written, as the engine counts them."""

    prompt_tokens: int
    completion_tokens: int


class Likely(NamedTuple):
    """A token with its natural-logarithm probability. `raw` are its bytes, which may be a part of a character."""

    raw: bytes
    logprob: float

    @property
    def text(self) -> str:
        """The bytes as text, with U+FFFD for what is only a part of a character."""
        return self.raw.decode(errors="replace")


class TokenLogprob(NamedTuple):
    """The chosen token, and the most likely ones at its place, best first."""

    token: Likely
    top: tuple[Likely, ...] = ()


class Delta(NamedTuple):
    """What one step of the engine added. Made per token, so it is a tuple and nothing more.

    `tokens` is how many tokens were generated since the last Delta (a token's text may be held back, or come
    later). Only the last Delta of a stream has `finish_reason` and `usage`; it always has both.
    `logprobs` are those of the tokens of this Delta, when they were asked for. `tool_calls` are pieces of tool
    calls in the form of OpenAI's stream (`index`, `id`, `function: {name, arguments}`).
    """

    text: str
    tokens: int = 1
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[Mapping[str, Any], ...] = ()


SAMPLING = frozenset(one.name for one in fields(SamplingParams))
"""The name of every sampling parameter."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a started engine can do with its model; a request for anything else is refused by name.

    `sampling` are the SamplingParams it honours, `logprobs` the most alternatives a token, `outputs` the kinds
    of OutputForm, `chat` whether there is a chat template, `adapters` the LoRA adapters by name.
    """

    sampling: frozenset[str] = SAMPLING - {"logprobs"}
    logprobs: int = 0
    outputs: frozenset[OutputKind] = frozenset()
    tools: bool = False
    chat: bool = True
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a started engine says of itself.

    `context_length` is the most tokens one request may hold, prompt and output together;
    `slots` is how many requests run at once. `backend` is the engine's own name for what in it computes, where it has
    several of them. `native` is the engine's own OpenAI server, where it was asked for.
    """

    engine: str
    version: str
    model: str
    context_length: int
    slots: int
    features: Features = Features()
    backend: str = ""
    native: ASGI | None = field(default=None, compare=False, repr=False)


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
    `chat_template` is Jinja text that replaces the one in the weights. `quantization` is what the engine does to
    the weights when it loads them (`none`: it takes them as they are), `adapters` are folders of LoRA adapters by name. `own_code` lets
    the weights' own Python run: the spec vouches for each file of it by its sha256. `compiled` is the engine.json of a
    compiled engine, as the manifest has it.
    """

    model: str
    version: str
    options: Mapping[str, Any]
    weights: Path | None
    slots: int
    chat_template: str | None = None
    quantization: str = "none"
    adapters: Mapping[str, Path] = field(default_factory=dict)
    own_code: bool = False
    compiled: Mapping[str, Any] | None = None


class Streams(Protocol):
    """What a Generation needs of an engine."""

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


class Engine(Streams, Protocol):
    """One engine, driven from one event loop: the loop that awaited `start` owns it.

    Synchronous engines live in threads behind a queue, inside their adapter.
    """

    async def start(self) -> EngineFacts:
        """Load the model and be ready to stream. Raises LoadError. Called once."""
        ...

    async def stop(self) -> None:
        """Give everything back. Streams still open end with EngineError. Idempotent."""
        ...

    def health(self) -> EngineHealth:
        """Whether it can still serve. Cheap: called by every probe."""
        ...


@runtime_checkable
class HasNativeApp(Protocol):
    """An engine that brings an OpenAI server of its own."""

    async def native_app(self) -> ASGI:
        """That server over the started engine; another start needs another one."""
        ...
