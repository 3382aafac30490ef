"""A Docker Engine, when one answers: load an image into it and name it. Through the `docker` library.

Docker is never needed to build; this saves people the `docker load`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..environ import DOCKER_HOST
from ..errors import DockerError
from ..oci.image import Image
from ..oci.layout import archive_chunks

_SOCKET = Path("/var/run/docker.sock")
_MEND = "start it or check DOCKER_HOST; --no-docker builds without it"


def docker_answers() -> bool:
    """Whether the Docker Engine that DOCKER_HOST (or the default socket) names answers."""
    if not DOCKER_HOST.get() and not _SOCKET.exists():
        return False  # the library takes as long to import as many a build
    try:
        with _client():
            return True
    except DockerError:
        return False


def load_image(image: Image, reference: str, *, on_bytes: Callable[[str, int, int], None] | None = None) -> str:
    """Load `image` under the name `reference`; returns the image id that the engine knows it by.

    Layers that the engine has are not sent. Raises DockerError.
    """
    with _client() as client:
        skip = _known_layers(image, client)
        total = sum(layer.size for layer in image.layers if layer.digest not in skip)
        stream = _counted(archive_chunks(image, reference, skip=skip), total, on_bytes)
        answer = client.api.load_image(stream, quiet=True)
        said = [row for row in answer if isinstance(row, dict)]
        failed = [str(row["error"]) for row in said if "error" in row]
        if failed:
            raise DockerError(f"the Docker Engine refused the image: {failed[0]}", where=reference)
        return str(client.images.get(reference).id)


def _known_layers(image: Image, client: Any) -> frozenset[str]:
    """Digests of the layers, from the bottom up, whose whole chain some image of the engine has.

    Only the classic store tells its chains and takes an archive without their files; the containerd store
    (driver type io.containerd.snapshotter.v1) gets everything.
    """
    status = client.info().get("DriverStatus") or []
    if any("containerd" in str(value) for row in status for value in row):
        return frozenset()
    wanted = json.loads(image.config)["rootfs"]["diff_ids"]
    shared = 0
    for other in client.images.list():
        layers = other.attrs.get("RootFS", {}).get("Layers") or []
        same = 0
        while same < min(len(layers), len(wanted)) and layers[same] == wanted[same]:
            same += 1
        shared = max(shared, same)
    return frozenset(layer.digest for layer in image.layers[:shared]) - {
        layer.digest for layer in image.layers[shared:]
    }


def _counted(chunks: Iterator[bytes], total: int, on_bytes: Callable[[str, int, int], None] | None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        done += len(chunk)
        if on_bytes is not None:
            on_bytes("to the Docker Engine", min(done, total), total)
        yield chunk


@contextmanager
def _client() -> Iterator[Any]:
    """The border with the docker library: its errors, and those of its transport, become DockerError."""
    import docker
    import docker.errors
    import requests

    client = None
    try:
        client = docker.from_env(timeout=600)
        client.ping()
        yield client
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise DockerError(f"the Docker Engine does not answer: {error}", mend=_MEND) from error
    finally:
        if client is not None:
            client.close()
