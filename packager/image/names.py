"""Names of images, and which built image a name means."""

from pathlib import Path

from ..errors import ImageError
from ..oci.image import Image
from ..oci.layout import is_layout, layout_reference
from ..oci.reference import parse_reference
from ..package.output import settle
from ..package.read import is_package, read_package


def full_name(name: str, repository: str | None, tag: str | None) -> str:
    """`REPOSITORY/NAME:TAG`, without the first part where no repository is given. Raises ImageError for no such name."""
    within = [] if repository is None else [repository.rstrip("/")]
    full = "/".join([*within, f"{name}:{'latest' if tag is None else tag}"])
    parse_reference(full)
    return full


def find_layout(image: str, output: Path) -> tuple[Path, str]:
    """The layout folder that `image` means (a layout, a package folder or a reference), and the image's name.

    Raises ImageError when nothing was built under that name.
    """
    path = Path(image)
    if is_package(path):
        path = output / f"{read_package(path).manifest.name}.oci"
    settle(path.parent, path.name.removesuffix(".oci"))
    if is_layout(path):
        return path, layout_reference(path) or path.name.removesuffix(".oci")
    mend = "build it first with `packager build`, or give its layout folder"
    if _is_path(image):
        raise ImageError("no image was built here", where=image, mend=mend)
    layout = output / f"{parse_reference(image).repository.rpartition('/')[2]}.oci"
    if not is_layout(layout):
        raise ImageError("no image of this name was built", where=image, mend=mend)
    return layout, image


def named_in_registry(name: str) -> Image:
    """The image that a registry has under the reference `name`: manifest and configuration.

    Raises ImageError for what is plainly a path, RegistryError.
    """
    if is_package(Path(name)):
        mend = "give its image: the layout folder that `packager build` wrote beside it, or the image's reference"
        raise ImageError("this is a package, not an image", where=name, mend=mend)
    beside = "/" in name and Path(name).parent.is_dir()  # dist/NAME, where nothing of that name was built
    if Path(name).exists() or beside or _is_path(name):
        mend = "give a package folder, the layout folder that `packager build` wrote, or an image's reference"
        raise ImageError("this is neither a package nor an OCI layout", where=name, mend=mend)
    from ..oci.registry import pull_image  # an HTTP client is slow to import, and few builds need one

    return pull_image(parse_reference(name))


def _is_path(name: str) -> bool:
    """Whether it is written as only a path is, never an image's name."""
    return name.endswith(".oci") or name.startswith((".", "/"))
