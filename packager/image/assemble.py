"""Turns an image plan into an image: digests remembered or computed, bytes made only when read."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Event

from ..lock.tools import Tools
from ..oci.content import Content, DeflatedContent, FileContent, InlineContent
from ..oci.image import Image, make_image
from ..oci.layer import Layer
from ..oci.parallel import cores, run_parallel
from ..oci.tar import Entry
from ..package.read import Package
from ..weights.load import verify_file
from ..wheels.fetch import fetch_wheels
from ..wheels.read import InstalledFile, ZipMember, read_wheel
from .base import base_image
from .envelope import ENVELOPE
from .layers import Entries, LayerRecipe, remembered_layer
from .plan import ImagePlan, WeightsPlan, WheelsPlan


def assemble_image(
    plan: ImagePlan, package: Package, tools: Tools, *, beside: Path, blobs: Path | None = None
) -> Image:
    """The image of `package`. Fetches what the store lacks; reads wheels only where no digest is remembered.

    `beside` is the folder that the path of a local base starts at (the spec's). Layers that must be made to know
    their digests are kept in the folder `blobs`, when one is given (a new layout's, of the image that is returned).
    Raises FetchError, IntegrityError, ImageError or RegistryError.
    """
    tools.stage("image: base")
    base = base_image(package, tools, beside=beside)
    tools.stage("image: wheels")
    facts = package.lock.facts
    wheels = fetch_wheels(
        package.lock.wheels, tools.store, facts=facts, run=tools.run, offline=tools.offline, on_bytes=tools.on_bytes
    )
    tools.stage("image: layers")

    def make(recipe: LayerRecipe, stop: Event) -> Layer:
        return remembered_layer(recipe, tools.store, blobs=blobs, on_bytes=tools.on_bytes, stop=stop)

    # Largest first, so that all cores have work to the end; the order of layers is the plan's all the same.
    recipes = _recipes(plan, package, wheels, tools)
    order = sorted(range(len(recipes)), key=lambda number: -recipes[number].about)
    made = dict(zip(order, run_parallel([partial(make, recipes[number]) for number in order], cores()), strict=True))
    return make_image(plan.config, [made[number] for number in range(len(recipes))], base=base)


def _recipes(plan: ImagePlan, package: Package, wheels: Mapping[str, Path], tools: Tools) -> list[LayerRecipe]:
    """The layers above the base, lowest first."""
    recipes = []
    for group in plan.wheels:
        about = sum(wheel.size for wheel in group.wheels)
        recipes.append(LayerRecipe(group.title, group.key(), wheel_entries(group, wheels), about))
    for weights in plan.weights:
        about = sum(file.size for file in weights.files)
        recipes.append(
            LayerRecipe(weights.title, weights.key(), _weights_entries(weights, package.folder, tools), about)
        )
    cache = Entry(ENVELOPE.cache, "directory", 0o755, uid=ENVELOPE.user, gid=ENVELOPE.user)
    recipes.append(LayerRecipe("runtime", None, _package_entries(plan.runtime, package.folder, cache)))
    return [*recipes, LayerRecipe("package", None, _package_entries(plan.package, package.folder))]


def wheel_entries(plan: WheelsPlan, paths: Mapping[str, Path]) -> Entries:
    """What a layer of wheels holds; `paths` says by sha256 where each wheel lies."""

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


def _package_entries(paths: Iterable[str], folder: Path, *more: Entry) -> Entries:
    def entries() -> Iterator[Entry]:
        yield from more
        for path in paths:
            yield Entry(f"{ENVELOPE.app}/{path}", content=InlineContent((folder / path).read_bytes()))

    return entries
