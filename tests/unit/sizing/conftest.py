"""Specs for models of published shapes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes.configs import config_of

from packager.sizing.ask import Asked, demand_of
from packager.sizing.compiled import Limits
from packager.sizing.demand import Demand
from packager.spec.load import load_spec

Make = Callable[..., Demand]


@pytest.fixture
def demand(tmp_path: Path) -> Make:
    """`demand(CONFIG, SPEC, files=..., limits=..., context=..., requests=...)`: what a spec asks.

    SPEC are its lines without the name and, unless `weights` are given, the weights.
    """

    def make(
        config: str | Mapping[str, Any],
        spec: str,
        *,
        files: int | None = None,
        limits: Limits | None = None,
        weights: str = "weights: {source: 'file://w'}",
        **asked: int,
    ) -> Demand:
        path = tmp_path / "packager.yaml"
        path.write_text(f"name: m\n{weights}\n{spec}\n")
        read = config_of(config) if isinstance(config, str) else config
        return demand_of(load_spec(path), read, Asked(**asked), where="config.json", files=files, limits=limits)

    return make
