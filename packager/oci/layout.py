"""An image as an OCI layout folder, and as the archive stream that `docker load` reads.

Both are hybrids: OCI's `index.json` beside Docker's `manifest.json`, which point at the same blobs, because
Docker Engines with the classic store read only the second.

A layout is shallow when it leaves its base's layers in the registry they come from. Its index then says where
that is, in OCI's own annotations, and the base's manifest, which lies among the blobs, says which layers they are.
"""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

from ..digest import canonical_json, hash_file, oci_digest
from ..errors import ImageError
from ..store import link_or_copy, sync_folder, write_atomically
from .blob import Blob, BytesBlob, FileBlob, OnBytes, write_blob
from .image import (
    DOCKER_INDEX,
    INDEX,
    Descriptor,
    Image,
    image_index,
    layer_names,
    parse_image,
    read_descriptor,
    select_manifest,
)
from .layer import Layer
from .parallel import cores, run_parallel, until
from .tar import END, Entry, header, padding

_LAYOUT = canonical_json({"imageLayoutVersion": "1.0.0"})
_BLOBS = "blobs/sha256"
_SMALL = 16 << 20
_BASE_NAME, _BASE_DIGEST = (f"org.opencontainers.image.base.{key}" for key in ("name", "digest"))


@dataclass(frozen=True, slots=True)
class NamedBase:
    """The image of a registry that a layout's image stands on: its full name there, its manifest's bytes.

    `shallow`: the layout leaves its layers there.
    """

    name: str
    manifest: bytes = field(repr=False)
    shallow: bool

    @property
    def digest(self) -> str:
        """Of its manifest."""
        return oci_digest(self.manifest)

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """Its layers, in order."""
        return parse_image(self.manifest, where=self.name)[1]


Remote = Callable[[NamedBase, Descriptor], Blob]
"""How to come by a base's layer that a shallow layout left in the registry."""


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """A layer that is known by name only, because nobody said how to come by it."""

    base: str
    digest: str
    size: int

    def open(self) -> Iterator[bytes]:
        raise ImageError(
            f"this layout leaves the layers of its base in the registry; {self.digest} ({self.size:,} bytes) is one",
            where=self.base,
            mend="`packager build --full` writes them all",
        )


def write_layout(
    image: Image,
    folder: Path,
    *,
    reference: str | None = None,
    reuse: Path | None = None,
    progress: OnBytes | None = None,
    base: NamedBase | None = None,
) -> None:
    """Write `image` as a layout into `folder`, which is new or empty but for blobs of this image; `index.json` comes last.

    `reference` is the name under which engines will know the image, `base` what it stands on, where that
    lies in a registry; the layers of a `shallow` base are neither read nor written. A blob that the layout folder `reuse`
    holds with the right size is hard-linked instead of made again. All blobs are on disk (fsync) when
    this returns. Raises ImageError for a folder that holds something, IntegrityError for a blob that is not
    what its digest says; `folder` then holds no `index.json`.
    """
    blobs = blobs_folder(folder)
    parts = _parts(image)
    foreign = {f"sha256:{path.name}" for path in blobs.iterdir()} - parts.keys()
    if foreign or (folder / "index.json").exists():
        raise ImageError("a layout is written into an empty folder", where=str(folder), mend="remove the folder")
    old = None if reuse is None else reuse / _BLOBS
    if base is not None:
        for row in base.layers if base.shallow else ():
            parts.pop(row.digest, None)
        parts[base.digest] = BytesBlob(base.manifest)

    def write(digest: str, blob: Blob, stop: Event) -> None:
        title = _title(image, digest)
        _write_blob(blob, blobs, old, lambda done: progress(title, done, blob.size) if progress else None, stop)

    largest_first = sorted(parts.items(), key=lambda item: (-item[1].size, item[0]))
    tasks = [partial(write, digest, blob) for digest, blob in largest_first]
    run_parallel(tasks, cores())
    sync_folder(blobs)
    for name, data in _metadata(image, reference, base):
        write_atomically(folder / name, data)


def blobs_folder(layout: Path) -> Path:
    """Where the blobs of `layout` lie, made when missing: what is written there by its digest, `write_layout` finds."""
    blobs = layout / _BLOBS
    blobs.mkdir(parents=True, exist_ok=True)
    return blobs


def read_layout(
    folder: Path, *, architecture: str = "amd64", verify: bool = False, remote: Remote | None = None
) -> Image:
    """The image in the layout `folder`, its blobs as files; of several images, the Linux one of `architecture`.

    Manifest and config are always checked against their digests, layers for presence and size, and with
    `verify` byte for byte. What a shallow layout left in a registry is the blob that `remote` gives; without
    `remote`, opening it raises ImageError. Raises ImageError for a folder that is not a whole layout.
    """
    manifest = _find_manifest(folder, architecture)
    config_row, layer_rows = parse_image(manifest, where=str(folder))
    config = _small(folder, config_row)
    names = layer_names(config, len(layer_rows), where=str(folder))
    base = layout_base(folder)
    theirs = {row.digest for row in base.layers} if base is not None else set()
    layers = []
    for row, (diff_id, title) in zip(layer_rows, names, strict=True):
        if base is not None and row.digest in theirs and _size(folder / _blob_path(row.digest)) is None:
            blob = remote(base, row) if remote is not None else _LeftOut(base.name, row.digest, row.size)
            layers.append(Layer(blob, diff_id, row.media_type, title))
            continue
        path = _present(folder, row)
        if verify and hash_file(path)[0] != path.name:
            raise _broken("the bytes of this blob are not those of its name", path)
        layers.append(Layer(FileBlob(path, row.digest, row.size), diff_id, row.media_type, title))
    return Image(manifest, config, tuple(layers))


def layout_base(folder: Path) -> NamedBase | None:
    """What the image in `folder` stands on, where packager wrote the layout and that lies in a registry."""
    try:
        said = json.loads(_read_small(folder / "index.json"))["manifests"][0]["annotations"]
        name, digest = str(said[_BASE_NAME]), str(said[_BASE_DIGEST])
        manifest = _read_small(folder / _blob_path(digest))
    except (ImageError, ValueError, KeyError, IndexError, TypeError):
        return None
    if oci_digest(manifest) != digest:
        raise _broken("the bytes of this blob are not those of its name", folder / _blob_path(digest))
    rows = parse_image(manifest, where=name)[1]
    return NamedBase(name, manifest, shallow=any(_size(folder / _blob_path(row.digest)) is None for row in rows))


def is_layout(folder: Path) -> bool:
    """Whether `folder` is an OCI layout."""
    return (folder / "oci-layout").is_file()


def layout_reference(folder: Path) -> str | None:
    """The name that the image in the layout `folder` was built under, or None."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
        name = index["manifests"][0].get("annotations", {}).get("io.containerd.image.name")
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return str(name) if name else None


def archive_chunks(image: Image, reference: str | None = None, *, skip: Collection[str] = ()) -> Iterator[bytes]:
    """The image as a tar stream for `docker load`; `manifest.json` first, and each blob once.

    `skip` holds digests of layers to leave out: an engine with the classic store never opens the file of
    a layer whose chain (it and all below it) it has. The stream's bytes depend on the arguments alone.
    """
    for name, data in _metadata(image, reference):
        yield header(Entry(name), size=len(data)) + data + padding(len(data))
    for folder in ("blobs", _BLOBS):
        yield header(Entry(folder, "directory", 0o755))
    for digest, blob in _parts(image).items():
        if digest in skip:
            continue
        yield header(Entry(_blob_path(digest)), size=blob.size)
        yield from blob.open()
        yield padding(blob.size)
    yield END


def _parts(image: Image) -> dict[str, Blob]:
    """Every blob of the image once, by digest: manifest, config, layers in order."""
    parts: dict[str, Blob] = {image.manifest_digest: BytesBlob(image.manifest)}
    parts[image.config_digest] = BytesBlob(image.config)
    for layer in image.layers:
        parts.setdefault(layer.digest, layer.blob)
    return parts


def _title(image: Image, digest: str) -> str:
    fallback = "config" if digest == image.config_digest else "manifest"
    return next((layer.title for layer in image.layers if layer.digest == digest), fallback)


def _metadata(image: Image, reference: str | None, base: NamedBase | None = None) -> tuple[tuple[str, bytes], ...]:
    """The files beside the blobs, `index.json` last: a folder that has it is whole."""
    annotations = {}
    if reference:
        tag = reference.rpartition(":")[2] if ":" in reference.rpartition("/")[2] else "latest"
        annotations = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}
    if base is not None:  # not in the manifest: what is in the image does not depend on where its base came from
        annotations |= {_BASE_NAME: base.name, _BASE_DIGEST: base.digest}
    platform = json.loads(image.config)
    row = {"platform": {"architecture": platform["architecture"], "os": platform["os"]}}
    index = image_index(
        [
            (
                Descriptor(image.media_type, image.manifest_digest, len(image.manifest)),
                {**row, **({"annotations": annotations} if annotations else {})},
            )
        ]
    )
    docker = {
        "Config": _blob_path(image.config_digest),
        "RepoTags": [reference] if reference else None,
        "Layers": [_blob_path(layer.digest) for layer in image.layers],
    }
    return (("manifest.json", canonical_json([docker])), ("oci-layout", _LAYOUT), ("index.json", index))


def _blob_path(digest: str) -> str:
    return f"{_BLOBS}/{digest.removeprefix('sha256:')}"


def _write_blob(blob: Blob, blobs: Path, reuse: Path | None, on_done: Callable[[int], None], stop: Event) -> None:
    """One blob under its digest's name: there already, linked from `reuse`, or written."""
    name = blob.digest.removeprefix("sha256:")
    if isinstance(blob, FileBlob) and blob.path == blobs / name:
        on_done(blob.size)
        return
    if reuse is not None and _size(reuse / name) == blob.size:
        link_or_copy(reuse / name, blobs / name)
        on_done(blob.size)
        return

    def chunks() -> Iterator[bytes]:
        done = 0
        for chunk in until(stop, blob.open()):  # a blob that is not its digest raises here, before it has the name
            yield chunk
            done += len(chunk)
            on_done(done)

    write_blob(chunks(), blobs, lambda: blob.digest)


def _find_manifest(folder: Path, architecture: str) -> bytes:
    """The bytes of the image manifest that `index.json` leads to, through at most two nested indexes."""
    where = str(folder)
    try:
        index = json.loads(_read_small(folder / "index.json"))
        for _ in range(3):
            rows = index.get("manifests", ())
            if len(rows) == 1 and rows[0].get("mediaType") in (INDEX, DOCKER_INDEX):
                index = json.loads(_small(folder, read_descriptor(rows[0], where=where)))
                continue
            if len(rows) == 1:  # what the folder's only image is for, its config says
                rows = [{key: value for key, value in rows[0].items() if key != "platform"}]
            return _small(folder, select_manifest({"manifests": rows}, architecture, where=where))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(f"its index is not one of a layout ({type(error).__name__}: {error})", folder) from error
    raise _broken("its indexes are nested too deep", folder)


def _small(folder: Path, row: Descriptor) -> bytes:
    """A manifest's, index's or config's bytes, checked against the digest."""
    path = _present(folder, row)
    data = _read_small(path)
    if oci_digest(data) != row.digest:
        raise _broken("the bytes of this blob are not those of its name", path)
    return data


def _read_small(path: Path) -> bytes:
    size = _size(path)
    if size is None:
        raise _broken(f"it has no {path.name}", path.parent)
    if size > _SMALL:
        raise _broken(f"{path.name} has {size} bytes: no manifest or config is that large", path.parent)
    return path.read_bytes()


def _present(folder: Path, row: Descriptor) -> Path:
    """Where the blob lies; ImageError when it is missing or of another size."""
    path = folder / _blob_path(row.digest)
    size = _size(path)
    if size != row.size:
        raise _broken("this blob is missing" if size is None else f"it has {size} bytes, not {row.size}", path)
    return path


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _broken(what: str, where: Path) -> ImageError:
    return ImageError(f"the OCI layout is broken: {what}", where=str(where), mend="build or copy the layout again")
