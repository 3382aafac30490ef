"""The whole spec: what one `packager.yaml` says."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from .engine import EngineSpec
from .grammar import Grammar, Line, Strict, problem
from .hardware import HardwareSpec
from .image import ImageSpec
from .serving import ServingSpec
from .weights import WeightsSpec

Quantization = Literal["none", "int8", "int4", "fp8", "awq", "gptq", "nf4"]
"""Every quantization there is a word for; the engine's recipe says which of them it can do."""

NO_WEIGHTS = ("echo",)
"""Engines that have no weights; all others need them."""

NAME = Grammar(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", "lower-case letters and digits, joined by `-`, `_` or `.`", 63)
"""Names that are good for folders, image repositories and hosts alike."""


class ModelSpec(Strict):
    """A model to package: its engine, its weights, and how to serve and ship it."""

    name: Annotated[str, NAME]
    """Name of the model, of its package (`dist/NAME/`) and of the last part of its image's name."""
    description: Line | None = None
    """One line about the model, for catalogs and labels."""
    engine: EngineSpec
    """What runs the model, chosen by `kind`, with that engine's options."""
    weights: Annotated[WeightsSpec | None, Field(validate_default=True)] = None
    """The model's bytes; every engine but `echo` needs them."""
    quantization: Quantization = "none"
    """What packager does to the weights; `none` takes them as they are (a GGUF file carries its own)."""
    hardware: HardwareSpec = HardwareSpec()
    """What the container runs on."""
    serving: ServingSpec = ServingSpec()
    """How requests are answered."""
    image: ImageSpec = ImageSpec()
    """The container image."""

    @field_validator("weights", mode="after")
    @classmethod
    def _weights_fit_engine(cls, weights: WeightsSpec | None, info: ValidationInfo) -> WeightsSpec | None:
        engine = info.data.get("engine")
        if engine is None:
            return weights
        if engine.kind in NO_WEIGHTS and weights is not None:
            raise problem(f"is not for the engine {engine.kind}, which has none", "remove `weights`")
        if engine.kind not in NO_WEIGHTS and weights is None:
            raise problem(f"is missing: the engine {engine.kind} needs weights", "add `weights: {source: file://PATH}`")
        return weights


def dump_spec(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain JSON values with all defaults, keys in the models' order, `env` and `labels` sorted.

    Two specs that mean the same give the same value, whatever their files look like.
    """
    plain = spec.model_dump(mode="json")
    for mapping in ("env", "labels"):
        plain["image"][mapping] = dict(sorted(plain["image"][mapping].items()))
    return plain
