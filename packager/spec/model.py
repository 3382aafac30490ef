"""The whole spec: what one `packager.yaml` says."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from .engine import EngineSpec
from .grammar import NAME, Line, Strict, problem, quoted
from .hardware import HardwareSpec
from .image import DebianBase, ImageSpec
from .serving import ServingSpec
from .weights import WeightsSpec

Quantization = Literal["none", "int8", "int4", "fp8", "awq", "gptq", "nf4", "gguf"]
"""Every quantization there is a word for; the engine's recipe says which of them it can do."""

NO_WEIGHTS = ("echo",)
"""Engines that have no weights; all others need them."""


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
    """How the weights are quantized: by whoever made them (their config.json must say the same), else by the engine
    when it loads them. `none` takes them as they are, quantized or not. `gguf` is for engines that open a folder (vllm):
    its one .gguf file is taken, whichever way that is quantized; llama_cpp opens such a file by itself."""
    hardware: HardwareSpec = HardwareSpec()
    """What the container runs on."""
    serving: ServingSpec = ServingSpec()
    """How requests are answered."""
    image: Annotated[ImageSpec, Field(validate_default=True)] = ImageSpec()
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
        name = info.data.get("name")
        if weights is not None and any(adapter.name == name for adapter in weights.adapters):
            raise problem(f"has an adapter named {quoted(str(name))}, like the model", "give it another name")
        return weights

    @field_validator("image", mode="after")
    @classmethod
    def _image_has_triton(cls, image: ImageSpec, info: ValidationInfo) -> ImageSpec:
        serving = info.data.get("serving")
        if serving is not None and serving.server == "triton" and isinstance(image.base, DebianBase | None):
            mend = "write `image: {base: {kind: registry, image: ...}}`, such as one of NVIDIA's tritonserver images"
            raise problem("has no Triton, which `serving.server: triton` starts: its base must bring it", mend)
        return image


def dump_spec(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain JSON values with all defaults, keys in the models' order, names of mappings sorted.

    Two specs that mean the same give the same value, whatever their files look like.
    """
    plain = spec.model_dump(mode="json")
    named = [(plain["image"], "env"), (plain["image"], "labels")]
    if plain["weights"] is not None:
        named.append((plain["weights"], "trusted_code"))
    for section, key in named:
        section[key] = dict(sorted(section[key].items()))
    return plain
