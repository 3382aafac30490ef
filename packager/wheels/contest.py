"""Paths that two wheels claim with different bytes, and which wheel gets them (pure).

pip and uv let the last writer win, in an order that nobody chose; here the winner is a rule and stands
in the lock. The rule: of two wheels the one whose name more of the contested paths bear (`cuda/bindings/...`
bears the name of cuda-bindings: an old cuda-python that still brings it must not replace it), else the
lexically last name. It ranks wheels once for all paths, so layers can always be ordered by it.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ImageError
from .archive import ZipMember
from .read import InstalledFile


@dataclass(frozen=True, slots=True)
class Contest:
    """One path (from the root, without a leading slash) that several wheels claim with different bytes."""

    path: str
    winner: str
    losers: tuple[str, ...]


def find_contests(installed: Mapping[str, Sequence[InstalledFile]]) -> tuple[Contest, ...]:
    """Every contested path, sorted; `installed` maps canonical names of wheels to what they install.

    Equal bytes (size and crc32) and equal modes are no contest, whoever writes them. Raises ImageError
    where one wheel has a file and another a folder.
    """
    claims: dict[str, dict[str, InstalledFile]] = {}
    for name, files in installed.items():
        for file in files:
            claims.setdefault(file.path, {})[name] = file
    _refuse_folders(claims)
    contested = {
        path: sorted(claims[path])
        for path in sorted(claims, key=str.encode)
        if len(claims[path]) > 1 and len({_identity(file) for file in claims[path].values()}) > 1
    }
    borne = Counter(name for path, names in contested.items() for name in names if _bears(path, name))
    contests = []
    for path, names in contested.items():
        winner = max(names, key=lambda name: (borne[name], name))
        contests.append(Contest(path, winner, tuple(name for name in names if name != winner)))
    return tuple(contests)


def order_layers(names: Sequence[str], contests: Iterable[Contest]) -> tuple[str, ...]:
    """`names` reordered so that every winner comes after (lies above) its losers; else in the order given.

    Raises ImageError when the contests contradict each other, which `find_contests` cannot give.
    """
    below: dict[str, set[str]] = {name: set() for name in names}
    for contest in contests:
        if contest.winner in below:
            below[contest.winner].update(loser for loser in contest.losers if loser in below)
    ordered: dict[str, None] = {}
    while len(ordered) < len(below):
        ready = next((name for name in below if name not in ordered and below[name] <= ordered.keys()), None)
        if ready is None:
            stuck = ", ".join(sorted(below.keys() - ordered.keys()))
            raise ImageError(f"no order of layers lets every winner lie above its losers: {stuck}")
        ordered[ready] = None
    return tuple(ordered)


def _bears(path: str, name: str) -> bool:
    """Whether folders of `path` spell the name: `.../cuda/bindings/x.so` and `.../cuda_bindings/x.so`, cuda-bindings."""
    return f"-{name}-" in f"-{path}".replace("/", "-").replace("_", "-")


def _identity(file: InstalledFile) -> tuple[int, int, int]:
    if isinstance(file.source, ZipMember):
        return file.mode, file.source.size, file.source.crc32
    return file.mode, len(file.source), zlib.crc32(file.source)


def _refuse_folders(claims: Mapping[str, Mapping[str, InstalledFile]]) -> None:
    checked: set[str] = set()
    for path, claimed in claims.items():
        parent = path.rpartition("/")[0]
        while parent and parent not in checked:
            checked.add(parent)
            if parent in claims:
                raise ImageError(
                    f"/{parent} is a file in {min(claims[parent])} and a folder in {min(claimed)}",
                    mend="leave one of the two out of the requirements, or pin versions that agree",
                )
            parent = parent.rpartition("/")[0]
