"""Does this lock answer this spec? Pure: compares values, opens nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..recipes import RECIPES
from ..recipes.servers import LOADING, REQUIREMENTS, SYSTEM_PACKAGES
from ..spec.engine import TensorrtLlmEngineSpec
from ..spec.model import ModelSpec
from ..spec.weights import AdapterSpec
from .lockfile import Lock

LAYER_FORMAT = 2
"""The version of everything that turns locked bytes into layer bytes; see `image/envelope.py`."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One field that moved since the lock was made."""

    field: str
    locked: Any
    asked: Any

    def __str__(self) -> str:
        who = "packager" if self.field.startswith("packager.") else "the spec"
        if isinstance(self.locked, list) and isinstance(self.asked, list):
            adds = [f"adds {one}" for one in self.asked if one not in self.locked]
            drops = [f"drops {one}" for one in self.locked if one not in self.asked]
            return f"{self.field}: {who} {', '.join([*adds, *drops]) or 'says it in another order'}"
        return f"{self.field}: locked {_shown(self.locked)}, {who} now says {_shown(self.asked)}"


def _shown(value: Any) -> str:
    """A value as a spec writes it."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {one}" for key, one in value.items() if one is not None) + "}"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def lock_inputs(spec: ModelSpec) -> Mapping[str, Any]:
    """The parts of `spec` that a lock answers, by dotted name, with packager's own share.

    What only the package or the image's configuration uses (names, ports, limits, environment, chat template) is
    not here: changing it needs no new lock.
    """
    base = spec.image.base
    weights = spec.weights
    return {
        "hardware": "gpu" if spec.hardware.gpu else "cpu",
        "engine.kind": spec.engine.kind,
        "engine.version": getattr(spec.engine, "version", None),
        "quantization": spec.quantization,
        "serving.server": spec.serving.server,
        "image.base": None if base is None else base.model_dump(mode="json"),
        "image.system_packages": sorted(spec.image.system_packages),
        "image.python_packages": sorted(spec.image.python_packages),
        "weights.source": weights and weights.source,
        "weights.revision": weights and weights.revision,
        "weights.tokenizer": weights and weights.tokenizer,
        "weights.tokenizer_revision": weights and weights.tokenizer_revision,
        "weights.include": weights and weights.include and sorted(weights.include),
        "weights.file": weights and weights.file,
        "weights.adapters": weights and sorted(map(_adapter, weights.adapters)),
        "weights.trusted_code": weights and dict(sorted(weights.trusted_code.items())),
        "packager.requirements": list(python_requirements(spec)),
        "packager.overrides": list(python_overrides(spec)),
        "packager.system_packages": list(system_packages(spec)),
        "packager.layer_format": LAYER_FORMAT,
        **_built_for(spec),
    }


def _built_for(spec: ModelSpec) -> Mapping[str, Any]:
    """Only where it is said: hardly any spec has it, and locks of the others stay as they are."""
    engine = spec.engine
    if not isinstance(engine, TensorrtLlmEngineSpec) or engine.built_for is None:
        return {}
    return {"engine.built_for": engine.built_for.model_dump(mode="json")}


def _adapter(adapter: AdapterSpec) -> str:
    revision = f" at {adapter.revision}" if adapter.revision else ""
    return f"{adapter.name}={adapter.source}{revision}"


def python_requirements(spec: ModelSpec) -> tuple[str, ...]:
    """Every PEP 508 requirement of the package, sorted."""
    recipe, gpu = RECIPES[spec.engine.kind], spec.hardware.gpu is not None
    engine = recipe.requirements(engine_version(spec), spec.quantization, gpu=gpu)
    return tuple(sorted({*engine, *REQUIREMENTS[spec.serving.server], *_loading(spec), *spec.image.python_packages}))


def _loading(spec: ModelSpec) -> tuple[str, ...]:
    """What the container needs to fetch the weights itself."""
    if spec.weights is None or spec.weights.ship != "on_load":
        return ()
    schemes = {address.partition("://")[0] for address in spec.weights.addresses}
    return tuple(line for scheme in schemes for line in LOADING.get(scheme, ()))


def python_overrides(spec: ModelSpec) -> tuple[str, ...]:
    """Requirements that replace those of anything in the closure, as uv's overrides do, but for what the spec itself names."""
    recipe = RECIPES[spec.engine.kind]
    on_cpu = () if spec.hardware.gpu else recipe.cpu_overrides
    named = {_distribution(line) for line in spec.image.python_packages}
    lines = (*on_cpu, *recipe.overrides.get(spec.serving.server, ()))
    return tuple(line for line in lines if _distribution(line) not in named)


def _distribution(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def system_packages(spec: ModelSpec) -> tuple[str, ...]:
    """Every Debian package that a `debian` base must hold, sorted."""
    engine = RECIPES[spec.engine.kind].debian_packages(gpu=spec.hardware.gpu is not None)
    return tuple(sorted({*SYSTEM_PACKAGES, *engine, *spec.image.system_packages}))


def engine_version(spec: ModelSpec) -> str:
    """The engine version that the spec pins, or its recipe's tested default."""
    return getattr(spec.engine, "version", None) or RECIPES[spec.engine.kind].default_version


def drifted(lock: Lock, spec: ModelSpec) -> tuple[Drift, ...]:
    """The fields in which `lock` no longer answers `spec`; empty when it does."""
    asked = lock_inputs(spec)
    names = sorted({*asked, *lock.inputs})
    moved = [name for name in names if lock.inputs.get(name) != asked.get(name)]
    # What packager makes of the spec moves with it: worth a word only where the spec did not move.
    own = [name for name in moved if not name.startswith("packager.")]
    return tuple(Drift(name, lock.inputs.get(name), asked.get(name)) for name in own or moved)
