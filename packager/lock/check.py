"""Checks that need more than one part of the spec, before anything is asked of anyone. Pure."""

from collections.abc import Sequence

from packaging.version import Version

from ..errors import Problem, SpecError
from ..recipes import RECIPES
from ..recipes.recipe import Format
from ..spec.image import DebianBase
from ..spec.load import SpecFile
from .built import vendor_problems
from .hardware import gpu_of, listed, newer, too_old, unknown_gpu

_PYTORCH_CACHES = ("fp8", "fp8_e5m2", "turbo_quant")
"""Formats of the key-value cache that TurboMind has not (lmdeploy 0.18.0, messages.py TurbomindEngineConfig)."""


def check(file: SpecFile) -> None:
    """Raise SpecError with everything in the spec that this engine, GPU or base cannot do."""
    problems = (
        *unknown_gpu(file),
        *_quantization(file),
        *_concurrency(file),
        *_engine_version(file),
        *_engine_on_gpu(file),
        *_formats(file),
        *_parallel(file),
        *_options(file),
        *_native(file),
        *_base(file),
        *vendor_problems(file),
    )
    if problems:
        raise SpecError.collect(problems)


def _quantization(file: SpecFile) -> tuple[Problem, ...]:
    spec = file.spec
    recipe, word = RECIPES[spec.engine.kind], spec.quantization
    can = recipe.quantizations
    if word in can:
        return ()
    mend = (
        f"use one of: {', '.join(can)}" if len(can) > 1 else "leave it out: this engine takes the weights as they are"
    )
    others = [one.engine for one in RECIPES.values() if word in one.quantizations]
    mend += f"; {listed(others)} can" if others else ""
    return (Problem(f"the engine {recipe.engine} cannot quantize to {word}", file.where("quantization"), mend),)


def _concurrency(file: SpecFile) -> tuple[Problem, ...]:
    spec = file.spec
    most = RECIPES[spec.engine.kind].most_requests
    if most is None or spec.serving.max_concurrency <= most:
        return ()
    return (
        Problem(
            f"the engine {spec.engine.kind} runs at most {most} requests at once, not {spec.serving.max_concurrency}",
            file.where("serving", "max_concurrency"),
            f"write {most} or less; further requests wait in the queue (`serving.max_queue`)",
        ),
    )


def _engine_version(file: SpecFile) -> tuple[Problem, ...]:
    """A version before the first that the adapter drives."""
    recipe, asked = RECIPES[file.spec.engine.kind], getattr(file.spec.engine, "version", None)
    if asked is None or not recipe.oldest or Version(asked) >= Version(recipe.oldest):
        return ()
    what = f"packager drives {recipe.engine} from {recipe.oldest} on, not {asked}"
    mend = f"write a later one, or leave it out for {recipe.default_version}"
    return (Problem(what, file.where("engine", "version"), mend),)


def _engine_on_gpu(file: SpecFile) -> tuple[Problem, ...]:
    recipe, gpu = RECIPES[file.spec.engine.kind], gpu_of(file.spec)
    if recipe.gpu_only and file.spec.hardware.gpu is None:
        able = [one.engine for one in RECIPES.values() if one.weights == recipe.weights and not one.gpu_only]
        mend = f"name one in `hardware.gpu`, such as {listed(newer(recipe.floor))}"
        mend += f", or use the engine {listed(able)}" if able else ""
        return (Problem(f"the engine {recipe.engine} needs a GPU", file.where("engine", "kind"), mend),)
    if gpu is None or gpu.capability >= recipe.floor:
        return ()
    older = [one.engine for one in RECIPES.values() if one.weights and one.floor <= gpu.capability]
    instead = f"use the engine {listed(older)}" if older else ""
    return too_old(file, f"the engine {recipe.engine}", recipe.floor, instead=instead)


def _formats(file: SpecFile) -> tuple[Problem, ...]:
    """The number formats that the spec asks for, on this GPU or on CPU."""
    spec, gpu, found = file.spec, gpu_of(file.spec), []
    recipe = RECIPES[spec.engine.kind]
    for option, rows in recipe.formats.items():
        keys = ("quantization",) if option == "quantization" else ("engine", option)
        value = spec.quantization if option == "quantization" else getattr(spec.engine, option, None)
        row = recipe.format(option, value) if value else None
        if row is None:  # `auto`, `none`, or what only the weights say
            continue
        where, who = file.where(*keys), f"`{option}: {value}` on {recipe.engine}"
        if spec.hardware.gpu is None and not row.cpu:
            mend = f"name one in `hardware.gpu`, or {_on_cpu(option, rows, row)}"
            found.append(Problem(f"{who} needs a GPU", where, mend))
        elif gpu is not None and gpu.capability >= recipe.floor:
            fits = [one.name for one in rows if one.floor <= gpu.capability]
            found += too_old(file, who, row.floor, where=where, instead=f"write `{option}: {fits[0]}`" if fits else "")
    return tuple(found)


def _on_cpu(option: str, rows: Sequence[Format], row: Format) -> str:
    """What to write where there is no GPU for `row`."""
    if row.file:
        return f"use the engine {listed(one.engine for one in RECIPES.values() if row.file in one.weights)}"
    fits = [one.name for one in rows if one.cpu]
    return f"write one of: {', '.join(['none' if option == 'quantization' else 'auto', *fits])}"


def _parallel(file: SpecFile) -> tuple[Problem, ...]:
    """The GPUs that the engine is told to use are those that there are."""
    engine, gpus = file.spec.engine, file.spec.hardware.gpus
    tensor, pipeline = getattr(engine, "tensor_parallel", None), getattr(engine, "pipeline_parallel", 1)
    if tensor is None or tensor * pipeline == max(gpus, 1):
        return ()
    needs = tensor * pipeline
    told = f"`tensor_parallel: {tensor}`" + (f" times `pipeline_parallel: {pipeline}`" if pipeline > 1 else "")
    if gpus == 0:
        where = file.where("engine", "tensor_parallel" if tensor > 1 else "pipeline_parallel")
        mend = f"add `hardware: {{gpu: NAME, count: {needs}}}`, or leave it out"
        return (Problem(f"{told} needs {needs} GPUs, and no GPU is named", where, mend),)
    what = f"{told} takes {needs} GPU{'s' * (needs > 1)}, and `hardware` has {gpus}"
    mend = f"write `hardware.count: {needs}`"
    if gpus % pipeline == 0:
        mend += f", or `engine.tensor_parallel: {gpus // pipeline}`"
    return (Problem(what, file.where("hardware", "count"), mend),)


def _options(file: SpecFile) -> tuple[Problem, ...]:
    """Options of one engine that go with, or against, another part of the spec."""
    spec, engine = file.spec, file.spec.engine
    found = []
    if engine.kind == "llama_cpp":
        if engine.gpu_layers != 0 and spec.hardware.gpu is None:
            what = f"`gpu_layers: {engine.gpu_layers}` puts layers on a GPU, and no GPU is named"
            found.append(Problem(what, file.where("engine", "gpu_layers"), "add `hardware: {gpu: NAME}`, or write 0"))
        if engine.gpu_layers == 0 and spec.hardware.gpu is not None:
            what = "a GPU is named, and no layer of the model is put on it"
            found.append(Problem(what, file.where("hardware", "gpu"), "write `engine.gpu_layers: -1`, or remove `gpu`"))
        if engine.kv_cache.startswith("q") and engine.flash_attention == "off":
            what = f"`kv_cache: {engine.kv_cache}` needs flash attention (llama.cpp: quantized V cache)"
            found.append(Problem(what, file.where("engine", "flash_attention"), "write `auto`, or `kv_cache: f16`"))
    if engine.kind == "lmdeploy" and engine.backend == "turbomind" and engine.kv_cache in _PYTORCH_CACHES:
        what = f"`kv_cache: {engine.kv_cache}` is for LMDeploy's PyTorch engine"
        mend = "write `auto`, `int8` or `int4`, or `backend: pytorch`"
        found.append(Problem(what, file.where("engine", "kv_cache"), mend))
    if engine.kind == "vllm" and engine.tool_parser and spec.serving.api != "native":
        what = "`tool_parser` is for vLLM's own server, and packager's answers"
        found.append(Problem(what, file.where("engine", "tool_parser"), "write `serving.api: native`, or remove it"))
    if engine.kind == "transformers" and engine.double_quantization and spec.quantization not in ("int4", "nf4"):
        what = f"`double_quantization` is for int4 and nf4, not for `quantization: {spec.quantization}`"
        found.append(
            Problem(what, file.where("engine", "double_quantization"), "write `quantization: nf4`, or remove it")
        )
    return tuple(found)


def _native(file: SpecFile) -> tuple[Problem, ...]:
    """`serving.api: native` needs an engine with an OpenAI server of its own."""
    kind = file.spec.engine.kind
    if file.spec.serving.api != "native" or RECIPES[kind].native:
        return ()
    can = listed([one.engine for one in RECIPES.values() if one.native])
    what = f"the engine {kind} has no OpenAI server of its own"
    return (Problem(what, file.where("serving", "api"), f"write `api: packager`, or use the engine {can}"),)


def _base(file: SpecFile) -> tuple[Problem, ...]:
    image = file.spec.image
    if image.base is None or isinstance(image.base, DebianBase) or not image.system_packages:
        return ()
    return (
        Problem(
            f"system packages cannot be added to a base of kind {image.base.kind}",
            file.where("image", "system_packages"),
            "take a base that has them, or `base: {kind: debian}`",
        ),
    )
