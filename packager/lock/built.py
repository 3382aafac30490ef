"""Engines that come in a vendor's image, and engines that were compiled: against the spec and against the base. Pure.

What was compiled in cannot be changed when it is served. So the spec that says otherwise is refused when it is locked,
with the number to write, and not by the engine on the GPU.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from ..errors import Problem, SpecError
from ..facts import BaseFacts
from ..recipes import RECIPES
from ..recipes.gpus import GPUS, shown
from ..recipes.recipe import Format
from ..spec.engine import BuiltForSpec, TensorrtLlmEngineSpec
from ..spec.image import DebianBase
from ..spec.load import SpecFile
from ..weights.compiled import FILE, EngineBuild, parse_build
from .drift import engine_version
from .hardware import gpu_of, listed
from .model import ModelFacts


def vendor_problems(file: SpecFile) -> tuple[Problem, ...]:
    """What the spec alone says that a vendor's engine cannot do: no base, a version without it, a GPU that is too new."""
    return (*_no_base(file), *_dropped(file), *_too_new(file))


def built_for(file: SpecFile) -> BuiltForSpec | None:
    """What the spec says of an engine that has no engine.json."""
    engine = file.spec.engine
    return engine.built_for if isinstance(engine, TensorrtLlmEngineSpec) else None


def facts_of_built(value: Mapping[str, Any]) -> ModelFacts:
    """What an engine.json says of the model. Its limits are the engine's own, and checked by `check_built`."""
    build = parse_build(value)
    return ModelFacts(quantization=(build.quant_algo or "").lower(), dtype=build.dtype)


def check_built(file: SpecFile, value: Mapping[str, Any] | None) -> None:
    """Raise SpecError with everything that the spec says otherwise than the engine was compiled.

    `value` is the engine.json of the locked weights; does nothing without one.
    """
    engine = file.spec.engine
    if value is None or not isinstance(engine, TensorrtLlmEngineSpec):
        return
    build = parse_build(value)
    problems = (
        *_version(file, build),
        *_split(file, engine, build),
        *_hardware(file, build),
        *_limits(file, engine, build),
        *_cache(file, engine, build),
    )
    if problems:
        raise SpecError.collect(problems)


def check_vendor(file: SpecFile, facts: BaseFacts, value: Mapping[str, Any] | None) -> None:
    """Raise SpecError unless the base holds the vendor's engine, at the spec's version, with what compiled the weights.

    `value` is the engine.json of the locked weights, where they are compiled.
    """
    vendor = RECIPES[file.spec.engine.kind].vendor
    if vendor is None:
        return
    where, wanted = file.where("image", "base"), engine_version(file.spec)
    found = facts.installed.get(canonicalize_name(vendor.distribution))
    if found is None:
        what = f"the base has no {vendor.distribution}"
        raise SpecError(what, where=where, mend=f"take NVIDIA's image, such as {vendor.image}, or one made from it")
    if Version(found).public != Version(wanted).public:
        what = f"the base has {vendor.distribution} {found}; the package is for {wanted}"
        raise SpecError(what, where=where, mend=f"take a base with {wanted}, or write `engine.version: {found}`")
    tensorrt = facts.installed.get("tensorrt")
    if value is None or tensorrt is None:
        return
    build = parse_build(value)
    if tensorrt.split(".")[:4] != build.tensorrt.split("."):
        what = f"the base has TensorRT {tensorrt}; the engine was compiled with {build.tensorrt}"
        image = f": {build.image}" if build.image else ""
        raise SpecError(what, where=where, mend=f"take the image that compiled it{image}")


def _no_base(file: SpecFile) -> Iterator[Problem]:
    vendor, base = RECIPES[file.spec.engine.kind].vendor, file.spec.image.base
    if vendor is not None and (base is None or isinstance(base, DebianBase)):
        what = f"the engine {file.spec.engine.kind} comes in NVIDIA's images alone: {vendor.distribution} is on no package index"
        mend = f"write `image: {{base: {{kind: registry, image: {vendor.image}}}}}`; PACKAGER_REGISTRY_MIRRORS names a mirror"
        yield Problem(what, file.where("image", "base"), mend)


def _dropped(file: SpecFile) -> Iterator[Problem]:
    recipe = RECIPES[file.spec.engine.kind]
    asked = engine_version(file.spec)
    if recipe.newest and Version(asked) > Version(recipe.newest):
        what = f"the engine {recipe.engine} has no version {asked}"
        yield Problem(what, file.where("engine", "version"), f"write {recipe.newest}; {recipe.newest_note}")


def _too_new(file: SpecFile) -> Iterator[Problem]:
    """Number formats that were dropped for newer GPUs."""
    spec, gpu = file.spec, gpu_of(file.spec)
    recipe = RECIPES[spec.engine.kind]
    said = {"quantization": spec.quantization, "kv_cache": getattr(spec.engine, "kv_cache", "")}
    for option, word in said.items():
        row = recipe.format(option, word)
        if gpu is None or row is None:
            continue
        keys = ("quantization",) if option == "quantization" else ("engine", option)
        rows = recipe.formats[option]
        fits = [one.name for one in rows if one.floor <= gpu.capability and not 0 < one.below <= gpu.capability]
        other = f"write `{option}: {fits[0]}`, or " if fits else ""
        yield from dropped_by_gpu(file, f"`{option}: {word}` on {recipe.engine}", row, file.where(*keys), other)


def dropped_by_gpu(file: SpecFile, who: str, row: Format, where: str, other: str) -> Iterator[Problem]:
    """The problem of `who` with a GPU that is too new for the format `row`. `other` says what to do but for another GPU."""
    gpu, name = gpu_of(file.spec), file.spec.hardware.gpu
    if gpu is None or not 0 < row.below <= gpu.capability:
        return
    what = f"{who} runs on compute capabilities below {shown(row.below)}; {name} has {shown(gpu.capability)}"
    floor = max(row.floor, RECIPES[file.spec.engine.kind].floor)
    older = [one for one, has in GPUS.items() if floor <= has.capability < row.below]
    yield Problem(what, where, f"{other}use an older GPU, such as {listed(older[:3])}")


def _version(file: SpecFile, build: EngineBuild) -> Iterator[Problem]:
    asked = engine_version(file.spec)
    if Version(asked) != Version(build.tensorrt_llm):
        what = f"the engine was compiled with TensorRT-LLM {build.tensorrt_llm}, and the package is for {asked}"
        yield Problem(what, file.where("engine", "version"), f"write `engine.version: {build.tensorrt_llm}`")


def _split(file: SpecFile, engine: TensorrtLlmEngineSpec, build: EngineBuild) -> Iterator[Problem]:
    split = build.mapping
    for option, asked, built in (
        ("tensor_parallel", engine.tensor_parallel, split.tp),
        ("pipeline_parallel", engine.pipeline_parallel, split.pp),
    ):
        if asked != built:
            what = f"`{option}: {asked}`, and the engine was compiled for {built} ({FILE}: mapping)"
            count = f" and `hardware.count: {split.world_size}`" if split.world_size > 1 else ""
            yield Problem(what, file.where("engine", option), f"write `{option}: {built}`{count}")
    if split.cp > 1:
        what = f"the engine was compiled for context parallel {split.cp}, which packager does not serve"
        yield Problem(what, file.where("weights", "source"), "compile it with `cp_size` 1")


def _hardware(file: SpecFile, build: EngineBuild) -> Iterator[Problem]:
    gpu, name = gpu_of(file.spec), file.spec.hardware.gpu
    if gpu is None:
        return
    where = file.where("hardware", "gpu")
    if shown(gpu.capability) != build.gpu.sm:
        fits = [one for one, row in GPUS.items() if shown(row.capability) == build.gpu.sm]
        what = f"the engine was compiled for compute capability {build.gpu.sm} ({build.gpu.name}); {name} has {shown(gpu.capability)}"
        again = f"compile the engine again on {name}"
        yield Problem(what, where, f"name one that has it: {listed(fits[:5])}, or {again}" if fits else again)
    elif gpu.memory * 1024 < build.gpu.memory_mib:
        what = f"the engine needs a GPU with {build.gpu.memory_mib} MiB of memory ({build.gpu.name}); {name} has {gpu.memory} GB"
        mend = "name a larger GPU, or describe the engine again with what it needs: `packager engine describe --gpu-memory`"
        yield Problem(what, where, mend)


def _limits(file: SpecFile, engine: TensorrtLlmEngineSpec, build: EngineBuild) -> Iterator[Problem]:
    most, asked = build.limits.max_batch_size, file.spec.serving.max_concurrency
    all_of_them = file.spec.serving.triton == "ensemble"
    if asked > most or (asked < most and all_of_them):
        what = f"`max_concurrency: {asked}`, and the engine was compiled for {most} requests at once (max_batch_size)"
        mend = f"write {most} or less; further requests wait in the queue (`serving.max_queue`)"
        if all_of_them:
            mend = f"write {most}: TensorRT-LLM's own backend for Triton runs as many as were compiled in"
        yield Problem(what, file.where("serving", "max_concurrency"), mend)
    longest = build.limits.max_seq_len
    if engine.context_length is not None and engine.context_length > longest:
        what = (
            f"`context_length: {engine.context_length}`, and the engine was compiled for {longest} tokens (max_seq_len)"
        )
        yield Problem(what, file.where("engine", "context_length"), f"write {longest} or less, or leave it out")


def _cache(file: SpecFile, engine: TensorrtLlmEngineSpec, build: EngineBuild) -> Iterator[Problem]:
    built = (build.kv_cache_quant_algo or "auto").lower()
    if engine.kv_cache not in ("auto", built):
        what = f"`kv_cache: {engine.kv_cache}`, and the engine was compiled with {build.kv_cache_quant_algo or 'none'}"
        mend = "write `kv_cache: auto`, which takes it as it is, or compile it again"
        yield Problem(what, file.where("engine", "kv_cache"), mend)
