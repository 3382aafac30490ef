"""Is this image the one that a package and its lock describe?

Quick: manifest and configuration are compared with what the package assembles to, from remembered
digests. Deep: every layer is made again from wheels, Debian packages and weights, and compared.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..lock.stored import BaseBlob
from ..lock.tools import Tools
from ..oci.image import Image
from ..oci.layer import Layer
from ..package.read import read_package
from .assemble import assemble_image
from .plan import plan_image

_NAMED = 3
"""Differences that are named; more are counted."""
Identity = Literal["manifest", "config", "different"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the found image relates to the expected one.

    `manifest`: the same manifest digest, so the same bytes. `config`: the same configuration and diff
    ids, but layers were compressed again (a Docker Engine before the containerd store does that on push).
    `different`: another image; `differences` says where.
    """

    identity: Identity
    differences: tuple[str, ...] = ()


def compare(expected: Image, found: Image) -> Verdict:
    """Compare two images by digests alone; reads no layer."""
    if expected.manifest_digest == found.manifest_digest:
        return Verdict("manifest")
    if expected.config_digest == found.config_digest:
        return Verdict("config")
    return Verdict("different", tuple(_differences(expected, found)))


def _differences(expected: Image, found: Image) -> list[str]:
    ours, theirs = expected.layers, found.layers
    said = [] if len(ours) == len(theirs) else [f"{len(theirs)} layers, expected {len(ours)}"]
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if mine.diff_id != other.diff_id:
            said.append(f"layer {number} ({mine.title}) has diff id {other.diff_id}, expected {mine.diff_id}")
    if said:
        return said[:_NAMED] + ([f"{len(said) - _NAMED} more"] if len(said) > _NAMED else [])
    one, two = json.loads(expected.config).get("config", {}), json.loads(found.config).get("config", {})
    names = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
    return [f"configuration differs in {', '.join(names)}" if names else "configuration differs outside `config`"]


def read_through(layer: Layer) -> None:
    """Make or read every byte of `layer`; raises IntegrityError when they are not those of its digest."""
    for _ in layer.blob.open():
        pass


def reassemble(folder: Path, tools: Tools, *, deep: bool = False) -> Image:
    """The image that the package at `folder` describes, from remembered digests; `deep` makes every layer of ours again.

    Raises IntegrityError when a layer made again is not what was remembered.
    """
    package = read_package(folder)
    plan = plan_image(package.manifest, package.lock, package.files)
    image = assemble_image(plan, package, tools, beside=folder)
    # A registry base's layers are made by nobody here: the lock names them by digest, and they are in their registry.
    ours = [layer for layer in image.layers if not isinstance(layer.blob, BaseBlob)]
    for layer in ours if deep else ():
        tools.stage(f"make {layer.title} again")
        read_through(layer)
    return image
