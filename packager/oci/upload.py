"""One blob into a registry: mounted from another repository, in one request, or in chunks that can be resumed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Event

import httpx

from ..errors import RegistryError
from .blob import Blob
from .parallel import until
from .session import PassingError, Session

_CREATED, _ACCEPTED, _NO_CONTENT = 201, 202, 204
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob that `repository` may lack; `mount_from` is a repository of the same registry that has it, or empty."""

    repository: str
    blob: Blob
    mount_from: str
    stop: Event
    on_done: Callable[[int], None]


def upload_blob(session: Session, upload: Upload) -> bool:
    """Bring the blob in; True when the registry mounted it, False when its bytes were sent.

    Raises RegistryError when the registry refuses or keeps failing, IntegrityError for a blob that is not
    what its digest says.
    """
    if upload.mount_from and _mounted(session, upload):
        return True
    large = upload.blob.size > session.access.monolithic
    session.persistent(partial(_send_chunks if large else _send_whole, session, upload))
    return False


def _mounted(session: Session, upload: Upload) -> bool:
    """Ask for a mount. A registry that does not mount says so, or opens an upload: then the bytes are sent instead."""
    query = httpx.QueryParams({"mount": upload.blob.digest, "from": upload.mount_from})
    path = f"{upload.repository}/blobs/uploads/?{query}"
    answers = (_CREATED, _ACCEPTED, 400, 401, 403, 404, 405)
    response, _ = session.fetch("POST", path, ok=answers, headers={"Content-Length": "0"})
    if response.status_code == _ACCEPTED:
        _abandon(session, response)
    return response.status_code == _CREATED


def _abandon(session: Session, response: httpx.Response) -> None:
    """Close the upload that a refused mount has opened; whether the registry cares is its own affair."""
    try:
        with session.exchange("DELETE", session.follow(response), ok=range(200, 500)):
            pass
    except RegistryError:
        return


def _open(session: Session, upload: Upload) -> tuple[httpx.URL, int]:
    """Where to send to, and the least bytes of a chunk that the registry takes."""
    path = session.root.join(f"{upload.repository}/blobs/uploads/")
    with session.exchange("POST", path, ok={_ACCEPTED}, headers={"Content-Length": "0"}) as response:
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        return session.follow(response), int(least) if least.isdigit() else 0


def _send_whole(session: Session, upload: Upload) -> None:
    location, _ = _open(session, upload)

    def body() -> Iterator[bytes]:
        return _counted(until(upload.stop, upload.blob.open()), 0, upload.on_done)

    headers = {"Content-Type": _OCTETS, "Content-Length": str(upload.blob.size)}
    with session.exchange("PUT", _closing(location, upload), ok={_CREATED}, headers=headers, body=body):
        pass


def _send_chunks(session: Session, upload: Upload) -> None:
    """PATCH chunk after chunk; after a broken one ask how far the registry got and go on from there."""
    location, least = _open(session, upload)
    step = max(session.access.chunk, least)
    source = _Source(upload)
    offset, failures = 0, 0
    while offset < upload.blob.size:
        end = min(offset + step, upload.blob.size)
        headers = {"Content-Type": _OCTETS, "Content-Length": str(end - offset), "Content-Range": f"{offset}-{end - 1}"}
        body = partial(source.read, offset, end)
        try:
            with session.exchange("PATCH", location, ok={_ACCEPTED}, headers=headers, body=body) as response:
                location, offset = session.follow(response), end
        except PassingError as error:
            failures += 1
            if failures >= session.access.attempts:
                raise
            session.access.sleep(0.5 * 2**failures if error.after is None else error.after)
            location, offset = _progress(session, location)
    if source.finish() != upload.blob.size:
        raise RegistryError("the blob ended early", where=session.where)
    with session.exchange("PUT", _closing(location, upload), ok={_CREATED}, headers={"Content-Length": "0"}):
        pass


def _progress(session: Session, location: httpx.URL) -> tuple[httpx.URL, int]:
    """Where the upload goes on and how many bytes of it the registry has; PassingError when it has forgotten it."""
    with session.exchange("GET", location, ok={_NO_CONTENT, 404}) as response:
        first, dash, last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if response.status_code != _NO_CONTENT or not dash or not (first + last).isdigit():
            raise PassingError(
                "the registry has forgotten an upload that broke", where=session.where, mend="run the command again"
            )
        following = session.follow(response) if "Location" in response.headers else location
        return following, int(last) + 1 if int(last) else 0


def _closing(location: httpx.URL, upload: Upload) -> httpx.URL:
    return location.copy_add_param("digest", upload.blob.digest)


def _counted(chunks: Iterator[bytes], done: int, on_done: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        on_done(done)


class _Source:
    """A blob read in ranges, forwards without starting anew; backwards it is made again and skipped through."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._rewind()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to before `end`."""
        if start < self._position:
            self._rewind()
        for _ in self._advance(start):
            pass
        yield from _counted(self._advance(end), start, self._upload.on_done)

    def finish(self) -> int:
        """Read to the end, where the blob verifies itself; the number of bytes it had."""
        for _ in self._advance(self._upload.blob.size):
            pass
        return self._position + sum(len(chunk) for chunk in self._chunks)

    def _rewind(self) -> None:
        self._chunks = until(self._upload.stop, self._upload.blob.open())
        self._rest = b""
        self._position = 0

    def _advance(self, end: int) -> Iterator[bytes]:
        while self._position < end:
            chunk = self._rest or next(self._chunks, b"")
            if not chunk:
                return
            head, self._rest = chunk[: end - self._position], chunk[end - self._position :]
            self._position += len(head)
            yield head
