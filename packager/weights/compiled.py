"""`engine.json`: what a compiled engine was built with and for, and whether it may run on a machine. Pure.

TensorRT's plans run on the compute capability, the TensorRT and the operating system that they were compiled with, and
nowhere else; TensorRT-LLM's own config.json records none of these. `packager engine describe` writes the file where
the engine was compiled, the lock takes it up, and `load()` compares it with the machine before it fetches a byte.
There is no way to load in spite of a mismatch.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..digest import readable_json
from ..errors import MismatchError, Problem
from ..manifest import decode
from .source import SourceFile

FILE = "engine.json"
CONFIG = "config.json"
"""TensorRT-LLM's own description, beside the engine."""
PLANS = (".engine", ".plan")
"""How the files of compiled engines end."""
SCHEMA = 1
KIND = "tensorrt_llm_engine"

DRIVERS: Mapping[int, str] = {11: "450", 12: "525", 13: "580"}
"""CUDA's major version to the oldest driver that runs it:
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1."""
_KEPT_BACK = 0.02
"""Share of a GPU's memory by which two drivers' totals for the same GPU differ (A10G: 22,731 and 23,028 MiB)."""
_RANK = re.compile(r"rank(0|[1-9]\d*)\.engine")
MOST = 1 << 40
"""No count of an engine is larger: one that is wants to be computed with."""
_OPTIONAL = {"image": None, "source_model": None, "tokenizer_sha256": None}
_AGAIN = (
    "compile the engine again on such a machine as this, "
    "or write `engine.kind: tensorrt_llm`, which needs no compiled engine"
)


@dataclass(frozen=True, slots=True)
class BuiltGpu:
    """The GPUs that stood where the engine was compiled: `count` alike. `memory_mib` is what one must have to run it."""

    name: str
    sm: str
    memory_mib: int
    count: int


@dataclass(frozen=True, slots=True)
class Parallel:
    """Over how many GPUs the engine is split: `world_size` in all, each with a file of its own."""

    world_size: int
    tp: int
    pp: int
    cp: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What was compiled in: requests at once, and tokens."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int


@dataclass(frozen=True, slots=True)
class SourceModel:
    """The weights that were compiled."""

    repo: str
    revision: str


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """One file of the engine: hex sha256 and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """`engine.json`. Its field names are JSON keys.

    `tensorrt` has four parts, `cuda` and `gpu.sm` two; `os` is as in `linux-x86_64`. `dtype`, `quant_algo` and
    `kv_cache_quant_algo` are TensorRT-LLM's words. `files` are all files of the engine's folder but this one.
    """

    kind: str
    tensorrt_llm: str
    tensorrt: str
    cuda: str
    driver_build: str
    gpu: BuiltGpu
    os: str
    image: str | None
    mapping: Parallel
    limits: Limits
    dtype: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    lora: bool
    source_model: SourceModel | None
    tokenizer_sha256: str | None
    files: Mapping[str, BuiltFile]

    def to_value(self) -> dict[str, Any]:
        """The JSON object, as a lock and a manifest hold it."""
        return {"schema": SCHEMA, **asdict(self)}

    def to_bytes(self) -> bytes:
        """The file's bytes: a pure function of the fields."""
        return readable_json(self.to_value())


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of it. `sm` is the compute capability (`9.0`), memory in MiB."""

    name: str
    sm: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What stands where the engine is to run. An empty text is something that is not installed.

    `gpus` are those that a CUDA program sees. `cuda_driver` is the newest CUDA that the driver runs, with what a
    compatibility package adds, `cuda` the CUDA of the software. Where several TensorRTs are installed, `tensorrt`
    names each, which no engine was built with.
    """

    gpus: tuple[Gpu, ...]
    driver: str
    cuda_driver: str
    cuda: str
    tensorrt: str
    tensorrt_llm: str
    os: str


def read_build(data: bytes) -> EngineBuild:
    """The description that the bytes of an engine.json hold. Raises ValueError that names the place of what is off."""
    try:
        return parse_build(json.loads(data))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_build(value: Any) -> EngineBuild:
    """The same from decoded JSON, as a manifest holds it."""
    found = value.get("schema") if isinstance(value, dict) else None
    if found != SCHEMA or isinstance(found, bool):
        raise ValueError(f"it has schema {json.dumps(found)[:60]}; this packager reads schema {SCHEMA}")
    fields = _OPTIONAL | {key: one for key, one in value.items() if key != "schema"}
    build: EngineBuild = decode(EngineBuild, fields)
    for place, odd in _odd(build):
        raise ValueError(f"{place} cannot be {json.dumps(odd)[:60]}")
    # Of more ranks than there are files, one of the first is missing.
    wanted = {CONFIG, *rank_files(min(build.mapping.world_size, len(build.files) + 1))}
    ranks = {path for path in build.files if _RANK.fullmatch(path)}
    for path in sorted(wanted - build.files.keys()):
        raise ValueError(f"files.{path} is missing")
    for path in sorted(ranks - wanted):
        raise ValueError(f"files.{path} is one rank more than mapping.world_size says")
    return build


def _odd(build: EngineBuild) -> Iterator[tuple[str, Any]]:
    """Places whose value has the right type and cannot be."""
    texts = {
        "kind": (build.kind, KIND),
        "tensorrt_llm": (build.tensorrt_llm, r"\d[\w.+!-]*"),
        "tensorrt": (build.tensorrt, r"\d+(\.\d+){3}"),
        "cuda": (build.cuda, r"\d{1,9}\.\d{1,9}"),
        "driver_build": (build.driver_build, r"\d+(\.\d+)*"),
        "gpu.sm": (build.gpu.sm, r"\d+\.\d+"),
        "os": (build.os, r"[a-z0-9]+-\w+"),
        "tokenizer_sha256": (build.tokenizer_sha256 or "0" * 64, r"[0-9a-f]{64}"),
        **{f"files.{path}.sha256": (one.sha256, r"[0-9a-f]{64}") for path, one in build.files.items()},
    }
    yield from ((place, text) for place, (text, form) in texts.items() if not re.fullmatch(form, text, re.ASCII))
    counts = {
        "gpu.memory_mib": build.gpu.memory_mib,
        "gpu.count": build.gpu.count,
        **{f"mapping.{name}": count for name, count in asdict(build.mapping).items()},
        **{f"limits.{name}": count for name, count in asdict(build.limits).items()},
    }
    yield from ((place, count) for place, count in counts.items() if not 0 < count <= MOST)
    yield from ((f"files.{path}.size", one.size) for path, one in build.files.items() if one.size < 0)
    split = build.mapping
    if split.world_size != split.tp * split.pp * split.cp:
        yield "mapping.world_size", split.world_size


def rank_files(world_size: int) -> tuple[str, ...]:
    """The names of the engine's own files, one for each GPU."""
    return tuple(f"rank{rank}.engine" for rank in range(world_size))


def disagreements(build: EngineBuild, files: Iterable[SourceFile], *, where: str) -> tuple[Problem, ...]:
    """What of the listed weights is not what engine.json says: missing, of another size or sha256, or not described.

    A sha256 that the listing lacks is not compared. Files that are no engines may stand beside what is described.
    """
    listed = {one.path: one for one in files}
    found = []
    for path, built in build.files.items():
        one = listed.get(path)
        if one is None:
            found.append(f"{path} is missing, and {FILE} lists it")
        elif one.size != built.size:
            found.append(f"{path} has {one.size} bytes, and {FILE} says {built.size}")
        elif one.sha256 is not None and one.sha256 != built.sha256:
            found.append(f"{path} has the sha256 {one.sha256[:12]}, and {FILE} says {built.sha256[:12]}")
    extra = [path for path in listed if path.endswith(PLANS) and path not in build.files]
    found += [f"{path} is a compiled engine that {FILE} does not describe" for path in extra]
    mend = "restore the files, or run `packager engine describe FOLDER --force` where the engine was compiled"
    return tuple(Problem(what, where, mend) for what in found)


def check_machine(build: EngineBuild, machine: Machine, files: Iterable[SourceFile]) -> tuple[str, ...]:
    """What to warn of when the engine, of which these are the files to load, runs on `machine`.

    Raises MismatchError with every reason why it cannot.
    """
    problems = (*disagreements(build, files, where=f"{FILE}:files"), *mismatches(build, machine))
    if problems:
        raise MismatchError.collect(problems)
    others = sorted({gpu.name for gpu in machine.gpus} - {build.gpu.name})
    return tuple(
        f"the engine was compiled on {build.gpu.name} and runs on {name}: "
        "TensorRT expects the same model of GPU, and may be slower on another"
        for name in others
    )


def mismatches(build: EngineBuild, machine: Machine) -> Iterator[Problem]:
    """Every reason why the engine cannot run on the machine; `where` names the field of engine.json."""
    yield from _gpus(build, machine)
    yield from _software(build, machine)
    if machine.os != build.os:
        what = f"the engine was compiled on {build.os}; this machine is {machine.os}"
        yield Problem(what, f"{FILE}:os", f"run it on {build.os}, or {_AGAIN}")
    major = int(build.cuda.partition(".")[0])
    if int(machine.cuda_driver.partition(".")[0]) < major:
        needed = f"driver {DRIVERS[major]}" if major in DRIVERS else "a newer driver"
        what = (
            f"the engine was compiled with CUDA {build.cuda}; "
            f"the driver here ({machine.driver}) runs CUDA {machine.cuda_driver} and older"
        )
        mend = f"install {needed} or newer, or run an image that brings CUDA {major}'s compatibility package"
        yield Problem(what, f"{FILE}:cuda", mend)


def _gpus(build: EngineBuild, machine: Machine) -> Iterator[Problem]:
    needed, have = build.mapping.world_size, len(machine.gpus)
    if have < needed:
        what = f"the engine is split over {needed} GPU{'s' * (needed > 1)}; {have or 'none'} can be seen here"
        mend = f"give it {needed} (CUDA_VISIBLE_DEVICES and the container's GPUs decide what is seen), or {_AGAIN}"
        yield Problem(what, f"{FILE}:mapping.world_size", mend)
    if others := [gpu for gpu in machine.gpus if gpu.sm != build.gpu.sm]:
        found = _listed(f"{gpu.sm} ({gpu.name})" for gpu in others)
        what = f"the engine was compiled for compute capability {build.gpu.sm} ({build.gpu.name}); this machine has {found}"
        mend = f"let it see only GPUs with {build.gpu.sm} (CUDA_VISIBLE_DEVICES), run it where there are, or {_AGAIN}"
        yield Problem(what, f"{FILE}:gpu.sm", mend)
    floor = build.gpu.memory_mib * (1 - _KEPT_BACK)
    if small := [gpu for gpu in machine.gpus if gpu.memory_mib < floor]:
        found = _listed(f"{gpu.memory_mib} MiB ({gpu.name})" for gpu in small)
        what = f"the engine needs a GPU with {build.gpu.memory_mib} MiB of memory; this machine has {found}"
        mend = (
            "run it on a larger GPU; if it is known to need less, say so where it was compiled: "
            "`packager engine describe FOLDER --gpu-memory MIB --force`"
        )
        yield Problem(what, f"{FILE}:gpu.memory_mib", mend)


def _software(build: EngineBuild, machine: Machine) -> Iterator[Problem]:
    image = f" ({build.image})" if build.image else ""
    rows = (
        ("TensorRT", "tensorrt", build.tensorrt, machine.tensorrt),
        ("TensorRT-LLM", "tensorrt_llm", build.tensorrt_llm, machine.tensorrt_llm),
    )
    for name, field, needed, found in rows:
        if found != needed:
            what = (
                f"the engine was compiled with {name} {needed}; {f'{found} is' if found else 'none is'} installed here"
            )
            mend = f"run it with {name} {needed}, in the image that compiled it{image}, or {_AGAIN}"
            yield Problem(what, f"{FILE}:{field}", mend)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


_RAW = (
    (
        r"generated on an incompatible device, expecting compute (\S+) got compute (\S+), please rebuild",
        "the engine was compiled for another compute capability ({} and {} were compared)",
    ),
    (
        r"not compatible with this version of TensorRT, expecting library version (\S+) got (\S+?),? please rebuild",
        "the engine was compiled with another TensorRT ({} and {} were compared)",
    ),
    (
        r"Version tag does not match.*?Current Version: (\d+), Serialized Engine Version: (\d+)",
        "the engine was compiled with another TensorRT: its files have format {1}, this one reads {0}",
    ),
    (r"Failed to deserialize cuda engine", "TensorRT cannot read the engine: it was compiled with or for something else"),
    (r"across different models of devices is not supported", "the engine was compiled on another model of GPU"),
)  # fmt: skip


def explain(message: str) -> str | None:
    """What TensorRT's own message about an engine means; None for a message that is not of that kind."""
    found = ((re.search(form, message, re.DOTALL), text) for form, text in _RAW)
    return next((text.format(*match.groups()) for match, text in found if match), None)
