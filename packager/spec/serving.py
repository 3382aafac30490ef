"""Serving: who answers requests and how many at once."""

from typing import Annotated, Literal

from pydantic import Field

from .grammar import Strict


class ServingSpec(Strict):
    """How the package serves."""

    server: Literal["bentoml", "standalone"] = "bentoml"
    """What hosts the application: `bentoml` (`bentoml serve`) or `standalone` (packager's own runner)."""
    api: Literal["packager"] = "packager"
    """Which HTTP interface answers: `packager` has /predict and the OpenAI routes."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 3000
    """TCP port to listen on."""
    max_concurrency: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Requests that generate at the same time."""
    max_queue: Annotated[int, Field(ge=0, le=65_536)] = 128
    """Requests that wait for a slot; more are answered 429."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that running streams may go on after a stop signal."""
