"""From package names to the exact Debian packages that a root file system needs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ..command import Completed, Runner
from ..errors import ResolveError
from .apt import DISTRIBUTIONS, Apt, complaints
from .disk import writing

DISTRIBUTION_PACKAGE = "base-files"
"""In every closure: it is what makes a root file system a Debian (os-release, licences, the folders)."""

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](?:=[A-Za-z0-9.+:~-]+)?")
_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")
_FILE = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_(?P<architecture>[^_]+)\.deb")
_POCKET = re.compile(r"-(?:backports|proposed|security|updates)$")


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """One exact package: what to ask any mirror for, and what the bytes must be.

    `file` is the archive's file name, `size` is bytes, `sha256` is hex.
    """

    name: str
    version: str
    architecture: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DebianRelease:
    """`debian` or `ubuntu`, the release's code name (`bookworm`), and Debian's word for the architecture (`amd64`)."""

    distribution: str
    suite: str
    architecture: str


def resolve_packages(
    packages: Sequence[str], *, architecture: str, state: Path, mirror: str | None, run: Runner
) -> tuple[DebianRelease, tuple[DebianPackage, ...]]:
    """Everything `packages` (`name` or `name=version`) need on top of nothing, sorted by name.

    Dependencies and `base-files`, no recommendations. `state` is a folder for a private apt; `mirror` is a base
    address to use instead of the machine's own sources. Raises ResolveError with what apt says when there is no answer.
    """
    _check_names(packages)
    apt = Apt(state, architecture, mirror, run)
    with writing(state), apt.exclusive():
        update = apt.update()
        if mirror is not None and update.returncode:
            raise ResolveError(
                f"the Debian mirror does not serve this release: {complaints(update)}",
                where=mirror,
                mend="it must serve the release, its -updates and its -security; "
                "else leave it out and describe the mirror in apt's own sources",
            )
        release = _release(apt, update)
        wanted = sorted({DISTRIBUTION_PACKAGE, *packages})
        done = apt.call("-q", "--print-uris", "--yes", "install", "--", *wanted)
    where = f"{release.distribution} {release.suite} ({architecture})"
    if done.returncode:
        raise ResolveError(
            f"apt cannot install {', '.join(packages)}: {complaints(done, update)}",
            where=where,
            mend="correct `image.system_packages`; `apt-cache policy NAME` shows what this machine's sources offer",
        )
    closure = _read_uris(done.stdout, where)
    _check_answer(packages, closure, where)
    return release, closure


def _check_names(packages: Sequence[str]) -> None:
    for name in packages:
        # apt would read `name-` as a removal and other punctuation as a pattern.
        if not _NAME.fullmatch(name):
            raise ResolveError(
                f"{name!r} is not the name of a Debian package",
                where="image.system_packages",
                mend="write names such as libnuma1, or libnuma1=2.0.16-1 for one version",
            )


def _release(apt: Apt, update: Completed) -> DebianRelease:
    done = apt.call("indextargets", "--format", "$(ORIGIN)|$(CODENAME)", "Created-By: Packages")
    for line in done.stdout.splitlines():
        origin, _, codename = line.partition("|")
        if origin.lower() in DISTRIBUTIONS and codename:
            return DebianRelease(origin.lower(), _POCKET.sub("", codename), apt.architecture)
    raise ResolveError(
        f"no package lists of Debian or Ubuntu could be read: {complaints(update, done)}",
        where=apt.mirror or "apt's configured sources",
        mend="check that `apt-get update` works on this machine, or set PACKAGER_DEBIAN_MIRROR",
    )


def _read_uris(text: str, where: str) -> tuple[DebianPackage, ...]:
    found = []
    for line in text.splitlines():
        if not line.startswith("'"):
            continue
        match = _LINE.fullmatch(line.strip())
        file = match and _FILE.fullmatch(match["file"])
        if not match or not file:
            raise ResolveError(
                f"apt describes a package without its sha256: {line.strip()}",
                where=where,
                mend="use a mirror whose lists carry SHA256 sums",
            )
        version = unquote(file["version"])
        size = int(match["size"])
        found.append(DebianPackage(file["name"], version, file["architecture"], match["file"], size, match["sha256"]))
    return tuple(sorted(found, key=lambda package: (package.name, package.architecture)))


def _check_answer(packages: Sequence[str], closure: Sequence[DebianPackage], where: str) -> None:
    # apt takes an unknown name for a pattern or a virtual package, and quietly installs something else.
    names = {package.name for package in closure}
    for name in packages:
        if name.partition("=")[0] not in names:
            raise ResolveError(
                f"there is no package {name!r}; apt offers others in its place",
                where=where,
                mend="name the real package in `image.system_packages`",
            )
