"""What is in a package or an image, as plain values: the answer of `packager inspect`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..lock.lockfile import DebianBaseLock, Lock
from ..oci.image import Image
from ..oci.layout import layout_base, layout_reference, read_layout
from ..package.read import Package


def describe_image(image: Image, reference: str | None = None) -> dict[str, Any]:
    """Digests, platform, how it starts, and each layer. Sizes are bytes."""
    config = json.loads(image.config)
    runs = config.get("config", {})
    return {
        "reference": reference,
        "manifest_digest": image.manifest_digest,
        "config_digest": image.config_digest,
        "platform": f"{config.get('os')}/{config.get('architecture')}",
        "size": sum(layer.size for layer in image.layers),
        "user": runs.get("User", ""),
        "entrypoint": runs.get("Entrypoint") or [],
        "env": runs.get("Env") or [],
        "labels": runs.get("Labels") or {},
        "layers": [
            {"title": layer.title, "size": layer.size, "digest": layer.digest, "diff_id": layer.diff_id}
            for layer in image.layers
        ],
    }


def describe_layout(folder: Path) -> dict[str, Any]:
    """As `describe_image`, and the registry's image it stands on, if it does: is the layout without its layers?"""
    base = layout_base(folder)
    return {
        **describe_image(read_layout(folder), layout_reference(folder)),
        "base": None if base is None else {"name": base.name, "digest": base.digest, "left_out": base.shallow},
    }


def describe_package(package: Package) -> dict[str, Any]:
    """Engine, weights, wheels and base of a package. Sizes are bytes."""
    manifest, lock = package.manifest, package.lock
    weights, tokenizer = manifest.weights, manifest.tokenizer
    return {
        "name": manifest.name,
        "packager": manifest.packager,
        "engine": {"kind": manifest.engine.kind, "version": manifest.engine.version, **dict(manifest.engine.options)},
        "quantization": manifest.engine.quantization,
        "serving": {name: getattr(manifest.serving, name) for name in manifest.serving.__dataclass_fields__},
        "base": describe_base(lock),
        "weights": [] if weights is None else [asdict(one) for one in weights.files],
        "tokenizer": [] if tokenizer is None else [asdict(one) for one in tokenizer.files],
        "adapters": {name: [asdict(one) for one in each.files] for name, each in manifest.adapters.items()},
        "wheels": [
            {"name": one.name, "version": one.version, "size": one.size, "sha256": one.sha256} for one in lock.wheels
        ],
        "contests": [{"path": one.path, "winner": one.winner, "losers": list(one.losers)} for one in lock.contests],
        "files": len(package.files),
        "size": sum((package.folder / path).stat().st_size for path in package.files),
    }


def describe_base(lock: Lock) -> str:
    """The base in one line."""
    base = lock.base
    if isinstance(base, DebianBaseLock):
        release = base.release
        return f"{release.distribution} {release.suite}, {len(base.packages)} packages, Python {lock.facts.python}"
    return f"{base.kind} {base.digest}, Python {lock.facts.python}"
