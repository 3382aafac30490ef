"""Where weights are read in place of their address: what `PACKAGER_WEIGHTS_MIRRORS` says.

A mirror needs no trust: the lock says which bytes are accepted, wherever they come from. It keeps the original
address, so that a package is the same whoever built it behind which mirror.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..environ import WEIGHTS_MIRRORS
from ..errors import LoadError
from .schemes import SCHEMES, open_source
from .source import Source


def open_locked(source: str, revision: str = "", *, folder: Path | None = None) -> Source:
    """The source behind a spec's or a lock's address at `revision`, or the mirror that stands in for it.

    A relative `file://` path starts at `folder`. Nothing is asked yet. Raises LoadError for an address that this
    version does not read, and for mirrors that are none.
    """
    address, pinned = mirrored(source, revision, parse_mirrors(WEIGHTS_MIRRORS.get()))
    return open_source(address, revision=pinned, folder=folder)


def mirrored(source: str, revision: str, mirrors: Mapping[str, str]) -> tuple[str, str]:
    """Address and revision to read in place of `source` at `revision`: the longest prefix that fits is replaced.

    A prefix ends where a part of the address does. A revision is kept within its scheme alone: a copy of a hub's
    repository in a bucket or a folder has none.
    """
    whole = f"{source}/"
    fitting = [prefix for prefix in mirrors if whole.startswith(prefix)]
    if not fitting:
        return source, revision
    prefix = max(fitting, key=len)
    address = mirrors[prefix] + whole[len(prefix) :]
    # A hub's repository is a folder; of the web's addresses, a folder's ends in a slash.
    if _scheme(source) != "hf" or _scheme(address) not in ("http", "https"):
        address = address.removesuffix("/")
    return address, revision if _scheme(address) == _scheme(source) else ""


def parse_mirrors(text: str) -> Mapping[str, str]:
    """Prefix to prefix, both ending in `/`, as `PACKAGER_WEIGHTS_MIRRORS` has them. Raises LoadError."""
    mirrors: dict[str, str] = {}
    for number, pair in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        ends = [one if one.endswith("/") else f"{one}/" for one in pair.split("=")]
        why = _wrong(ends) or ("another pair has the same prefix" if ends[0] in mirrors else "")
        if why:
            # The pair itself is not shown: what is wrong with it may be a secret in it.
            mend = "write PREFIX=PREFIX, for example hf://OWNER=file:///mnt/mirror/OWNER, with commas between pairs"
            raise LoadError(f"pair {number} is no mirror: {why}", where=WEIGHTS_MIRRORS.name, mend=mend)
        mirrors[ends[0]] = ends[1]
    return mirrors


def _wrong(ends: Sequence[str]) -> str:
    """What is wrong with the two ends of a pair, or an empty string."""
    if len(ends) != 2:
        return "it has not one = in it"
    for end in ends:
        if _scheme(end) not in (*SCHEMES, "http"):  # which is for this machine alone, as https.py says
            return f"an address starts with one of {', '.join(f'{name}://' for name in SCHEMES)}"
        if any(mark in end for mark in "@?#"):
            return "a prefix has no user, no query and no fragment"
    if _scheme(ends[1]) == "file" and not ends[1].startswith("file:///"):
        return "a folder to read from has three slashes: file:///PATH"
    return ""


def _scheme(address: str) -> str:
    scheme, separator, _ = address.partition("://")
    return scheme if separator else ""
