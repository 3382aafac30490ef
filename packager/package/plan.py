"""What a package folder holds, as values. Pure: the bytes depend on spec, lock and packager alone.

model/model.py  model/manifest.json      Truss: class Model with load() and predict()
packages/packager_runtime/               the container side, under its own import name
service.py  bentofile.yaml               BentoML
config.yaml                              Truss
packager.yaml-derived: packager.lock  requirements.txt  Dockerfile  README.md
triton/                                  a model repository, when Triton serves it
data/                                    weights, when they ship in the image
files.sha256                             every other file, for `sha256sum --check`
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from ..digest import sha256_hex
from ..errors import PackageError
from ..lock.drift import engine_version
from ..lock.lockfile import FILE_NAME as LOCK_NAME
from ..lock.lockfile import Lock, WeightsLock
from ..manifest import (
    MANIFEST_PATH,
    EngineManifest,
    ImageManifest,
    Manifest,
    ServingManifest,
    WeightsFile,
    WeightsManifest,
)
from ..recipes import RECIPES
from ..spec.image import LayoutBase, RegistryBase
from ..spec.model import ModelSpec
from ..weights.policy import check_names
from . import text, triton

RUNTIME = "packages/packager_runtime"
"""Where the container side is vendored. Truss appends `packages/` to sys.path, hence the own name."""

DATA = "data"
LISTING = "files.sha256"
CHAT_TEMPLATE = "model/chat_template.jinja"


@dataclass(frozen=True, slots=True)
class PlannedWeights:
    """One weights file of the package: its path in the package and what its bytes are."""

    path: str
    file: WeightsFile


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """A package to be written: `files` maps paths to bytes (all with mode 0644), `weights` come from the store."""

    name: str
    files: Mapping[str, bytes]
    weights: tuple[PlannedWeights, ...]


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Bytes that the plan copies as they are.

    `templates` are the files of `truss_templates/` by path, `runtime` the container side's modules
    by path below the vendored package, `chat_template` the spec's own, `version` packager's.
    """

    templates: Mapping[str, bytes]
    runtime: Mapping[str, bytes]
    chat_template: bytes | None
    version: str


def plan_package(spec: ModelSpec, lock: Lock, ingredients: Ingredients) -> PackagePlan:
    """The package of `spec` under `lock`. Raises PackageError for a lock whose weights have names that cannot be."""
    manifest = make_manifest(spec, lock, ingredients.version)
    _check_names(manifest)
    files: dict[str, bytes] = {
        **ingredients.templates,
        **{f"{RUNTIME}/{path}": data for path, data in ingredients.runtime.items()},
        MANIFEST_PATH: manifest.to_bytes(),
        LOCK_NAME: lock.to_bytes(),
        "requirements.txt": "".join(f"{line}\n" for line in lock.requirements).encode(),
        "bentofile.yaml": _yaml(_bentofile(spec)),
        "config.yaml": _yaml(_truss_config(spec, lock)),
        "Dockerfile": text.dockerfile(manifest, lock).encode(),
        "README.md": text.readme(spec, manifest, lock).encode(),
        ".dockerignore": b"Dockerfile\nREADME.md\n.dockerignore\n",
    }
    if manifest.serving.server == "triton":
        files |= triton.repository(manifest)
    if ingredients.chat_template is not None:
        files[CHAT_TEMPLATE] = ingredients.chat_template
    shipped = shipped_files(manifest)
    weights = tuple(PlannedWeights(f"{DATA}/{file.path}", file) for files in shipped.values() for file in files)
    files[LISTING] = listing({path: sha256_hex(data) for path, data in files.items()}, weights)
    return PackagePlan(spec.name, dict(sorted(files.items())), weights)


def _check_names(manifest: Manifest) -> None:
    """They become paths of the package, and the lock that they are from is a file that anyone can have written."""
    folders = [[file for part in parts for file in part.files] for parts in manifest.folders().values()]
    if problems := [problem for files in folders for problem in check_names(files, where=LOCK_NAME)]:
        raise PackageError.collect(problems)


def make_manifest(spec: ModelSpec, lock: Lock, version: str) -> Manifest:
    """The contract with the container side."""
    options = spec.engine.model_dump(mode="json", exclude={"kind", "version", "built_for"}, exclude_none=True)
    template = spec.weights is not None and spec.weights.chat_template is not None
    return Manifest(
        name=spec.name,
        packager=version,
        engine=EngineManifest(spec.engine.kind, engine_version(spec), options, _quantized_at_load(spec, lock)),
        weights=_weights(spec, lock),
        serving=ServingManifest(**spec.serving.model_dump()),
        chat_template=PurePosixPath(CHAT_TEMPLATE).name if template else None,
        image=_image(spec),
        tokenizer=None if lock.tokenizer is None else _locked(spec, lock.tokenizer, "."),
        adapters={name: _locked(spec, one, ".") for name, one in sorted(lock.adapters.items())},
    )


def _quantized_at_load(spec: ModelSpec, lock: Lock) -> str:
    """What the engine does to the weights; to those that are quantized already, whatever the spec calls them, nothing."""
    return "none" if lock.weights is not None and lock.weights.model.quantization else spec.quantization


def _image(spec: ModelSpec) -> ImageManifest:
    # Without these two the NVIDIA container runtime injects no driver.
    gpu = (
        {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "NVIDIA_VISIBLE_DEVICES": "all"} if spec.hardware.gpu else {}
    )
    base = spec.image.base
    name = base.image if isinstance(base, RegistryBase) else base.path if isinstance(base, LayoutBase) else ""
    return ImageManifest(name, dict(sorted({**gpu, **spec.image.env}.items())), dict(sorted(spec.image.labels.items())))


def _weights(spec: ModelSpec, lock: Lock) -> WeightsManifest | None:
    if spec.weights is None or lock.weights is None:
        return None
    paths = [file.path for one in (lock.weights, lock.tokenizer) if one is not None for file in one.files]
    entry = RECIPES[spec.engine.kind].entry(paths, spec.weights.file) or "."
    return replace(_locked(spec, lock.weights, entry), trusted_code=tuple(sorted(spec.weights.trusted_code)))


def _locked(spec: ModelSpec, lock: WeightsLock, entry: str) -> WeightsManifest:
    ship = spec.weights.ship if spec.weights else "in_image"
    return WeightsManifest(lock.source, lock.revision, ship, entry, lock.files, compiled=lock.compiled)


def shipped_files(manifest: Manifest) -> Mapping[str, tuple[WeightsFile, ...]]:
    """The files that the package holds, by their path below `data/`: those of `weights`, the tokenizer's among them, and
    those of `adapters`.
    """
    found: dict[str, tuple[WeightsFile, ...]] = {"weights": (), "adapters": ()}
    for folder, parts in manifest.folders().items():
        files = (file for part in parts if part.ship == "in_image" for file in part.files)
        if folder:
            found["adapters"] += tuple(replace(file, path=f"{folder}/{file.path}") for file in files)
        else:
            found["weights"] += tuple(files)
    return found


def listing(digests: Mapping[str, str], weights: tuple[PlannedWeights, ...]) -> bytes:
    """Lines for `sha256sum --check`, sorted by path."""
    every = {**digests, **{planned.path: planned.file.sha256 for planned in weights}}
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(every.items())).encode()


def _bentofile(spec: ModelSpec) -> dict[str, Any]:
    return {
        "service": "service:Service",
        "name": spec.name,
        "labels": {"packager": "package"},
        "include": ["*.py", "model/", "packages/", f"{DATA}/", "requirements.txt", LOCK_NAME],
        "python": {"requirements_txt": "./requirements.txt", "lock_packages": False},
    }


_TRUSS_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Those of Truss's Pythons that the container side runs on, oldest first."""

_TRUSS_ACCELERATORS = frozenset(
    {"A100", "A100_40GB", "A10G", "B200", "B300", "GB300", "H100", "H100_40GB", "H200", "L4", "L40S", "T4", "V100"}
    | {"RTX_PRO_6000"}
)


def _truss_config(spec: ModelSpec, lock: Lock) -> dict[str, Any]:
    # requirements.txt is good for every Python from the floor on, so another one than the image's does too.
    python = lock.facts.python_minor if lock.facts.python_minor in _TRUSS_PYTHONS else _TRUSS_PYTHONS[-1]
    return {
        "model_name": spec.name,
        "description": spec.description or f"{spec.name} on {spec.engine.kind}, packaged by packager",
        "python_version": f"py{python.replace('.', '')}",
        "requirements_file": "./requirements.txt",
        "system_packages": text.system_packages(spec),
        "data_dir": DATA,
        "bundled_packages_dir": "packages",
        "environment_variables": dict(sorted(spec.image.env.items())),
        "resources": _truss_resources(spec),
        "runtime": {"predict_concurrency": spec.serving.max_concurrency},
    }


def _truss_resources(spec: ModelSpec) -> dict[str, str]:
    """The GPU by Truss's name for it; a GPU that Truss does not know is left for its user to choose."""
    name = (spec.hardware.gpu or "").upper().replace("-", "_")
    name = {"A100_80GB": "A100", "H100_80GB": "H100", "A10": "A10G"}.get(name, name)
    return {"accelerator": f"{name}:{spec.hardware.gpus}"} if name in _TRUSS_ACCELERATORS else {}


def _yaml(value: dict[str, Any]) -> bytes:
    dumped: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return dumped.encode()
