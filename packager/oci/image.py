"""Configs, manifests and indexes: the JSON that makes layers an image.

Always OCI media types, canonical JSON, and no clock: what we create was created at the epoch.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..digest import canonical_json, oci_digest
from ..errors import ImageError
from .layer import LAYER_GZIP, Layer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

EPOCH = "1970-01-01T00:00:00Z"
MAX_LAYERS = 125
"""Docker refuses an image with more ("max depth exceeded")."""

_LAYER_TYPES: Mapping[str, str] = {
    LAYER_GZIP: LAYER_GZIP,
    LAYER_TAR: LAYER_TAR,
    LAYER_ZSTD: LAYER_ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TAR,
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points at a blob: media type, digest, size in bytes."""

    media_type: str
    digest: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """The descriptor as it stands in a manifest."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a container of the image runs, as we say it; empty means unset.

    `exposed_ports` are `8000/tcp`, `volumes` absolute paths.
    """

    architecture: str
    os: str = "linux"
    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest, the config it names, and its layers in order, base first."""

    manifest: bytes = field(repr=False)
    config: bytes = field(repr=False)
    layers: tuple[Layer, ...]

    @property
    def manifest_digest(self) -> str:
        """The image's identity in registries."""
        return oci_digest(self.manifest)

    @property
    def config_digest(self) -> str:
        """The image's identity in Docker Engines before the containerd store."""
        return oci_digest(self.config)

    @property
    def media_type(self) -> str:
        """The manifest's media type: a foreign image's may be Docker's own."""
        return str(json.loads(self.manifest).get("mediaType") or MANIFEST)


def make_image(config: ImageConfig, layers: Sequence[Layer], *, base: Image | None = None) -> Image:
    """The image of `layers`, on `base` when one is given. Pure: reads no layer."""
    below = () if base is None else tuple(_as_oci(layer) for layer in base.layers)
    every = (*below, *layers)
    if len(every) > MAX_LAYERS:
        raise ImageError(
            f"the image has {len(every)} layers ({len(below)} of them the base's); Docker takes at most {MAX_LAYERS}",
            mend="put more wheels into one layer, or choose a base with fewer layers",
        )
    written = image_config(config, layers, base=None if base is None else base.config)
    return Image(image_manifest(Descriptor(CONFIG, oci_digest(written), len(written)), every), written, every)


def image_config(config: ImageConfig, layers: Sequence[Layer], *, base: bytes | None = None) -> bytes:
    """The config's canonical JSON; `layers` are ours alone, `base` is the config of the image below.

    From the base come its diff ids, its history as it is (its times are part of what was locked), its
    environment and labels where we set no other value, and its CPU variant. Nothing else: what starts, as
    whom and where is for us alone to say, so no vendor's entrypoint, volume, port or health check comes along.
    Raises ImageError when the base is of another platform or not an image config.
    """
    below = _base(config, base)
    env = {**below.env, **config.env}
    run: dict[str, Any] = {"Env": [f"{name}={env[name]}" for name in sorted(env)]}
    wanted: dict[str, Any] = {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "Labels": {**below.labels, **config.labels},
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Volumes": {path: {} for path in config.volumes},
    }
    run.update({key: value for key, value in wanted.items() if value})
    rows = [{"created": EPOCH, "created_by": "packager", "comment": layer.title} for layer in layers]
    return canonical_json(
        {
            "architecture": config.architecture,
            "os": config.os,
            **({"variant": below.variant} if below.variant else {}),
            "created": EPOCH,
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [*below.diff_ids, *(layer.diff_id for layer in layers)]},
            "history": [*below.history, *rows],
        }
    )


def image_manifest(config: Descriptor, layers: Sequence[Layer]) -> bytes:
    """The manifest's canonical JSON, without annotations: nothing in it but what runs."""
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.to_json(),
            "layers": [Descriptor(layer.media_type, layer.digest, layer.size).to_json() for layer in layers],
        }
    )


def image_index(manifests: Sequence[tuple[Descriptor, Mapping[str, Any]]]) -> bytes:
    """An index's canonical JSON: each descriptor with what else stands beside it (`platform`, `annotations`)."""
    rows = [{**descriptor.to_json(), **extra} for descriptor, extra in manifests]
    return canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows})


def select_manifest(index: Mapping[str, Any], architecture: str, *, where: str) -> Descriptor:
    """The one Linux image for `architecture` (`amd64`, `arm64`) in a decoded index.

    An entry without a platform counts when it is the only image. Raises ImageError with what there is instead.
    """
    try:
        rows = [row for row in index["manifests"] if row.get("mediaType", MANIFEST) in (MANIFEST, DOCKER_MANIFEST)]
        known = [(row, row.get("platform") or {}) for row in rows]
        known = [(row, platform) for row, platform in known if platform.get("os") != "unknown"]  # attestations
        if len(known) == 1 and not known[0][1]:
            return read_descriptor(known[0][0], where=where)
        for row, platform in known:
            if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
                return read_descriptor(row, where=where)
        names = sorted({f"{p.get('os', '?')}/{p.get('architecture', '?')}" for _, p in known})
    except (KeyError, TypeError, AttributeError) as error:
        raise _broken(f"its index is not one of images ({type(error).__name__}: {error})", where) from error
    raise ImageError(
        f"the index has no image for linux/{architecture}; it has {', '.join(names) or 'no image at all'}",
        where=where,
        mend="choose a base that is published for this architecture",
    )


def parse_image(manifest: bytes, *, where: str) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Config and layer descriptors of a manifest's bytes; ImageError when it is not an image's."""
    try:
        value = json.loads(manifest)
        config = read_descriptor(value["config"], where=where)
        layers = tuple(read_descriptor(row, where=where) for row in value["layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(f"its manifest is not one of an image ({type(error).__name__}: {error})", where) from error
    for layer in layers:
        if layer.media_type not in _LAYER_TYPES:
            raise _broken(f"a layer has media type {layer.media_type}, which packager cannot place in an image", where)
    return config, layers


def layer_names(config: bytes, count: int, *, where: str) -> list[tuple[str, str]]:
    """Diff id and title of each of the `count` layers, from an image config's bytes."""
    try:
        value = json.loads(config)
        diff_ids = [str(item) for item in value["rootfs"]["diff_ids"]]
        history = value.get("history") or ()
        rows = [row for row in history if not row.get("empty_layer")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(f"its config is not one of an image ({type(error).__name__}: {error})", where) from error
    if len(diff_ids) != count:
        raise _broken(f"its manifest has {count} layers, its config {len(diff_ids)}", where)
    if len(rows) != count:
        rows = [{}] * count
    titles = [str(row.get("comment") or row.get("created_by") or "layer") for row in rows]
    return list(zip(diff_ids, titles, strict=True))


@dataclass(frozen=True, slots=True)
class _Base:
    diff_ids: tuple[str, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""


def _base(config: ImageConfig, base: bytes | None) -> _Base:
    if base is None:
        return _Base()
    try:
        value = json.loads(base)
        platform = (value["os"], value["architecture"])
        run = value.get("config") or {}
        diff_ids = tuple(value["rootfs"]["diff_ids"])
        history = tuple(value.get("history") or ())
        env = dict(item.split("=", 1) for item in run.get("Env") or ())
        labels = run.get("Labels") or {}
        filled = sum(1 for row in history if not row.get("empty_layer"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(f"its config is not one of an image ({type(error).__name__}: {error})", "base") from error
    if platform != (config.os, config.architecture):
        raise ImageError(
            f"the base is for {'/'.join(platform)}, the image for {config.os}/{config.architecture}",
            where="base",
            mend="choose a base of the image's platform",
        )
    if filled != len(diff_ids):  # tools match rows with layers: a base that has lost its rows gets plain ones
        history = tuple({"created": EPOCH, "created_by": "base"} for _ in diff_ids)
    return _Base(diff_ids, history, env, labels, str(value.get("variant") or ""))


def _as_oci(layer: Layer) -> Layer:
    """The same layer under its OCI media type: one manifest must not mix dialects."""
    return Layer(layer.blob, layer.diff_id, _LAYER_TYPES[layer.media_type], layer.title)


def read_descriptor(row: Mapping[str, Any], *, where: str) -> Descriptor:
    """A descriptor from decoded JSON; ImageError for a digest that is no sha256 or a size that is none."""
    try:
        media_type, digest, size = row["mediaType"], row["digest"], row["size"]
    except (KeyError, TypeError) as error:
        raise _broken(f"a descriptor in it is incomplete ({error})", where) from error
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _broken(f"it names a blob by {digest!r}, which is no sha256 digest", where)
    if not isinstance(size, int) or size < 0:
        raise _broken(f"it gives {digest} the size {size!r}", where)
    return Descriptor(str(media_type), digest, size)


def _broken(what: str, where: str) -> ImageError:
    return ImageError(
        f"this is not an image that packager can read: {what}", where=where, mend="fetch or build the image again"
    )
