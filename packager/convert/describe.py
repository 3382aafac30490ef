"""Describes a compiled engine, on the machine that compiled it: what only that machine knows goes into engine.json."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..digest import hash_file
from ..errors import LoadError, MismatchError, OutputError, Problem
from ..lock.compiled import Compiler, EngineConfig, describe_build, read_config
from ..store import write_atomically
from ..weights.compiled import (
    CONFIG,
    FILE,
    PLANS,
    BuiltFile,
    BuiltGpu,
    EngineBuild,
    Machine,
    SourceModel,
    rank_files,
    read_build,
)
from ..weights.file import FileSource

_RANK = re.compile(r"rank(0|[1-9]\d{0,11})\.engine", re.ASCII)
_PROSE = ".md"
"""Model cards are written and corrected after the engine is described."""


@dataclass(frozen=True, slots=True)
class Told:
    """What neither the folder nor the machine says. `memory_mib` is what a GPU must have, where less is enough.

    `tokenizer_sha256` is of the tokenizer from elsewhere that a folder without one will have beside it. `max_input_len` is
    how many tokens a prompt may have, where that is fewer than the engine takes.
    """

    memory_mib: int | None = None
    image: str | None = None
    source_model: SourceModel | None = None
    tokenizer_sha256: str | None = None
    max_input_len: int | None = None


@dataclass(frozen=True, slots=True)
class CompiledFolder:
    """The folder of a compiled engine, looked at and not yet hashed: relative paths of its files, their bytes in all."""

    path: Path
    config: EngineConfig
    files: tuple[str, ...]
    size: int


def look(folder: Path) -> CompiledFolder:
    """What compiled engine lies in `folder`. Raises LoadError, with everything that is off, where there is none."""
    listed = {one.path: one.size for one in FileSource(folder).inventory()} if folder.is_dir() else {}
    files = tuple(path for path in listed if path != FILE and not path.endswith(_PROSE))
    if CONFIG not in files:
        mend = f"name the folder that TensorRT-LLM wrote: it has {CONFIG} beside rank0.engine"
        raise LoadError("this folder has no compiled engine", where=str(folder), mend=mend)
    try:
        config = read_config((folder / CONFIG).read_bytes())
    except ValueError as error:
        mend = "name the folder that TensorRT-LLM 0.10 to 1.2 wrote"
        raise LoadError(f"it is not TensorRT-LLM's: {error}", where=str(folder / CONFIG), mend=mend) from error
    problems = tuple(_ranks(folder, config, {path: listed[path] for path in files}))
    if problems:
        raise LoadError.collect(problems)
    return CompiledFolder(folder, config, files, sum(listed[path] for path in files))


def describe(found: CompiledFolder, machine: Machine, told: Told, stage: Callable[[str, int], None]) -> EngineBuild:
    """engine.json of the engine, which `machine` compiled. `stage` is told before every byte of it is read.

    What is not told is as in an engine.json of the same files that lies there. Raises MismatchError when the machine
    cannot be the one that compiled it.
    """
    problems = tuple(_strangers(found, machine, told))
    if problems:
        raise MismatchError.collect(problems)
    config, gpu = found.config, machine.gpus[0]
    stage(f"hash {len(found.files)} files", found.size)
    files = {path: BuiltFile(*hash_file(found.path / path)) for path in found.files}
    told = _with_earlier(told, found.path / FILE, files)
    memory = told.memory_mib or gpu.memory_mib
    compiler = Compiler(
        gpu=BuiltGpu(gpu.name, gpu.sm, memory, len(machine.gpus)),
        tensorrt=machine.tensorrt,
        cuda=machine.cuda or machine.cuda_driver,  # the latter asks for more than is needed, never for less
        driver=machine.driver,
        os=machine.os,
    )
    build, takes = describe_build(config, compiler, files), config.limits.max_input_len
    return replace(
        build,
        image=told.image,
        source_model=told.source_model,
        tokenizer_sha256=build.tokenizer_sha256 or told.tokenizer_sha256,
        limits=replace(config.limits, max_input_len=min(told.max_input_len or takes, takes)),
    )


def write_description(folder: Path, build: EngineBuild, *, force: bool) -> Path:
    """Write the engine.json of `folder`, whole or not at all, and return its path.

    Raises OutputError when another one lies there, unless `force`.
    """
    path, data = folder / FILE, build.to_bytes()
    if not force and path.exists() and path.read_bytes() != data:
        raise OutputError("it describes something else", where=str(path), mend="--force writes it anew")
    write_atomically(path, data)
    return path


def _with_earlier(told: Told, path: Path, files: Mapping[str, BuiltFile]) -> Told:
    try:
        earlier = read_build(path.read_bytes())
    except (OSError, ValueError):
        return told
    if earlier.files != files:
        return told
    return replace(
        told,
        image=told.image or earlier.image,
        source_model=told.source_model or earlier.source_model,
        tokenizer_sha256=told.tokenizer_sha256 or earlier.tokenizer_sha256,
        max_input_len=told.max_input_len or earlier.limits.max_input_len,
    )


def _ranks(folder: Path, config: EngineConfig, files: Mapping[str, int]) -> Iterator[Problem]:
    many = config.mapping.world_size
    split = f"{CONFIG} splits the engine over {many}"
    for path in rank_files(min(many, len(files) + 1)):  # of more than there are files, one of the first is missing
        if path not in files:
            yield Problem(f"{split}, and {path} is missing", str(folder), "copy all that was compiled")
        elif not files[path]:
            yield Problem(f"{path} is empty", str(folder), "copy all that was compiled")
    for path in files:
        part = _RANK.fullmatch(path)
        if path.endswith(PLANS) and not (part and int(part[1]) < many):
            yield Problem(f"{split}, and {path} is none of its parts", str(folder), "move it away")


def _strangers(found: CompiledFolder, machine: Machine, told: Told) -> Iterator[Problem]:
    """Why the engine cannot have been compiled here."""
    mend = "describe it on the machine that compiled it, in the same image"
    if not re.fullmatch(r"\d+(\.\d+){3}", machine.tensorrt):
        what = f"one TensorRT compiled the engine; {machine.tensorrt or 'none'} is installed here"
        yield Problem(what, str(found.path), mend)
    if machine.tensorrt_llm != found.config.tensorrt_llm:
        what = (
            f"TensorRT-LLM {found.config.tensorrt_llm} compiled the engine; "
            f"{machine.tensorrt_llm or 'none'} is installed here"
        )
        yield Problem(what, str(found.path / CONFIG), mend)
    kinds = sorted({(gpu.name, gpu.sm) for gpu in machine.gpus})
    if len(kinds) != 1:
        seen = ", ".join(f"{name} ({sm})" for name, sm in kinds) or "none"
        what = f"one kind of GPU compiled the engine; {seen} can be seen here"
        yield Problem(what, str(found.path), "let it see that one alone: CUDA_VISIBLE_DEVICES, or the container's GPUs")
    elif told.memory_mib is not None and told.memory_mib > machine.gpus[0].memory_mib:
        what = f"a GPU with {told.memory_mib} MiB is asked for; the one here has {machine.gpus[0].memory_mib}"
        yield Problem(what, "--gpu-memory", "name what the engine needs, where that is less")
