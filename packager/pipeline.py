"""READ FIRST: the whole of packager in five calls.

    load_spec  ->  lock_for  ->  write_package  ->  assemble_image  ->  write_layout

Each stage is a value; each call turns one into the next. `packager.cli` adds words around this.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import DriftError, ImageError, LockError, OutputError, Problem
from .image.assemble import assemble_image
from .image.base import named_base, open_layout
from .image.describe import is_layout, layout_reference
from .image.plan import ImagePlan, plan_image
from .image.verify import read_through
from .lock.drift import drifted
from .lock.lockfile import FILE_NAME, Lock, parse_lock
from .lock.resolve import resolve
from .lock.sources import check_sources
from .lock.tools import Tools
from .oci.image import Image
from .oci.layout import blobs_folder, write_layout
from .oci.reference import parse_reference
from .package.output import Output, hold
from .package.plan import make_manifest, plan_package
from .package.read import Package, is_package, read_package
from .package.sources import read_ingredients
from .package.write import edited_files, write_package
from .spec.load import SpecFile, load_spec
from .spec.model import ModelSpec
from .store import write_atomically


def _quiet(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. `output` is the folder that gets `NAME/` and `NAME.oci/`.

    `locked` refuses a lock that no longer answers the spec, `force` overwrites files of the package
    that were edited by hand, `full` writes a registry base's layers into the layout too. `repository`
    and `tag` replace the spec's. `say` is told what a person should know: that another build is waited
    for, that a field moved and the spec is locked anew.
    """

    output: Path = Path("dist")
    repository: str | None = None
    tag: str | None = None
    locked: bool = False
    force: bool = False
    full: bool = False
    say: Callable[[str], None] = _quiet


@dataclass(frozen=True, slots=True)
class Built:
    """What a build left: the package, the image, the layout folder it lies in, and its full name."""

    package: Package
    plan: ImagePlan
    image: Image
    layout: Path
    reference: str


def build(source: Path, options: BuildOptions, tools: Tools) -> Built:
    """Build the spec at `source`, or the package at `source` as it stands, into `options.output`."""
    if is_package(source):
        package = read_package(source)
        with hold(options.output, package.manifest.name, waiting=options.say) as output:
            return _finish(package, package.folder, _old_name(package, options), output, tools, full=options.full)
    file = load_spec(source)
    name = image_name(file.spec, options)
    with hold(options.output, file.spec.name, waiting=options.say) as output:
        _keep_edits(options.output / file.spec.name, force=options.force)
        ingredients = read_ingredients(file)
        lock = lock_for(file, tools, locked=options.locked, say=options.say)
        tools.stage("package")
        staged = output.stage(file.spec.name)
        write_package(plan_package(file.spec, lock, ingredients), staged, tools.store)
        return _finish(read_package(staged), file.folder, name, output, tools, full=options.full)


def _finish(package: Package, beside: Path, reference: str, output: Output, tools: Tools, *, full: bool) -> Built:
    """Make the image of `package` beside it, and put everything staged into place."""
    plan = plan_image(package.manifest, package.lock, package.files)
    name = package.manifest.name
    layout = output.folder / f"{name}.oci"
    staged = output.stage(layout.name)
    image = assemble_image(plan, package, tools, beside=beside, blobs=blobs_folder(staged))
    tools.stage("image")
    base = named_base(package, tools, full=full)
    write_layout(image, staged, reference=reference, reuse=layout, progress=tools.on_bytes, base=base)
    output.commit()
    final = package.folder if package.folder.exists() else output.folder / name
    return Built(read_package(final), plan, open_layout(layout, tools), layout, reference)


def preview(source: Path, options: BuildOptions, tools: Tools) -> dict[str, Any]:
    """What `build` would do, as plain values. Writes nothing but a lock that is missing or out of date."""
    file = load_spec(source)
    lock = lock_for(file, tools, locked=options.locked, say=options.say)
    ingredients = read_ingredients(file)
    package = plan_package(file.spec, lock, ingredients)
    manifest = make_manifest(file.spec, lock, ingredients.version)
    return {
        "package": {"folder": str(options.output / package.name), "files": sorted(package.files)},
        "image": {
            "reference": image_name(file.spec, options),
            **asdict(plan_image(manifest, lock, tuple(package.files))),
        },
    }


def reassemble(folder: Path, tools: Tools, *, deep: bool = False) -> Image:
    """The image that the package at `folder` describes, from remembered digests; `deep` makes every layer again.

    Raises IntegrityError when a layer made again is not what was remembered.
    """
    package = read_package(folder)
    plan = plan_image(package.manifest, package.lock, package.files)
    image = assemble_image(plan, package, tools, beside=folder)
    for layer in image.layers if deep else ():
        tools.stage(f"make {layer.title} again")
        read_through(layer)
    return image


def find_layout(image: str, output: Path) -> tuple[Path, str]:
    """The layout folder that `image` means (a layout, a package folder or a reference), and the image's name.

    Raises ImageError when nothing was built under that name.
    """
    path = Path(image)
    if is_package(path):
        path = output / f"{read_package(path).manifest.name}.oci"
    if is_layout(path):
        return path, layout_reference(path) or path.name.removesuffix(".oci")
    layout = output / f"{parse_reference(image).repository.rpartition('/')[2]}.oci"
    if not is_layout(layout):
        mend = "build it first with `packager build`, or give its layout folder"
        raise ImageError("no image of this name was built", where=image, mend=mend)
    return layout, image


def lock_for(file: SpecFile, tools: Tools, *, locked: bool = False, say: Callable[[str], None] = _quiet) -> Lock:
    """The lock beside the spec when it answers the spec, else a new one, written there.

    Raises DriftError instead of locking anew when `locked` or offline (making a lock asks indexes and
    mirrors), IntegrityError when the weights at their source are no longer the locked ones, LoadError when
    they are nowhere.
    """
    old = read_lock(file)
    moved = drifted(old, file.spec) if old else ()
    if old is not None and not moved:
        check_sources(old, file, tools)
        return old
    if locked or tools.offline:
        check_lock(file)
    for drift in moved:
        say(f"locking again: {drift}")
    return write_lock(resolve(file, tools), file.folder / FILE_NAME)


def check_lock(file: SpecFile) -> None:
    """Raise DriftError, naming every field that moved, unless the lock beside the spec answers it."""
    lock = read_lock(file)
    said = ["there is no lock"] if lock is None else [str(drift) for drift in drifted(lock, file.spec)]
    if said:
        *rest, last = said
        mend = "run `packager lock` where package indexes and mirrors are in reach"
        raise DriftError.collect([*(Problem(what, _shown(file)) for what in rest), Problem(last, _shown(file), mend)])


def read_lock(file: SpecFile) -> Lock | None:
    """The lock beside the spec, or None when there is none. Raises LockError for one that cannot be read."""
    try:
        data = (file.folder / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LockError(f"the lock cannot be read: {error.strerror}", where=_shown(file)) from error
    return parse_lock(data, where=_shown(file))


def _shown(file: SpecFile) -> str:
    """The lock's path as messages name it."""
    return str(Path(file.shown).with_name(FILE_NAME))


def write_lock(lock: Lock, path: Path) -> Lock:
    """Write `lock` to `path`, whole or not at all. Raises OutputError."""
    try:
        write_atomically(path, lock.to_bytes())
    except OSError as error:
        mend = "give the spec's folder write permission, or copy the spec to a folder of yours"
        raise OutputError(f"the lock cannot be written: {error.strerror}", where=str(path), mend=mend) from error
    return lock


def image_name(spec: ModelSpec, options: BuildOptions) -> str:
    """`REPOSITORY/NAME:TAG`, from the options where they say, else from the spec."""
    return full_name(spec.name, options.repository or spec.image.repository, options.tag or spec.image.tag)


def full_name(name: str, repository: str | None, tag: str | None) -> str:
    """`REPOSITORY/NAME:TAG`, without the first part where no repository is given. Raises ImageError for no such name."""
    full = "/".join([*([repository.rstrip("/")] if repository else []), f"{name}:{tag or 'latest'}"])
    parse_reference(full)
    return full


def _old_name(package: Package, options: BuildOptions) -> str:
    """The name of a package's image: what the options say, else what its last image was called."""
    name = package.manifest.name
    if options.repository or options.tag:
        return full_name(name, options.repository, options.tag)
    return layout_reference(options.output / f"{name}.oci") or full_name(name, None, None)


def _keep_edits(final: Path, *, force: bool) -> None:
    """Refuse to overwrite what a person changed in the package, or put where the image goes."""
    layout = final.with_name(f"{final.name}.oci")
    if layout.exists() and not is_layout(layout):
        what = "something that packager did not write stands where the image goes"
        mend = "move it away, or choose another folder with --output"
        raise OutputError(what, where=str(layout), mend=mend)
    edited = () if force else edited_files(final)
    if edited:
        raise OutputError(
            f"the package was edited by hand: {', '.join(edited[:5])}",
            where=str(final),
            mend=f"build it as it stands with `packager build {final}`, or overwrite it with --force",
        )
