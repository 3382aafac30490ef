"""Configurations of models as they are published, and what real torch models of these shapes hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "unit" / "sizing"
CONFIGS = FOLDER / "configs"
COUNTS: Mapping[str, Mapping[str, int]] = json.loads((FOLDER / "counts.json").read_text())
"""By configuration: `parameters` in all, and those of `linear` layers without lm_head."""


def config_of(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return value
