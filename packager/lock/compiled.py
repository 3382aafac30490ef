"""Compiled engines in the lock: engine.json is read, and must agree with the listing and with TensorRT-LLM's config.json.

What it says of a file's sha256 is a claim of whoever uploaded both, and is compared with what the source knows; it is
no digest of the lock's.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import Problem, SpecError
from ..spec.engine import BuiltForSpec
from ..weights.compiled import (
    CONFIG,
    FILE,
    KIND,
    MOST,
    PLANS,
    BuiltFile,
    BuiltGpu,
    EngineBuild,
    Limits,
    Parallel,
    disagreements,
    parse_build,
    read_build,
)
from ..weights.source import Source, SourceFile, read_file

_LARGEST = 1 << 20
"""Bytes of a description: both kinds have a few thousand."""
_UNKNOWN = "0" * 64
"""The sha256 of a file that is hashed later: it is not compared before."""
_OS = "linux-x86_64"
"""Where NVIDIA's images of TensorRT-LLM up to 1.2.1 with compiled engines run, as engine.json says it."""
_SHORTER = "limits.max_input_len"
"""What a description may have less of than the engine takes: a conversion asked for it, or an older packager wrote it."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What TensorRT-LLM's own config.json says of an engine, under the names of engine.json."""

    tensorrt_llm: str
    mapping: Parallel
    limits: Limits
    dtype: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    lora: bool


@dataclass(frozen=True, slots=True)
class Compiler:
    """The machine that compiled an engine, with its software."""

    gpu: BuiltGpu
    tensorrt: str
    cuda: str
    driver: str
    os: str


def describe_build(config: EngineConfig, compiler: Compiler, files: Mapping[str, BuiltFile]) -> EngineBuild:
    """The engine.json of the engine of these files, which `compiler` compiled."""
    return EngineBuild(
        kind=KIND,
        tensorrt_llm=config.tensorrt_llm,
        tensorrt=compiler.tensorrt,
        cuda=compiler.cuda,
        driver_build=compiler.driver,
        gpu=compiler.gpu,
        os=compiler.os,
        image=None,
        mapping=config.mapping,
        limits=config.limits,
        dtype=config.dtype,
        quant_algo=config.quant_algo,
        kv_cache_quant_algo=config.kv_cache_quant_algo,
        lora=config.lora,
        source_model=None,
        tokenizer_sha256=next((files[path].sha256 for path in _TOKENIZERS if path in files), None),
        files=files,
    )


def lock_compiled(
    source: Source, files: Sequence[SourceFile], where: str, built_for: BuiltForSpec | None = None
) -> Mapping[str, Any] | None:
    """The engine.json among the listed files, checked against them; None where there is no compiled engine.

    Where there is none, `built_for` says what only the machine knew that compiled it. Raises SpecError, at `where`, with
    all that does not agree, and for an engine that nothing describes; LoadError when a file cannot be read. Call it again
    with the digests, once the files that the source knows none of are hashed.
    """
    named = {one.path: one for one in files}
    if FILE in named and built_for is not None:
        what = f"`engine.built_for` describes an engine that has an {FILE} of its own"
        raise SpecError(
            what, where=where, mend=f"remove `engine.built_for`; or leave {FILE} out with `weights.include`"
        )
    if FILE not in named and CONFIG in named and built_for is not None:
        return _described(source, named, where, built_for).to_value()
    if FILE not in named:
        _refuse_undescribed(list(named), where)
        return None
    try:
        build = read_build(_read(source, named[FILE], where))
    except ValueError as error:
        mend = "describe the engine again where it was compiled: `packager engine describe FOLDER --force`"
        raise SpecError(f"{FILE} is damaged: {error}", where=where, mend=mend) from error
    problems = [*disagreements(build, files, where=where)]
    if CONFIG in named:
        problems += _contradictions(build, source, named[CONFIG], where)
    if problems:
        raise SpecError.collect(problems)
    return build.to_value()


def read_config(data: bytes) -> EngineConfig:
    """What the bytes of TensorRT-LLM's config.json say. Raises ValueError that names the place of what is off.

    Its three keys are written by `EngineConfig.to_dict` in TensorRT-LLM's builder.py (0.10 to 1.2).
    """
    try:
        config = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    quantization = "pretrained_config.quantization"
    return EngineConfig(
        tensorrt_llm=_text(config, "version"),
        mapping=_split(config),
        limits=_limits(config),
        dtype=_text(config, "pretrained_config.dtype"),
        quant_algo=_algorithm(config, f"{quantization}.quant_algo"),
        kv_cache_quant_algo=_algorithm(config, f"{quantization}.kv_cache_quant_algo"),
        lora=bool(_at(config, "build_config.plugin_config.lora_plugin")),
    )


def _split(config: Any) -> Parallel:
    """Over how many GPUs the engine is split, as `parse_build` takes it.

    TensorRT-LLM's Mapping refuses another product too, but for the auto_parallel of old versions (mapping.py).
    """
    place = "pretrained_config.mapping"
    split = Parallel(
        world_size=_count(config, f"{place}.world_size"),
        tp=_count(config, f"{place}.tp_size"),
        pp=_count(config, f"{place}.pp_size"),
        cp=_count(config, f"{place}.cp_size", default=1),  # not in versions before context parallelism
    )
    if split.world_size != split.tp * split.pp * split.cp:
        raise ValueError(_off(f"{place}.world_size", split.world_size))
    return split


def _limits(config: Any) -> Limits:
    """What the engine takes: its `max_input_len` counts where inputs are padded, or attention is not fused, alone.

    Otherwise TensorRT-LLM says that it ignores it (builder.py _init_max_seq_len; trtGptModel.h), and `trtllm-build` leaves
    its default of 1024 there, whatever the engine takes.
    """
    limits = Limits(**{one.name: _count(config, f"build_config.{one.name}") for one in fields(Limits)})
    if all(_at(config, f"build_config.plugin_config.{name}") for name in ("remove_input_padding", "context_fmha")):
        most = min(limits.max_seq_len, limits.max_num_tokens)
        return replace(limits, max_input_len=max(limits.max_input_len, most))
    return limits


def _described(source: Source, files: Mapping[str, SourceFile], where: str, built_for: BuiltForSpec) -> EngineBuild:
    """engine.json as it would be, of what the spec says and of TensorRT-LLM's config.json."""
    try:
        config = read_config(_read(source, files[CONFIG], where))
    except ValueError as error:
        raise SpecError(f"{CONFIG} is not TensorRT-LLM's: {error}", where=where, mend="restore the file") from error
    described = {path: BuiltFile(one.sha256 or _UNKNOWN, one.size) for path, one in files.items() if _counts(path)}
    gpu = BuiltGpu(built_for.gpu, built_for.sm, built_for.memory_mib, config.mapping.world_size)
    compiler = Compiler(gpu, built_for.tensorrt, built_for.cuda, built_for.driver, _OS)
    build = describe_build(config, compiler, described)
    try:
        return parse_build(build.to_value())
    except ValueError as error:
        mend = "copy all that was compiled; `weights.include` must leave none of it out"
        raise SpecError(f"the engine is not whole: {error}", where=where, mend=mend) from error


def _counts(path: str) -> bool:
    """Model cards are written and corrected after an engine was compiled."""
    return not path.endswith(".md")


def _refuse_undescribed(paths: Sequence[str], where: str) -> None:
    plans = [path for path in paths if path.endswith(PLANS)]
    if not plans:
        return
    within = sorted(path.removesuffix(f"/{FILE}") for path in paths if path.endswith(f"/{FILE}"))
    mend = (
        "run `packager engine describe FOLDER` on the machine that compiled it, and put the engine.json that it writes "
        "beside it; where that machine is out of reach, say in `engine.built_for` what it was; or leave the engine out with "
        "`weights.include`"
    )
    if within:
        mend = f"name the folder within: {', '.join(within[:5])}"
    what = f"{plans[0]} is a compiled engine, and no {FILE} says what it was compiled with and for"
    raise SpecError(what, where=where, mend=mend)


def _read(source: Source, file: SourceFile, where: str) -> bytes:
    if file.size > _LARGEST:
        what = f"{file.path} has {file.size} bytes, which no description of an engine has"
        raise SpecError(what, where=where, mend="restore the file")
    return read_file(source, file)


def _contradictions(build: EngineBuild, source: Source, file: SourceFile, where: str) -> Iterator[Problem]:
    try:
        config = read_config(_read(source, file, where))
    except ValueError as error:
        yield Problem(f"{CONFIG} is not TensorRT-LLM's: {error}", where, "restore the file")
        return
    mend = "the two files are of different engines: describe the one that is here, where it was compiled"
    said = _flat(asdict(build))
    for place, value in _flat(asdict(config)).items():
        if said[place] != value and not (place == _SHORTER and said[place] < value):
            ours, theirs = json.dumps(said[place]), json.dumps(value)
            yield Problem(f"{FILE} says {place} {ours}, and {CONFIG} says {theirs}", where, mend)


def _flat(value: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= _flat(one, f"{place}{key}.") if isinstance(one, Mapping) else {place + key: one}
    return found


def _at(config: Any, place: str) -> Any:
    """The value at `a.b.c`, or None."""
    for key in place.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _count(config: Any, place: str, default: int | None = None) -> int:
    value = _at(config, place)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= MOST:
        raise ValueError(_off(place, value))
    return value


def _text(config: Any, place: str) -> str:
    value = _at(config, place)
    if not isinstance(value, str) or not value:
        raise ValueError(_off(place, value))
    return value


def _algorithm(config: Any, place: str) -> str | None:
    value = _at(config, place)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(_off(place, value))


def _off(place: str, value: Any) -> str:
    return f"{place} is missing" if value is None else f"{place} cannot be {json.dumps(value)[:60]}"
