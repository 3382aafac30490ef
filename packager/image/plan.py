"""Which layers an image has, from top to bottom of its package and lock. Pure.

Order by sharing, most shared first: base, wheels (CUDA, torch, engine, small buckets), weights,
package. So one code edit changes the last layer alone.
"""

from dataclasses import dataclass

from ..digest import canonical_json, sha256_hex
from ..facts import BaseFacts
from ..lock.lockfile import BaseLock, Lock
from ..manifest import Manifest, WeightsFile
from ..oci.image import ImageConfig
from ..package.plan import RUNTIME, shipped_files
from ..package.text import ports, serve_command
from ..recipes import RECIPES
from ..wheels.contest import Contest
from ..wheels.group import group_wheels
from ..wheels.resolve import Wheel
from .envelope import ENVELOPE


@dataclass(frozen=True, slots=True)
class WheelsPlan:
    """One layer of wheels, in the order they are written: a later one's files replace an earlier one's."""

    title: str
    wheels: tuple[Wheel, ...]
    facts: BaseFacts

    def key(self) -> str:
        """Hex digest of everything the layer's bytes depend on: what its digest is remembered by."""
        scheme = [self.facts.interpreter, self.facts.python_minor, self.facts.scripts, self.facts.site]
        identity = [ENVELOPE.layer_format, "wheels", scheme, [wheel.sha256 for wheel in self.wheels]]
        return sha256_hex(canonical_json(identity))


@dataclass(frozen=True, slots=True)
class WeightsPlan:
    """One layer of weights files, below the package's `data/`."""

    title: str
    files: tuple[WeightsFile, ...]

    def key(self) -> str:
        """Hex digest of everything the layer's bytes depend on."""
        identity = [ENVELOPE.layer_format, "weights", ENVELOPE.app, [[file.path, file.sha256] for file in self.files]]
        return sha256_hex(canonical_json(identity))


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """An image to be assembled. `runtime` lists the files of the vendored container side, `package` the others.

    They are layers of their own: an edit of the package's few files is pushed again without the runtime. Weights are
    among neither.
    """

    base: BaseLock
    wheels: tuple[WheelsPlan, ...]
    weights: tuple[WeightsPlan, ...]
    runtime: tuple[str, ...]
    package: tuple[str, ...]
    config: ImageConfig
    contests: tuple[Contest, ...]


def plan_image(manifest: Manifest, lock: Lock, files: tuple[str, ...]) -> ImagePlan:
    """The image of a package with this manifest, lock and list of files."""
    own = [path for path in files if not path.startswith("data/") and path != "Dockerfile"]
    return ImagePlan(
        base=lock.base,
        wheels=_wheels(manifest, lock),
        weights=tuple(layer for kind, files in shipped_files(manifest).items() for layer in _weights(kind, files)),
        runtime=tuple(path for path in own if path.startswith(f"{RUNTIME}/")),
        package=tuple(path for path in own if not path.startswith(f"{RUNTIME}/")),
        config=_config(manifest, lock),
        contests=lock.contests,
    )


def _wheels(manifest: Manifest, lock: Lock) -> tuple[WheelsPlan, ...]:
    groups = group_wheels(
        lock.wheels,
        lock.contests,
        engine=_engine(manifest, lock),
        solo_bytes=ENVELOPE.solo_wheel_bytes,
        buckets=ENVELOPE.wheel_buckets,
    )
    return tuple(WheelsPlan(group.title, group.wheels, lock.facts) for group in groups)


def _engine(manifest: Manifest, lock: Lock) -> str:
    """The distribution of the engine that is among the wheels; empty for one without."""
    recipe, names = RECIPES[manifest.engine.kind], {wheel.name for wheel in lock.wheels}
    return next((name for name in (recipe.distribution, recipe.cpu_distribution) if name and name in names), "")


def _weights(kind: str, files: tuple[WeightsFile, ...]) -> tuple[WeightsPlan, ...]:
    """A layer for each large file, and one for all the others."""
    files = tuple(sorted(files, key=lambda file: file.path))
    large = [file for file in files if file.size >= ENVELOPE.solo_weights_bytes]
    small = tuple(file for file in files if file.size < ENVELOPE.solo_weights_bytes)
    plans = [WeightsPlan(f"{kind} {file.path}", (file,)) for file in large]
    if small:
        plans.append(WeightsPlan(kind if not large else f"{kind}, small files", small))
    return tuple(plans)


def _config(manifest: Manifest, lock: Lock) -> ImageConfig:
    env = {**dict(ENVELOPE.env), **manifest.image.env}
    labels = {
        "org.opencontainers.image.title": manifest.name,
        "packager.engine": f"{manifest.engine.kind} {manifest.engine.version}",
        "packager.lock": sha256_hex(lock.to_bytes()),
        "packager.version": manifest.packager,
        **manifest.image.labels,
    }
    return ImageConfig(
        architecture=lock.facts.architecture,
        env=env,
        entrypoint=serve_command(manifest, lock.facts.interpreter, f"/{ENVELOPE.app}"),
        working_dir=f"/{ENVELOPE.app}",
        user=str(ENVELOPE.user),
        exposed_ports=tuple(f"{port}/tcp" for port in ports(manifest)),
        labels=labels,
    )
