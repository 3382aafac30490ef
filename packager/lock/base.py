"""Pins what the image stands on, and reads the base's facts from its own bytes."""

from dataclasses import asdict

from ..debian.facts import python_facts
from ..debian.fetch import apt_state
from ..debian.resolve import resolve_packages
from ..errors import ImageError, SpecError
from ..facts import BaseFacts
from ..manifest import decode
from ..oci.image import Image
from ..oci.inspect import read_base_facts
from ..oci.layout import read_layout
from ..oci.reference import apply_mirrors, parse_reference
from ..spec.image import DebianBase, LayoutBase, RegistryBase
from ..spec.load import SpecFile
from .drift import system_packages
from .lockfile import BaseLock, DebianBaseLock, ImageBaseLock
from .stored import fetch_debian, pull_base
from .tools import Tools

ARCHITECTURE = "amd64"
"""Images are for this architecture: recipes are tested on it, and engines' GPU wheels exist for it."""


def lock_base(file: SpecFile, tools: Tools) -> tuple[BaseLock, BaseFacts]:
    """The base that the spec asks for, pinned, with its facts."""
    base = file.spec.image.base
    if isinstance(base, RegistryBase):
        reference = apply_mirrors(parse_reference(base.image), tools.registry_mirrors)
        image = pull_base(reference, tools, architecture=ARCHITECTURE)
        return ImageBaseLock("registry", image.manifest_digest), _image_facts(image, tools)
    if isinstance(base, LayoutBase):
        return _layout(base, file, tools)
    return _debian(base, file, tools)


def _layout(base: LayoutBase, file: SpecFile, tools: Tools) -> tuple[BaseLock, BaseFacts]:
    folder = file.folder / base.path
    if not (folder / "oci-layout").is_file():
        raise ImageError(
            f"there is no OCI layout here: {folder}",
            where=file.where("image", "base", "path"),
            mend="a relative path starts at the spec's folder; `skopeo copy docker://IMAGE oci:FOLDER` makes a layout",
        )
    image = read_layout(folder, architecture=ARCHITECTURE)
    return ImageBaseLock("layout", image.manifest_digest), _image_facts(image, tools)


def _debian(base: DebianBase | None, file: SpecFile, tools: Tools) -> tuple[BaseLock, BaseFacts]:
    release, packages = resolve_packages(
        system_packages(file.spec),
        architecture=ARCHITECTURE,
        state=apt_state(tools.store),
        mirror=tools.debian_mirror,
        run=tools.run,
    )
    if base is not None and base.suite is not None and base.suite != release.suite:
        raise SpecError(
            f"apt on this machine offers {release.distribution} {release.suite}, not {base.suite}",
            where=file.where("image", "base", "suite"),
            mend=f"leave `suite` out, or build where apt's sources offer {base.suite}",
        )
    lock = DebianBaseLock(release, packages)
    facts = python_facts(packages, release)
    fetch_debian(lock, tools)  # as the wheels are: what is locked can be built offline
    return lock, facts


def _image_facts(image: Image, tools: Tools) -> BaseFacts:
    """Facts are read from all the layers, gigabytes for a vendor's base: so once per digest."""
    key = image.manifest_digest.removeprefix("sha256:")
    try:
        facts: BaseFacts = decode(BaseFacts, tools.store.recall("facts", key))
    except ValueError:  # none, or one that another version remembered
        facts = read_base_facts(image)
        tools.store.remember("facts", key, asdict(facts))
    return facts
