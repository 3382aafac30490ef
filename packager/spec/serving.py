"""Serving: who answers requests and how many at once."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from .grammar import AsTuple, Grammar, Strict, problem

Origin = Annotated[
    str, Grammar(r"\*|https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?", "an origin such as https://app.example.com, or *", 255)
]

_NOT_TRITONS = {
    "api": "the routes are Triton's own, and it has none under /v1",
    "max_body": "Triton has its own limit",
    "cors_origins": "Triton answers no preflight requests",
}

TRITON_ENGINES = {"ensemble": "tensorrt_llm_engine", "llmapi": "tensorrt_llm"}
"""The one engine that each of Triton's further sets of models is for."""


class ServingSpec(Strict):
    """How the package serves."""

    server: Literal["bentoml", "standalone", "triton"] = "bentoml"
    """What hosts the application: `bentoml` (`bentoml serve`), `standalone` (packager's own runner), or `triton`, whose image
    stands on a base that has Triton Inference Server (docs/how-to/serve-with-triton.md)."""
    triton: Literal["runtime", "ensemble", "llmapi"] = "runtime"
    """With `server: triton`, the models that it serves: `runtime` is one over any engine, with the interface of Triton's vLLM
    backend; `ensemble` are the five of TensorRT-LLM's own backend, for compiled engines; `llmapi` is one with the interface of
    TensorRT-LLM's model of that name, for its PyTorch engine."""
    api: Literal["packager", "native"] = "packager"
    """Which HTTP interface answers under /v1: packager's own, or with `native` the engine's own OpenAI server (vllm)."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 3000
    """TCP port to listen on; Triton takes the next two as well, for gRPC and its metrics."""
    max_concurrency: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Requests that generate at the same time."""
    max_queue: Annotated[int, Field(ge=0, le=65_536)] = 128
    """Requests that wait for a slot; more are answered 429."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that running streams may go on after a stop signal."""
    max_body: Annotated[int, Field(ge=1024, le=2**30)] = 2 * 1024 * 1024
    """Bytes of a request's body; a larger one is answered 413 without being read."""
    first_token_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = 300
    """Seconds that a request which runs may take to its first token; null for no limit."""
    token_gap_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = 60
    """Seconds that may pass between two tokens of a stream; null for no limit."""
    total_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Seconds that a request which runs may take in all; null for no limit."""
    engine_restarts: Annotated[int, Field(ge=0, le=100)] = 3
    """How often in an hour an engine that died is started again in place; then the process exits non-zero."""
    cors_origins: Annotated[tuple[Origin, ...], AsTuple] = ()
    """Origins whose web pages may call this server; none by default."""

    @field_validator("triton", mode="after")
    @classmethod
    def _is_for_triton(cls, value: str, info: ValidationInfo) -> str:
        if value != "runtime" and info.data.get("server", "triton") != "triton":
            raise problem("is for `server: triton`", "write `server: triton`, or remove `triton`")
        return value

    @field_validator("first_token_seconds", "token_gap_seconds", "total_seconds", "engine_restarts", mode="after")
    @classmethod
    def _ensemble_can(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if info.data.get("triton") == "ensemble" and value != cls.model_fields[name].default:
            mend = f"remove `{name}`: TensorRT-LLM's own backend has nothing of the kind"
            raise problem("is not for `triton: ensemble`", mend)
        return value

    @field_validator("api", "port", "max_body", "cors_origins", mode="after")
    @classmethod
    def _triton_can(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if info.data.get("server") != "triton" or value == cls.model_fields[name].default:
            return value
        if name == "port":
            if value > 65_533:
                raise problem("must be at most 65533 with `server: triton`, which takes the next two ports as well")
            return value
        raise problem("is not for `server: triton`", f"remove `{name}`: {_NOT_TRITONS[name]}")
