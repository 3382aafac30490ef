"""Engines: a tagged union on `kind`. A new engine is one class here, one line in `EngineSpec`, one recipe, one adapter."""

from typing import Annotated, Literal

from packaging.version import InvalidVersion, Version
from pydantic import Field

from .grammar import Grammar, Strict, problem, quoted

PLANNED = ("transformers", "vllm", "tensorrt_llm_engine", "tensorrt_llm", "lmdeploy", "ctranslate2")
"""Engine names of the design that this version cannot package yet: asked for, they get their own message."""


def _version(text: str) -> None:
    try:
        Version(text)
    except InvalidVersion as error:
        raise problem(f"must be an exact version such as 1.2.1, not {quoted(text)}") from error


EngineVersion = Annotated[str, Grammar(r"[0-9A-Za-z.+!-]+", "an exact version such as 1.2.1", 64, check=_version)]


class LlamaCppSpec(Strict):
    """llama.cpp, through the prebuilt `xllamacpp` wheel: GGUF weights on CPU or GPU."""

    kind: Literal["llama_cpp"]
    """llama.cpp with GGUF weights."""
    version: EngineVersion | None = None
    """Exact version of the engine's wheel; without it the recipe's tested version."""
    context_length: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """Tokens of prompt and answer together that one request may use; without it what the model was trained for."""
    gpu_layers: Annotated[int, Field(ge=-1, le=10_000)] = 0
    """Model layers to put on the GPU; -1 puts all."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads that compute; without it the physical cores that the container may use, less one for the server."""
    kv_cache: Literal["auto", "f16", "q8_0", "q4_0"] = "auto"
    """Number format of the key-value cache; `auto` is the engine's own default."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    """Whether to use flash attention; `auto` lets the engine decide."""


class EchoSpec(Strict):
    """An engine without weights that streams the prompt back: for trials and tests of the whole line."""

    kind: Literal["echo"]
    """Streams the prompt back; needs no weights."""
    delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    """Milliseconds to wait before each token."""
    fail_after: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Fail each stream after this many tokens, to see what clients make of it."""


EngineSpec = Annotated[LlamaCppSpec | EchoSpec, Field(discriminator="kind")]
