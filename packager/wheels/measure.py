"""Sizes and hashes that the index did not tell.

Many indexes publish the sha256 of a file and not its size. A HEAD request tells it; where that fails
(an index with its own ways of signing in), pip fetches the file and it is measured.
"""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..command import Runner
from ..digest import hash_file
from ..errors import ResolveError
from ..facts import BaseFacts
from .pip import download, pin
from .wheel import Wheel

_AT_ONCE = 16
_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """A wheel that was chosen; `location` (a URL or a path) is only for looking at it, never recorded."""

    name: str
    version: str
    file: str
    location: str
    size: int | None
    sha256: str | None


def measure(
    chosen: Sequence[Candidate], facts: BaseFacts, *, folder: Path, run: Runner, pip_env: Mapping[str, str]
) -> tuple[Wheel, ...]:
    """The wheels with every size and hash filled in, in the order given.

    Relative locations count from `folder`. Raises ResolveError when a file cannot be had.
    """
    local = {c: path for c in chosen if (path := local_path(c.location, folder)) is not None}
    remote = [c for c in chosen if c not in local and c.size is None and c.sha256 is not None]
    sizes = _sizes_by_head(remote)
    wheels = []
    for candidate in chosen:
        size, sha256 = candidate.size or sizes.get(candidate), candidate.sha256
        if size is None or sha256 is None:
            if candidate in local:
                sha256, size = _measured(local[candidate], candidate)
            else:
                sha256, size = _fetched(candidate, facts, run, pip_env)
        wheels.append(Wheel(candidate.name, candidate.version, candidate.file, size, sha256))
    return tuple(wheels)


def local_path(location: str, folder: Path) -> Path | None:
    """The file that `location` names on this machine, or None; relative ones count from `folder`."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else folder / location


def _measured(path: Path, candidate: Candidate) -> tuple[str, int]:
    try:
        sha256, size = hash_file(path)
    except OSError as error:
        raise ResolveError(f"cannot read {candidate.file}: {error.strerror}", where=str(path)) from error
    if candidate.sha256 not in {None, sha256}:
        raise ResolveError(
            f"{candidate.file} is not what its index says: sha256 {sha256}, not {candidate.sha256}",
            where=str(path),
            mend="rebuild the index, or remove the file",
        )
    return sha256, size


def _fetched(candidate: Candidate, facts: BaseFacts, run: Runner, pip_env: Mapping[str, str]) -> tuple[str, int]:
    asked = pin(candidate.name, candidate.file, candidate.sha256)
    with tempfile.TemporaryDirectory(prefix="packager-measure-") as name:
        download([asked], Path(name), facts, run=run, env=pip_env)
        return _measured(Path(name) / candidate.file, candidate)


def _sizes_by_head(candidates: Sequence[Candidate]) -> dict[Candidate, int]:
    """What the servers say of each file's size; those that do not say are left out."""
    if not candidates:
        return {}
    import httpx

    from ..web import open_client

    def size(client: httpx.Client, candidate: Candidate) -> int | None:
        try:
            answer = client.head(candidate.location)
        except httpx.HTTPError:
            return None  # pip gets its turn, and says what is wrong
        length = answer.headers.get("content-length", "")
        return int(length) if answer.status_code == httpx.codes.OK and length.isdigit() else None

    # identity: the length of the file, not of a compressed transfer of it
    with (
        open_client(headers={"accept-encoding": "identity"}, follow_redirects=True, timeout=_SECONDS) as client,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        found = pool.map(lambda candidate: size(client, candidate), candidates)
        return {candidate: length for candidate, length in zip(candidates, found, strict=True) if length}
