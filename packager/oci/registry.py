"""Images from and into registries, by the OCI distribution specification. No Docker Engine takes part."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Any, Literal, Self

from ..digest import oci_digest
from ..errors import ImageError, IntegrityError, RegistryError
from .blob import Blob, BytesBlob, OnBytes, verified
from .image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Image,
    layer_names,
    parse_image,
    select_manifest,
)
from .layer import Layer
from .parallel import run_parallel
from .reference import Reference
from .session import Access, PassingError, Session
from .upload import Upload, upload_blob

_ACCEPT = f"{INDEX}, {MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}"

Outcome = Literal["uploaded", "mounted", "skipped"]


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob that lies in the repository `reference`; each `open` fetches it anew."""

    reference: Reference
    digest: str
    size: int
    access: Access = field(default=Access(), repr=False)

    def open(self) -> Iterator[bytes]:
        """The bytes, verified while they come; a broken connection is taken up again where it broke."""
        return verified(self._read(), self.digest, self.size, where=f"{self.reference.name}@{self.digest}")

    def _read(self) -> Iterator[bytes]:
        with Registry(self.reference, access=self.access) as registry:
            yield from registry.blob_chunks(self.digest, self.size)


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did. `uploaded_bytes` are bytes sent; the other counts are blobs (config and layers)."""

    manifest_digest: str
    uploaded_bytes: int
    uploaded: int
    mounted: int
    skipped: int


class Registry:
    """One repository in a registry, for as long as the `with` block lasts. Safe in threads.

    `push` asks for the right to write, `mounts` names repositories of the same registry to mount blobs from.
    Every method raises RegistryError when the registry refuses, keeps failing or cannot be reached.
    """

    def __init__(
        self, reference: Reference, *, access: Access | None = None, push: bool = False, mounts: tuple[str, ...] = ()
    ) -> None:
        self.repository = reference.repository
        scopes = [f"repository:{self.repository}:{'pull,push' if push else 'pull'}"]
        scopes += [f"repository:{name}:pull" for name in mounts]
        self.session = Session(reference.registry, tuple(scopes), access or Access(), where=str(reference))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.session)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def manifest(self, selector: str) -> tuple[bytes, str]:
        """Bytes and digest of the manifest or index under a tag or digest; IntegrityError when they do not agree."""
        path = f"{self.repository}/manifests/{selector}"
        _, data = self.session.fetch("GET", path, ok={200}, headers={"Accept": _ACCEPT})
        digest = oci_digest(data)
        if selector.startswith("sha256:") and digest != selector:
            raise IntegrityError(f"the registry gave a manifest {digest} for {selector}", where=self.session.where)
        return data, digest

    def find_manifest(self, selector: str) -> str | None:
        """The digest that the registry has under a tag or digest, or None; nothing is downloaded."""
        path = f"{self.repository}/manifests/{selector}"
        response, _ = self.session.fetch("HEAD", path, ok={200, 404}, headers={"Accept": _ACCEPT})
        if response.status_code != 200:
            return None
        return response.headers.get("Docker-Content-Digest") or self.manifest(selector)[1]

    def put_manifest(self, selector: str, data: bytes, media_type: str) -> None:
        """Store exactly these bytes under a tag or digest; IntegrityError when the registry says they are others."""

        def call() -> None:
            url = self.session.root.join(f"{self.repository}/manifests/{selector}")
            headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
            with self.session.exchange(
                "PUT", url, ok={200, 201}, headers=headers, body=lambda: iter((data,))
            ) as answer:
                found = answer.headers.get("Docker-Content-Digest", oci_digest(data))
                if found != oci_digest(data):
                    raise IntegrityError(
                        f"the registry stored the manifest as {found}, not {oci_digest(data)}",
                        where=self.session.where,
                        mend="it rewrites manifests: use another registry",
                    )

        self.session.persistent(call)

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has this blob."""
        response, _ = self.session.fetch("HEAD", f"{self.repository}/blobs/{digest}", ok={200, 404})
        return response.status_code == 200

    def small_blob(self, digest: str) -> bytes:
        """A config's bytes (at most 16 MiB), verified."""
        _, data = self.session.fetch("GET", f"{self.repository}/blobs/{digest}", ok={200})
        if oci_digest(data) != digest:
            raise IntegrityError(f"the registry gave other bytes for {digest}", where=self.session.where)
        return data

    def blob_chunks(self, digest: str, size: int) -> Iterator[bytes]:
        """The blob's bytes as they come, not verified; after a broken connection only what is missing is asked for."""
        done = failures = 0
        while done < size:
            try:
                for chunk in self._blob_from(digest, done):
                    done += len(chunk)
                    yield chunk
                self._require_whole(done, size)
            except PassingError as error:
                failures += 1
                if failures >= self.session.access.attempts:
                    raise
                self.session.access.sleep(0.5 * 2**failures if error.after is None else error.after)

    def _blob_from(self, digest: str, start: int) -> Iterator[bytes]:
        """The blob's bytes from `start` on, whether or not the registry serves ranges."""
        url = self.session.root.join(f"{self.repository}/blobs/{digest}")
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with self.session.exchange("GET", url, ok={200, 206}, headers=headers) as response:
            skip = start if response.status_code == 200 else 0
            for chunk in self.session.guarded(response.iter_raw()):
                if len(chunk) > skip:
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def _require_whole(self, done: int, size: int) -> None:
        if done < size:
            raise PassingError("the registry cut a blob short", where=self.session.where, mend="run the command again")


def pull_image(reference: Reference, *, architecture: str = "amd64", access: Access | None = None) -> Image:
    """The Linux image of `architecture` under `reference`: manifest and config now, layers when they are read.

    Raises RegistryError, ImageError when what lies there is no image for this architecture, and IntegrityError
    when a digest does not hold.
    """
    access = access or Access()
    where = str(reference)
    with Registry(reference, access=access) as registry:
        data, _ = registry.manifest(reference.selector)
        for _ in range(2):
            value = _decoded(data, where)
            if "manifests" not in value:
                break
            data, _ = registry.manifest(select_manifest(value, architecture, where=where).digest)
        config_row, layer_rows = parse_image(data, where=where)
        config = registry.small_blob(config_row.digest)
    _require_platform(config, architecture, where)
    layers = (
        Layer(RemoteBlob(reference, row.digest, row.size, access), diff_id, row.media_type, title)
        for row, (diff_id, title) in zip(layer_rows, layer_names(config, len(layer_rows), where=where), strict=True)
    )
    return Image(data, config, tuple(layers))


def push_image(
    image: Image,
    reference: Reference,
    *,
    progress: OnBytes | None = None,
    mounts: Mapping[str, str] | None = None,
    access: Access | None = None,
) -> PushReport:
    """Push `image` byte for byte; what the repository has is skipped, what a neighbour has is mounted.

    `mounts` maps layer digests to repositories of the same registry that are known to have them; layers that
    were pulled from the registry itself need no such hint. Four blobs travel at once, largest first, and
    the manifest last. Raises ImageError when the reference's digest is not the image's.
    """
    if reference.digest and reference.digest != image.manifest_digest:
        raise ImageError(
            f"the image is {image.manifest_digest}, not the {reference.digest} that the reference asks for",
            where=str(reference),
            mend="push to a tag, or build the image that is meant",
        )
    access = access or Access()
    parts: dict[str, tuple[str, Blob]] = {image.config_digest: ("config", BytesBlob(image.config))}
    for layer in image.layers:
        parts.setdefault(layer.digest, (layer.title, layer.blob))
    sources = {digest: _mount_source(blob, reference, digest, mounts or {}) for digest, (_, blob) in parts.items()}
    neighbours = tuple(sorted(set(filter(None, sources.values()))))
    with Registry(reference, access=access, push=True, mounts=neighbours) as registry:

        def push(digest: str, title: str, blob: Blob, stop: Event) -> Outcome:
            on_done = _reporter(progress, title, blob.size)
            outcome: Outcome = "skipped"
            if not registry.has_blob(digest):
                mounted = upload_blob(
                    registry.session, Upload(registry.repository, blob, sources[digest], stop, on_done)
                )
                outcome = "mounted" if mounted else "uploaded"
            on_done(blob.size)
            return outcome

        ordered = sorted(parts.items(), key=lambda item: (-item[1][1].size, item[0]))
        outcomes = run_parallel([partial(push, digest, *part) for digest, part in ordered], access.threads)
        selector = reference.tag or reference.digest or "latest"
        registry.put_manifest(selector, image.manifest, image.media_type)
    sent = sum(blob.size for (_, (_, blob)), outcome in zip(ordered, outcomes, strict=True) if outcome == "uploaded")
    return PushReport(
        image.manifest_digest, sent, *(outcomes.count(kind) for kind in ("uploaded", "mounted", "skipped"))
    )


def _mount_source(blob: Blob, reference: Reference, digest: str, mounts: Mapping[str, str]) -> str:
    """The repository of the target registry that has this blob already, or nothing."""
    if isinstance(blob, RemoteBlob) and blob.reference.registry == reference.registry:
        source = blob.reference.repository
    else:
        source = mounts.get(digest, "")
    return "" if source == reference.repository else source


def _reporter(progress: OnBytes | None, title: str, total: int) -> Callable[[int], None]:
    return lambda done: progress(title, done, total) if progress else None


def _decoded(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise RegistryError(f"the registry's manifest is not JSON: {error}", where=where) from error
    if not isinstance(value, dict):
        raise RegistryError("the registry's manifest is no JSON object", where=where)
    return value


def _require_platform(config: bytes, architecture: str, where: str) -> None:
    value = _decoded(config, where)
    if (value.get("os"), value.get("architecture")) != ("linux", architecture):
        raise ImageError(
            f"the image is for {value.get('os')}/{value.get('architecture')}, not linux/{architecture}",
            where=where,
            mend="choose an image that is published for this architecture",
        )
