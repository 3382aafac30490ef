"""Which wheel an image takes: the tags of its interpreter and platform, never the host's.

Platform compatibility tags: https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/
"""

from collections.abc import Iterable, Sequence

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from ..errors import ResolveError
from ..facts import BaseFacts

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
# uv takes only these names for `--python-platform`; a base with a newer glibc still runs what the last one covers.
_UV_GLIBC = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)


def describe(facts: BaseFacts) -> str:
    """The interpreter and platform of the image, for people."""
    return f"CPython {facts.python} on Linux {facts.architecture} with glibc {facts.glibc}"


def machine(facts: BaseFacts) -> str:
    """The architecture as wheel names spell it (`x86_64` for `amd64`). Raises ResolveError for others."""
    if facts.architecture not in _MACHINES:
        raise ResolveError(
            f"there are no wheels for the architecture {facts.architecture}",
            mend=f"use a base for one of: {', '.join(sorted(_MACHINES))}",
        )
    return _MACHINES[facts.architecture]


def uv_platform(facts: BaseFacts) -> str:
    """The `--python-platform` of uv that covers the image: `x86_64-manylinux_2_36`."""
    return f"{machine(facts)}-{best_platform(facts).removesuffix('_' + machine(facts))}"


def best_platform(facts: BaseFacts) -> str:
    """The first platform tag that uv looks for: `manylinux_2_36_x86_64`."""
    minor = _glibc_minor(facts)
    known = [name for name in _UV_GLIBC if name <= minor]
    if not known:
        raise ResolveError(
            f"the base has glibc {facts.glibc}; wheels need 2.{_UV_GLIBC[0]} or newer",
            mend="use a newer base",
        )
    return f"manylinux_2_{known[-1]}_{machine(facts)}"


def platforms(facts: BaseFacts) -> tuple[str, ...]:
    """Every platform tag the image accepts, best first: `manylinux_2_36_x86_64` ... `linux_x86_64`."""
    arch = machine(facts)
    names: list[str] = []
    for minor in range(_glibc_minor(facts), _OLDEST_GLIBC[arch] - 1, -1):
        names.append(f"manylinux_2_{minor}_{arch}")
        if minor in _OLD_NAMES:
            names.append(f"{_OLD_NAMES[minor]}_{arch}")
    return (*names, f"linux_{arch}")


def image_tags(facts: BaseFacts) -> dict[Tag, int]:
    """Every tag the image accepts and its rank: 0 is the best, as pip orders them."""
    major, minor = (int(part) for part in facts.python_minor.split("."))
    version, interpreter, accepted = (major, minor), f"cp{major}{minor}", platforms(facts)
    ordered = [
        *cpython_tags(version, abis=[interpreter], platforms=accepted),
        *compatible_tags(version, interpreter, platforms=accepted),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(ordered)))}


def best_wheel(files: Iterable[str], tags: dict[Tag, int]) -> str | None:
    """The one file name an installer would choose, or None when none fits.

    Lowest tag rank first, then the highest build number, then the first by name.
    """
    ranked: list[tuple[int, tuple[int, str], str]] = []
    for file in sorted(files):
        try:
            _, _, build, offered = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue  # an installer skips these too
        ranks = [tags[tag] for tag in offered if tag in tags]
        if ranks:
            ranked.append((-min(ranks), build or (-1, ""), file))
    return max(ranked, key=lambda one: one[:2])[2] if ranked else None


def offered_platforms(files: Sequence[str]) -> list[str]:
    """The tags of these wheels, for the error that says none fits."""
    return sorted({"-".join(file.removesuffix(".whl").split("-")[-3:]) for file in files})


def _glibc_minor(facts: BaseFacts) -> int:
    major, _, minor = facts.glibc.partition(".")
    if major != "2" or not minor.split(".")[0].isdigit():
        raise ResolveError(
            f"the base's C library is not a glibc that wheels know: {facts.glibc or 'none found'}",
            mend="use a base on glibc (Debian, Ubuntu, Red Hat); musl bases such as Alpine are not supported",
        )
    return int(minor.split(".")[0])
