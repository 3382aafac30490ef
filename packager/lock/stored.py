"""What is kept of bases: a Debian base's packages; manifest and configuration of an image, whose layers stay in the registry."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..debian.fetch import fetch_packages
from ..debian.resolve import DebianPackage
from ..errors import FetchError
from ..oci.blob import Blob
from ..oci.image import Image, layer_names, parse_image
from ..oci.layer import Layer
from ..oci.reference import Reference
from ..store import Store
from .lockfile import DebianBaseLock
from .tools import Tools, storing


@dataclass(frozen=True, slots=True)
class BaseBlob:
    """A layer of a base image. It stays in its registry: whoever reads it streams it, and nothing is kept."""

    remote: Blob
    offline: bool
    where: str

    @property
    def digest(self) -> str:
        return self.remote.digest

    @property
    def size(self) -> int:
        return self.remote.size

    def open(self) -> Iterator[bytes]:
        """The bytes, verified. Raises FetchError offline, RegistryError."""
        if self.offline:
            raise FetchError(
                f"offline, and a layer of this base image ({self.size:,} bytes) lies in its registry",
                where=self.where,
                mend="run it without --offline, or build with --full where the registry is in reach",
            )
        return self.remote.open()


def fetch_debian(base: DebianBaseLock, tools: Tools) -> dict[DebianPackage, Path]:
    """The archive of each package, in the store. Raises FetchError, IntegrityError, OutputError."""
    fetched = fetch_packages(
        base.packages,
        tools.store,
        mirror=tools.debian_mirror,
        run=tools.run,
        offline=tools.offline,
        on_bytes=_counter(sum(one.size for one in base.packages), tools),
    )
    return {one: fetched[one.sha256] for one in base.packages}


def _counter(total: int, tools: Tools) -> Callable[[int], None]:
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if tools.on_bytes is not None:
            tools.on_bytes("Debian packages", done, total)

    return count


def pull_base(reference: Reference, tools: Tools, *, architecture: str) -> Image:
    """The image under `reference`: manifest and configuration now, layers when they are read.

    Asks the registry only for what the store lacks; a tag is always asked for. Raises RegistryError, and
    FetchError for what is lacking offline.
    """
    image = _stored(reference, tools.store)
    if image is None and tools.offline:
        raise FetchError(
            "offline, and the store lacks this base image",
            where=str(reference),
            mend="build once without --offline, or copy a store that has it (PACKAGER_CACHE)",
        )
    if image is None:
        from ..oci.registry import pull_image  # an HTTP client is slow to import, and few builds need one

        image = pull_image(reference, architecture=architecture)
        with storing(tools.store):
            for data in (image.manifest, image.config):
                tools.store.put([data], name=str(reference))
    layers = (replace(layer, blob=BaseBlob(layer.blob, tools.offline, str(reference))) for layer in image.layers)
    return Image(image.manifest, image.config, tuple(layers))


def _stored(reference: Reference, store: Store) -> Image | None:
    """The image with this digest as the store has it; None for a tag, an index, or what was never pulled."""
    manifest = store.find(reference.digest.removeprefix("sha256:")) if reference.digest else None
    if manifest is None:
        return None
    data, where = manifest.path.read_bytes(), str(reference)
    config_row, rows = parse_image(data, where=where)
    config = store.find(config_row.digest.removeprefix("sha256:"), config_row.size)
    if config is None:
        return None
    from ..oci.registry import RemoteBlob

    content = config.path.read_bytes()
    names = layer_names(content, len(rows), where=where)
    layers = (
        Layer(RemoteBlob(reference, row.digest, row.size), diff_id, row.media_type, title)
        for row, (diff_id, title) in zip(rows, names, strict=True)
    )
    return Image(data, content, tuple(layers))
