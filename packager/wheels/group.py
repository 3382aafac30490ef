"""Which wheels share a layer, and in which order the layers lie (pure).

By size in the lock and by name, never by what a tree measures: so one changed wheel rewrites one
layer and moves no other. Order by sharing, widest at the bottom.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ImageError
from .contest import Contest, order_layers
from .wheel import Wheel

_MOST_GROUPS = 60
_TORCH = frozenset({"torch", "torchvision", "torchaudio", "triton"})


@dataclass(frozen=True, slots=True)
class WheelGroup:
    """The wheels of one layer, in the order they are written: a later one's files replace an earlier one's.

    `title` names the layer; `contests` are the paths contested inside it, where entries of the winner replace the
    losers'. (Contests between layers need no such care: the winner's layer lies above.)
    """

    title: str
    wheels: tuple[Wheel, ...]
    contests: tuple[Contest, ...] = ()


def group_wheels(
    wheels: Sequence[Wheel],
    contests: Sequence[Contest] = (),
    *,
    engine: str = "",
    solo_bytes: int = 24_000_000,
    buckets: int = 6,
) -> tuple[WheelGroup, ...]:
    """The layers of these wheels, lowest first.

    Wheels of `solo_bytes` and more are alone; the others share `buckets` layers by the hash of their name.
    Order: CUDA libraries, torch and triton, the wheel named `engine`, other large wheels, buckets; but
    always losers of a contest below the winner: wheels that contest across layers are alone too.
    Where that makes more than 60, the smallest of the large go to the buckets.
    Raises ImageError when contests alone make more.
    """
    by_name = {wheel.name: wheel for wheel in wheels}
    torn = _torn_apart(by_name, contests, solo_bytes, buckets)
    alone = {name for name, wheel in by_name.items() if wheel.size >= solo_bytes or name in torn}
    excess = len(alone) - (_MOST_GROUPS - buckets)
    movable = sorted(alone - torn, key=lambda name: (by_name[name].size, name))
    if excess > len(movable):
        raise ImageError(
            f"{len(torn)} wheels contest each other's files; an image has room for {_MOST_GROUPS} layers of wheels",
            mend="leave some of them out of the requirements",
        )
    if excess > 0:
        alone -= set(movable[:excess])
    ranked = sorted(alone, key=lambda name: (_rank(name, engine), name))
    groups = [WheelGroup(name, (by_name[name],)) for name in order_layers(ranked, contests)]
    for number in range(buckets):
        inside = [name for name in sorted(by_name.keys() - alone) if _bucket(name, buckets) == number]
        if inside:
            own = tuple(c for c in contests if c.winner in inside)
            members = tuple(by_name[name] for name in order_layers(inside, own))
            groups.append(WheelGroup(f"wheels {number + 1} of {buckets}", members, own))
    return tuple(groups)


def _torn_apart(
    by_name: dict[str, Wheel], contests: Sequence[Contest], solo_bytes: int, buckets: int
) -> frozenset[str]:
    """Wheels that must be alone: they contest, directly or through others, with a wheel of another layer."""
    circles: list[set[str]] = []
    for contest in contests:
        circle = {contest.winner, *contest.losers} & by_name.keys()
        touching = [other for other in circles if other & circle]
        circles = [other for other in circles if not other & circle]
        circles.append(circle.union(*touching))
    places = {
        name: name if wheel.size >= solo_bytes else str(_bucket(name, buckets)) for name, wheel in by_name.items()
    }
    return frozenset(name for circle in circles if len({places[name] for name in circle}) > 1 for name in circle)


def _bucket(name: str, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % buckets


def _rank(name: str, engine: str) -> int:
    if name.startswith("nvidia-"):
        return 0
    if name in _TORCH:
        return 1
    return 2 if name == engine else 3
