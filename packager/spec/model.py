"""The whole spec: what one `packager.yaml` says."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from .conversion import CONVERTED, ConversionSpec
from .engine import EngineSpec
from .grammar import NAME, Line, Strict, problem, quoted
from .hardware import HardwareSpec
from .image import DebianBase, ImageSpec
from .serving import TRITON_ENGINES, ServingSpec
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
    conversion: ConversionSpec | None = None
    """Of what `packager convert` makes the weights above (tensorrt_llm_engine); nothing else reads it."""
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

    @field_validator("serving", mode="after")
    @classmethod
    def _triton_fits(cls, serving: ServingSpec, info: ValidationInfo) -> ServingSpec:
        weights = info.data.get("weights")
        if serving.server == "triton" and weights is not None and weights.chat_template is not None:
            what = "has `server: triton`, whose requests are text: nothing would read `weights.chat_template`"
            raise problem(what, "remove `weights.chat_template`, or write `server: bentoml`")
        engine, needed = info.data.get("engine"), TRITON_ENGINES.get(serving.triton)
        if engine is not None and needed is not None and engine.kind != needed:
            what = f"has `triton: {serving.triton}`, which is for the engine {needed}, not for {engine.kind}"
            raise problem(what, "remove `triton`: without it Triton serves every engine")
        return serving

    @field_validator("conversion", mode="after")
    @classmethod
    def _conversion_fits(cls, conversion: ConversionSpec | None, info: ValidationInfo) -> ConversionSpec | None:
        engine, weights = info.data.get("engine"), info.data.get("weights")
        if conversion is None or engine is None:
            return conversion
        if engine.kind not in CONVERTED:
            what = f"is for weights that are compiled, which those of the engine {engine.kind} are not"
            raise problem(what, "remove `conversion`")
        if weights is not None and weights.source == conversion.source:
            what = f"makes {quoted(weights.source)} of itself"
            raise problem(what, "name the model in `conversion.source`, and in `weights.source` where the engine goes")
        return conversion

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
    named += [(plain[part], "trusted_code") for part in ("weights", "conversion") if plain[part] is not None]
    for section, key in named:
        section[key] = dict(sorted(section[key].items()))
    return plain
