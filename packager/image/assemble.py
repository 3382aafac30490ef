"""Turns an image plan into an image: digests remembered or computed, bytes made only when read."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..lock.tools import Tools
from ..oci.content import Content, DeflatedContent, FileContent, InlineContent
from ..oci.image import Image, make_image
from ..oci.tar import Entry
from ..package.read import Package
from ..weights.load import verify_file
from ..wheels.fetch import fetch_wheels
from ..wheels.read import InstalledFile, ZipMember, read_wheel
from .base import base_image
from .envelope import ENVELOPE
from .layers import Entries, LayerRecipe, remembered_layer
from .plan import ImagePlan, WeightsPlan, WheelsPlan


def assemble_image(plan: ImagePlan, package: Package, tools: Tools, *, beside: Path) -> Image:
    """The image of `package`. Fetches what the store lacks; reads wheels only where no digest is remembered.

    `beside` is the folder that the path of a local base starts at (the spec's).
    Raises FetchError, IntegrityError, ImageError or RegistryError.
    """
    tools.stage("base")
    base = base_image(package, tools, beside=beside)
    tools.stage("wheels")
    facts = package.lock.facts
    wheels = fetch_wheels(
        package.lock.wheels, tools.store, facts=facts, run=tools.run, offline=tools.offline, on_bytes=tools.on_bytes
    )
    recipes = [
        *(LayerRecipe(one.title, one.key(), _wheel_entries(one, wheels)) for one in plan.wheels),
        *(LayerRecipe(one.title, one.key(), _weights_entries(one, package.folder, tools)) for one in plan.weights),
        LayerRecipe("package", None, _package_entries(plan, package.folder)),
    ]
    tools.stage("layers")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        # The order of layers is the plan's, whichever thread ends first.
        layers = list(pool.map(lambda recipe: remembered_layer(recipe, tools.store), recipes))
    return make_image(plan.config, layers, base=base)


def _wheel_entries(plan: WheelsPlan, paths: Mapping[str, Path]) -> Entries:
    def entries() -> Iterable[Entry]:
        placed: dict[str, Entry] = {}
        for wheel in plan.wheels:
            path = paths[wheel.sha256]
            for file in read_wheel(path, plan.facts):
                placed[file.path] = Entry(file.path, mode=file.mode, content=_content(file, path))
        return placed.values()

    return entries


def _content(file: InstalledFile, wheel: Path) -> Content:
    source = file.source
    if not isinstance(source, ZipMember):
        return InlineContent(source)
    if source.method == "stored":
        return FileContent(wheel, source.size, source.offset)
    return DeflatedContent(wheel, source.offset, source.compressed, source.size, source.crc32)


def _weights_entries(plan: WeightsPlan, folder: Path, tools: Tools) -> Entries:
    def entries() -> Iterator[Entry]:
        for file in plan.files:
            path = folder / "data" / file.path
            # The layer is remembered under the locked digests: other bytes must not get there.
            verify_file(path, file, tools.store, tools.on_bytes)
            yield Entry(f"{ENVELOPE.app}/data/{file.path}", content=FileContent(path, file.size))

    return entries


def _package_entries(plan: ImagePlan, folder: Path) -> Entries:
    cache = Entry(ENVELOPE.cache, "directory", 0o755, uid=ENVELOPE.user, gid=ENVELOPE.user)

    def entries() -> Iterator[Entry]:
        yield cache
        for path in plan.package:
            yield Entry(f"{ENVELOPE.app}/{path}", content=InlineContent((folder / path).read_bytes()))

    return entries
