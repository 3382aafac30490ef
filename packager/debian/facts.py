"""What a Debian base is like for the layers above it."""

import re
from collections.abc import Iterator, Sequence

from ..errors import ImageError
from ..facts import BaseFacts
from .entries import RootEntry
from .resolve import DebianPackage, DebianRelease

_DISTRIBUTIONS = "usr/lib/python3/dist-packages/"
_INFO = re.compile(r"(?P<name>[^/]+?)-(?P<version>[^/-]+)(?:-py3[^/]*)?\.(?:dist|egg)-info")
_UPSTREAM = re.compile(r"(?:\d+:)?(?P<version>[0-9]+(?:\.[0-9]+)*)")


def python_facts(
    packages: Sequence[DebianPackage], release: DebianRelease, entries: Sequence[RootEntry] = ()
) -> BaseFacts:
    """The facts of a base of `packages`; what Python distributions it brings is read from `entries`, if given.

    Raises ImageError when there is no python3 or no C library among the packages.
    """
    versions = {package.name: package.version for package in packages}
    where = f"{release.distribution} {release.suite}"
    minor = ".".join(_upstream(versions, "python3", where).split(".")[:2])
    return BaseFacts(
        architecture=release.architecture,
        interpreter=f"/usr/bin/python{minor}",
        # The interpreter is the package of that name; `python3` itself is a link with a version of its own.
        python=_upstream(versions, f"python{minor}", where),
        site=f"/usr/local/lib/python{minor}/dist-packages",
        scripts="/usr/local/bin",
        glibc=_upstream(versions, "libc6", where),
        installed=dict(sorted(_installed(entries))),
    )


def _upstream(versions: dict[str, str], name: str, where: str) -> str:
    """The upstream version of a package: no epoch, no Debian revision, no `+dfsg` or `~rc`."""
    match = _UPSTREAM.match(versions.get(name, ""))
    if match is None:
        raise ImageError(
            f"the Debian packages hold no {name}, and the image needs a Python",
            where=where,
            mend="add python3 to `image.system_packages`, or use a base image from a registry that has Python",
        )
    return match["version"]


def _installed(entries: Sequence[RootEntry]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if entry.path.startswith(_DISTRIBUTIONS):
            match = _INFO.fullmatch(entry.path.removeprefix(_DISTRIBUTIONS))
            if match:
                yield re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]
