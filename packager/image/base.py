"""The layers below ours: a base that was locked, as an image."""

import tempfile
from dataclasses import asdict
from pathlib import Path

from ..debian.rootfs import ROOTFS_FORMAT, RootEntry, build_rootfs
from ..digest import canonical_json, sha256_hex
from ..errors import DriftError, ImageError
from ..lock.lockfile import DebianBaseLock, ImageBaseLock
from ..lock.stored import BaseBlob, fetch_debian, pull_base
from ..lock.tools import Tools, storing
from ..oci.blob import Blob, FileBlob
from ..oci.content import Content, FileContent, InlineContent
from ..oci.image import Descriptor, Image, ImageConfig, make_image
from ..oci.layer import LAYER_GZIP, Layer, LayerPass
from ..oci.layout import NamedBase, is_layout, layout_base, read_layout
from ..oci.reference import Reference, apply_mirrors, parse_reference
from ..oci.tar import Entry
from ..package.read import Package
from .envelope import ENVELOPE
from .layers import remembered_digests


def base_image(package: Package, tools: Tools, *, beside: Path) -> Image:
    """The base that the package's lock pins; `beside` is the folder a local layout's path starts at.

    A Debian base is built from its packages (fetched when the store lacks them), an image is read as
    manifest and configuration only: its layers are fetched when something reads them.
    """
    base = package.lock.base
    if isinstance(base, DebianBaseLock):
        return _debian(base, package, tools)
    image = _pull(base, package, tools, beside)
    if image.manifest_digest != base.digest:
        raise DriftError(
            f"the base is {image.manifest_digest}, the lock has {base.digest}",
            where=package.manifest.image.base,
            mend="run `packager lock` to take the new one",
        )
    return image


def named_base(package: Package, tools: Tools, *, full: bool = False) -> NamedBase | None:
    """What the package's image stands on, for its layout to name; None unless that lies in a registry.

    The layout leaves its layers there unless it is to be `full`.
    """
    base = package.lock.base
    if base.kind != "registry":
        return None
    name = str(parse_reference(package.manifest.image.base))
    return NamedBase(name, _pull(base, package, tools, Path()).manifest, shallow=not full)


def open_layout(folder: Path, tools: Tools) -> Image:
    """The image in `folder`; what a shallow layout lacks is read from the registry.

    Nothing that is read is kept. Reading raises FetchError offline, RegistryError.
    """

    def remote(base: NamedBase, row: Descriptor) -> Blob:
        from ..oci.registry import RemoteBlob  # an HTTP client is slow to import, and few builds need one

        at = apply_mirrors(parse_reference(base.name), tools.registry_mirrors).with_digest(base.digest)
        return BaseBlob(RemoteBlob(at, row.digest, row.size), tools.offline, str(at))

    return read_layout(folder, remote=remote)


def base_mounts(folder: Path, target: Reference, tools: Tools) -> dict[str, str]:
    """Layers of the base of the layout in `folder` that `target`'s registry has: digest and repository there."""
    base = layout_base(folder)
    if base is None:
        return {}
    named = parse_reference(base.name)
    places = (apply_mirrors(named, tools.registry_mirrors), named)
    return {
        row.digest: place.repository for place in places if place.registry == target.registry for row in base.layers
    }


def _pull(base: ImageBaseLock, package: Package, tools: Tools, beside: Path) -> Image:
    architecture = package.lock.facts.architecture
    if base.kind == "layout":
        return read_layout(_find_layout(base, package, tools, beside), architecture=architecture)
    named = parse_reference(package.manifest.image.base)
    pinned = apply_mirrors(named, tools.registry_mirrors).with_digest(base.digest)
    return pull_base(pinned, tools, architecture=architecture)


def _find_layout(base: ImageBaseLock, package: Package, tools: Tools, beside: Path) -> Path:
    """The folder of a local base: where the spec says, else (a package is built away from its spec) where it last was."""
    key = base.digest.removeprefix("sha256:")
    asked = (beside / package.manifest.image.base).absolute()
    if is_layout(asked):
        tools.store.remember("layout", key, str(asked))
        return asked
    known = tools.store.recall("layout", key)
    if known is None or not is_layout(Path(known)):
        mend = "put the layout there, or build from the spec"
        raise ImageError("the base's OCI layout is not here", where=str(asked), mend=mend)
    return Path(known)


def _debian(base: DebianBaseLock, package: Package, tools: Tools) -> Image:
    identity = [
        ENVELOPE.layer_format,
        "debian",
        ROOTFS_FORMAT,
        asdict(base.release),
        [one.sha256 for one in base.packages],
    ]
    title = f"{base.release.distribution} {base.release.suite}"
    layer = _stored_layer(title, sha256_hex(canonical_json(identity)), base, tools)
    # No search path but the system's own: what is in the image is where Debian puts it.
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    return make_image(ImageConfig(architecture=package.lock.facts.architecture, env=env), [layer])


def _stored_layer(title: str, key: str, base: DebianBaseLock, tools: Tools) -> Layer:
    """The base's layer, its blob kept in the store: every model on the same packages shares it."""
    digests = remembered_digests(key, tools.store)
    stored = tools.store.find(digests.digest.removeprefix("sha256:"), digests.size) if digests else None
    if digests is None or stored is None:
        with storing(tools.store):
            tools.store.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=tools.store.root, prefix="rootfs-") as work:
                once = LayerPass(_rootfs(base, Path(work) / "spool", tools))
                stored = tools.store.put(once, name=title)
                digests = once.digests
        tools.store.remember("layer", key, asdict(digests))
    return Layer(FileBlob(stored.path, digests.digest, digests.size), digests.diff_id, LAYER_GZIP, title)


def _rootfs(base: DebianBaseLock, work: Path, tools: Tools) -> list[Entry]:
    return [_entry(one) for one in build_rootfs(fetch_debian(base, tools), base.release, work)]


def _entry(one: RootEntry) -> Entry:
    return Entry(
        one.path,
        kind=one.kind,
        mode=one.mode,
        content=_content(one) if one.kind == "file" else None,
        target=one.target,
        uid=one.uid,
        gid=one.gid,
    )


def _content(one: RootEntry) -> Content:
    content = one.content
    if isinstance(content, bytes):
        return InlineContent(content)
    return FileContent(content.path, content.size, content.offset)
