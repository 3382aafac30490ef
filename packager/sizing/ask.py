"""From a spec and its model's config.json to what has to fit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..errors import SpecError
from ..lock.backends import unloadable
from ..lock.hardware import gpu_of
from ..lock.model import ModelFacts, facts_of_config
from ..lock.shards import unshared
from ..spec.load import SpecFile
from ..spec.model import ModelSpec
from .compiled import Limits, config_of_engine, limits_of_engine
from .demand import Demand, Place, Weights
from .engines import ENGINES
from .formats import BYTES, CACHES, Width, is_unpacked, width_at_load, width_of_weights
from .gguf import width_of_gguf
from .shape import read_shape


@dataclass(frozen=True, slots=True)
class Asked:
    """How much is asked for, where it is not what the spec says: tokens of a request, and requests at once."""

    context: int | None = None
    requests: int | None = None


def demand_of(
    file: SpecFile,
    config: Mapping[str, Any],
    asked: Asked,
    *,
    where: str,
    files: int | None,
    limits: Limits | None = None,
) -> Demand:
    """What the spec in `file` asks of its GPUs, for a model with this config.json, read from `where`.

    `files` are the bytes of its weights, `limits` those that were compiled into them, where they are known. Raises
    SpecError for what cannot be sized.
    """
    spec = file.spec
    kind = spec.engine.kind
    if kind not in ENGINES:
        what = f"how the engine {kind} takes memory is not known here"
        mend = f"plan can size for {', '.join(ENGINES)}: the weights are as large elsewhere"
        raise SpecError(what, where=file.where("engine", "kind"), mend=mend)
    if (own := config_of_engine(config)) is not None:
        limits, config = limits or limits_of_engine(config), own
    shape = read_shape(config, where=where)
    facts = facts_of_config(config)
    keys = None if shape.latent else shape.kv_heads
    facts = replace(facts, heads=shape.heads, kv_heads=keys, context=facts.context or shape.context)
    if problems := (*unshared(file, facts), *unloadable(file, facts)):
        raise SpecError.collect(problems)
    kv_cache = getattr(spec.engine, "kv_cache", "auto")
    if kv_cache != "auto" and kv_cache not in CACHES.get(kind, {}):
        what = f"what `kv_cache: {kv_cache}` takes is not known"
        raise SpecError(what, where=file.where("engine", "kv_cache"), mend="plan with another format")
    slots = spec.serving.max_concurrency
    _check_requests(file, asked, limits)
    return Demand(
        engine=kind,
        shape=shape,
        weights=_weights(file, config, facts, files),
        place=_place(spec, shape.layers),
        context=_context(file, facts, asked, where, limits),
        requests=asked.requests or (slots if ENGINES[kind].for_all else 1),
        slots=min(slots, asked.requests) if asked.requests else slots,
        piece=_piece(spec, limits),
        kv_cache=kv_cache,
        quantization=spec.quantization,
        model=facts,
    )


def _context(file: SpecFile, facts: ModelFacts, asked: Asked, where: str, limits: Limits | None) -> int:
    made = file.spec.conversion
    compiled = limits.context if limits else made and made.max_seq_len
    said = asked.context or getattr(file.spec.engine, "context_length", None)
    if said is None and file.spec.engine.kind == "ctranslate2":
        return 2048  # runtime/engines/ctranslate2.py: its folder does not say
    context = said or compiled or facts.context
    if context is None:
        mend = "say it with `engine.context_length`, or --context"
        raise SpecError("this config.json does not say how long a context the model has", where=where, mend=mend)
    most, why = (compiled, "what is compiled in") if compiled else (facts.context, "what the model was trained for")
    if most is not None and context > most:
        at = "--context" if asked.context else file.where("engine", "context_length")
        what = f"a request of {context} tokens is longer than {why}, which is {most}"
        raise SpecError(what, where=at, mend=f"write {most} or less")
    return int(context)


def _check_requests(file: SpecFile, asked: Asked, limits: Limits | None) -> None:
    """Raise SpecError for more requests at once than an engine was compiled for, or will be (convert/plan.py)."""
    made, slots = file.spec.conversion, file.spec.serving.max_concurrency
    if limits is None and made is None:
        return
    most = limits.requests if limits else (made and made.max_batch_size) or slots
    wanted = asked.requests or slots
    if wanted > most:
        at, write = "--concurrency", f"{most}"
        if not asked.requests:
            at, write = file.where("serving", "max_concurrency"), f"`max_concurrency: {most}`"
        what = f"{wanted} requests at once are more than what is compiled in, which is {most}"
        raise SpecError(what, where=at, mend=f"write {write} or less")


def _piece(spec: ModelSpec, limits: Limits | None) -> int:
    """Tokens of prompts that are computed at once; convert/ compiles in what `conversion` says, else TensorRT-LLM's default."""
    piece, made = ENGINES[spec.engine.kind].piece, spec.conversion
    if limits is not None:
        return limits.piece
    return piece if made is None else made.max_num_tokens or max(piece, made.max_input_len or 0)


def _place(spec: ModelSpec, layers: int) -> Place:
    engine, gpus = spec.engine, max(1, spec.hardware.gpus)
    split = ENGINES[engine.kind].splits
    on_gpu = getattr(engine, "gpu_layers", -1)
    share, cache_share = getattr(engine, "gpu_memory", 1.0), getattr(engine, "cache_share", None)
    if engine.kind.startswith("tensorrt_llm"):
        share, cache_share = 1.0, share  # TensorRT-LLM's is of what is free, vLLM's of all
    return Place(
        gpu=spec.hardware.gpu,
        tensor=getattr(engine, "tensor_parallel", 1) if split == "tensor" else 1,
        pipeline=gpus if split == "layers" else getattr(engine, "pipeline_parallel", 1),
        share=share,
        cache_share=cache_share,
        cache_gib=getattr(engine, "kv_cache_gib", None),
        eager=getattr(engine, "eager", False),
        on_gpu=min(on_gpu, layers) / layers if spec.hardware.gpu and on_gpu >= 0 else 1.0,
    )


def _weights(file: SpecFile, config: Mapping[str, Any], facts: ModelFacts, files: int | None) -> Weights:
    spec = file.spec
    engine = spec.engine
    if engine.kind == "llama_cpp" or spec.quantization == "gguf":
        named = _named(spec) if files is None else None
        if files is None and named is None:
            raise _unsized(file, "a GGUF file takes what its blocks take")
        return Weights(named, "float16", files, named, "float16")
    compute = getattr(engine, "compute_type", None)
    if compute is not None:
        return _converted(file, compute, files)
    dtype = facts.dtype if facts.dtype in BYTES else "bfloat16"
    loads = getattr(engine, "dtype", "auto")
    if loads == "auto":
        # vLLM's and LMDeploy's rule; transformers takes the weights' own.
        loads = "bfloat16" if dtype == "float32" and engine.kind != "transformers" else dtype
    if not facts.quantization:
        width = width_at_load(engine.kind, spec.quantization, double=getattr(engine, "double_quantization", False))
        compiled = engine.kind == "tensorrt_llm_engine"  # its files hold what it was compiled to
        return Weights(width if compiled else None, loads if compiled else dtype, files, width, loads)
    width = width_of_weights(facts.quantization, _said(config))
    if width is None and files is None:
        raise _unsized(file, f"what weights take that are {facts.quantization} is not known")
    return Weights(width, loads, files, None if _unpacked(file, facts) else width, loads)


def _unpacked(file: SpecFile, facts: ModelFacts) -> bool:
    """Whether the engine makes 16 bits of these weights when it loads them: of mxfp4 too, without the distribution kernels
    (transformers 5.23.0, quantizers/quantizer_mxfp4.py validate_environment).
    """
    spec, gpu = file.spec, gpu_of(file.spec)
    if spec.engine.kind == "transformers" and facts.method == "mxfp4":
        named = {canonicalize_name(Requirement(line).name) for line in spec.image.python_packages}
        return "kernels" not in named
    return is_unpacked(spec.engine.kind, facts.quantization, None if gpu is None else gpu.capability)


def _named(spec: ModelSpec) -> Width | None:
    """What the names in the spec say of a GGUF file."""
    weights = spec.weights
    names = [weights.file or "", *(weights.include or ()), weights.source] if weights else []
    return next((width for one in names if (width := width_of_gguf(one)) is not None), None)


def _converted(file: SpecFile, compute: str, files: int | None) -> Weights:
    """A folder of CTranslate2, which is as it was converted unless the spec asks for another type."""
    number = {"auto": "float16", "int8": "float32", "int8_float32": "float32"}.get(compute)
    dtype = number or compute.removeprefix("int8_")
    if compute == "auto":
        if files is None:
            raise _unsized(file, "a converted folder takes what it was converted to")
        return Weights(None, dtype, files, None, dtype)
    width: Width | None = width_at_load("ctranslate2", compute)
    return Weights(width, dtype, None, width, dtype)


def _unsized(file: SpecFile, what: str) -> SpecError:
    mend = "lock the spec first, or run this where the weights are: then their files' sizes are known"
    return SpecError(what, where=file.where("weights", "source"), mend=mend)


def _said(config: Mapping[str, Any]) -> Mapping[str, Any]:
    places = (config, config.get("text_config"))
    found = (
        one.get("quantization_config") or one.get("compression_config") for one in places if isinstance(one, Mapping)
    )
    return next((one for one in found if isinstance(one, Mapping)), {})
