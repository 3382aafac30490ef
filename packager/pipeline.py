"""READ FIRST: the whole of packager in five calls.

    load_spec  ->  lock_for  ->  write_package  ->  assemble_image  ->  write_layout

Each stage is a value; each call turns one into the next. `packager.cli` adds words around this.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import OutputError
from .image.assemble import assemble_image
from .image.base import named_base, open_layout
from .image.names import full_name
from .image.plan import ImagePlan, plan_image
from .lock.hardware import too_small
from .lock.keep import lock_for
from .lock.sources import fetch_sources
from .lock.tools import Tools
from .oci.image import Image
from .oci.layout import blobs_folder, layout_reference, write_layout
from .package.output import Output, hold
from .package.plan import make_manifest, plan_package
from .package.read import Package, is_package, read_package, visible
from .package.sources import read_ingredients
from .package.write import keep_edits, write_package
from .spec.load import load_spec, on_base
from .spec.model import ModelSpec
from .weights.leases import leased

_HOLDER = "packager build"
"""What `packager store` calls a build."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. `output` is the folder that gets `NAME/` and `NAME.oci/`.

    `locked` refuses a lock that no longer answers the spec, `force` overwrites files of the package
    that were edited by hand, `full` writes a registry base's layers into the layout too. `repository`
    and `tag` replace the spec's, `base` what the image stands on: a registry's image, or the folder of an OCI layout.
    """

    output: Path = Path("dist")
    repository: str | None = None
    tag: str | None = None
    locked: bool = False
    force: bool = False
    full: bool = False
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """What a build left: the package, the image, the layout folder it lies in, and its full name."""

    package: Package
    plan: ImagePlan
    image: Image
    layout: Path
    reference: str


def build(source: Path, options: BuildOptions, tools: Tools) -> Built:
    """Build the spec at `source`, or the package at `source` as it stands, into `options.output`.

    The whole store is held meanwhile: what a build will need of it is not known beforehand.
    """
    with leased(tools.store, _HOLDER, None):
        return _build(source, options, tools)


def _build(source: Path, options: BuildOptions, tools: Tools) -> Built:
    if is_package(source):
        package = _unchanged(source, options)
        with hold(options.output, package.manifest.name, waiting=tools.say) as output:
            return _finish(package, package.folder, _old_name(package, options), output, tools, full=options.full)
    file = on_base(load_spec(source), options.base)
    name = image_name(file.spec, options)
    with hold(options.output, file.spec.name, waiting=tools.say) as output:
        keep_edits(options.output / file.spec.name, force=options.force)
        ingredients = read_ingredients(file)
        lock = lock_for(file, tools, locked=options.locked)
        if note := too_small(file.spec, lock.weights):
            tools.say(note)
        fetch_sources(lock, file, tools)
        tools.stage("package")
        staged = output.stage(file.spec.name)
        write_package(plan_package(file.spec, lock, ingredients), staged, tools.store)
        return _finish(read_package(staged), file.folder, name, output, tools, full=options.full)


def _unchanged(source: Path, options: BuildOptions) -> Package:
    """A package as it stands. Its base is locked: raises OutputError where another is asked for."""
    package = read_package(source)
    if options.base is not None:
        mend = "give --base with the spec: its lock then has the facts of that base"
        raise OutputError("a package stands on the base that its lock names", where=str(source), mend=mend)
    return package


def _finish(package: Package, beside: Path, reference: str, output: Output, tools: Tools, *, full: bool) -> Built:
    """Make the image of `package` beside it, and put everything staged into place."""
    plan = plan_image(package.manifest, package.lock, package.files)
    name = package.manifest.name
    layout = output.folder / f"{name}.oci"
    staged = output.stage(layout.name)
    image = assemble_image(plan, package, tools, beside=beside, blobs=blobs_folder(staged))
    tools.stage("image: write")
    base = named_base(package, tools, full=full)
    write_layout(image, staged, reference=reference, reuse=layout, progress=tools.on_bytes, base=base)
    output.commit()
    final = package.folder if package.folder.exists() else output.folder / name
    return Built(read_package(final), plan, open_layout(layout, tools), layout, reference)


def preview(source: Path, options: BuildOptions, tools: Tools) -> dict[str, Any]:
    """What `build` would do, as plain values. Writes nothing but a lock that is missing or out of date."""
    with leased(tools.store, _HOLDER, None):
        return _previewed(source, options, tools)


def _previewed(source: Path, options: BuildOptions, tools: Tools) -> dict[str, Any]:
    if is_package(source):
        old = _unchanged(source, options)
        return _preview(source, old.files, _old_name(old, options), plan_image(old.manifest, old.lock, old.files))
    file = on_base(load_spec(source), options.base)
    lock = lock_for(file, tools, locked=options.locked)
    ingredients = read_ingredients(file)
    package = plan_package(file.spec, lock, ingredients)
    manifest = make_manifest(file.spec, lock, ingredients.version)
    files = visible(package.files)
    plan = plan_image(manifest, lock, files)
    return _preview(options.output / package.name, files, image_name(file.spec, options), plan)


def _preview(folder: Path, files: tuple[str, ...], reference: str, plan: ImagePlan) -> dict[str, Any]:
    return {
        "package": {"folder": str(folder), "files": list(files)},
        "image": {"reference": reference, **asdict(plan)},
    }


def image_name(spec: ModelSpec, options: BuildOptions) -> str:
    """`REPOSITORY/NAME:TAG`, from the options where they say, else from the spec."""
    repository = spec.image.repository if options.repository is None else options.repository
    return full_name(spec.name, repository, spec.image.tag if options.tag is None else options.tag)


def _old_name(package: Package, options: BuildOptions) -> str:
    """The name of a package's image: what the options say, else what its last image was called."""
    name = package.manifest.name
    if options.repository is not None or options.tag is not None:
        return full_name(name, options.repository, options.tag)
    return layout_reference(options.output / f"{name}.oci") or full_name(name, None, None)
