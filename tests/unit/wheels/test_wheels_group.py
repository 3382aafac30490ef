import itertools

import pytest

from packager.errors import ImageError
from packager.wheels.contest import Contest
from packager.wheels.group import WheelGroup, group_wheels
from packager.wheels.resolve import Wheel

MB = 1_000_000


def wheel(name: str, size: int = 1 * MB, version: str = "1.0") -> Wheel:
    return Wheel(name, version, f"{name}-{version}-py3-none-any.whl", size, "0" * 64)


def titles(groups: tuple[WheelGroup, ...]) -> list[str]:
    return [group.title for group in groups]


SMALL = [wheel(f"small-{number}") for number in range(40)]


def test_large_wheels_are_alone_and_ordered_by_sharing() -> None:
    large = ["aaa-kernels", "torch", "vllm", "nvidia-cublas", "triton", "nvidia-cudnn"]
    groups = group_wheels([*(wheel(name, 24 * MB) for name in large), *SMALL], engine="vllm")
    assert titles(groups)[:6] == ["nvidia-cublas", "nvidia-cudnn", "torch", "triton", "vllm", "aaa-kernels"]
    assert titles(groups)[6:] == [f"wheels {number} of 6" for number in range(1, 7)]
    assert sorted(w.name for group in groups[6:] for w in group.wheels) == sorted(w.name for w in SMALL)


def test_order_of_the_input_does_not_matter() -> None:
    some = [*SMALL[:5], wheel("torch", 30 * MB)]
    assert len({group_wheels(order) for order in itertools.islice(itertools.permutations(some), 0, 720, 37)}) == 1


def test_one_changed_wheel_changes_one_group() -> None:
    before = group_wheels(SMALL)
    after = group_wheels([wheel("small-7", version="2.0") if w.name == "small-7" else w for w in SMALL])
    assert titles(before) == titles(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    added = group_wheels([*SMALL, wheel("aaa")])
    assert sum(a != b for a, b in zip(before, added, strict=True)) == 1


def test_buckets_of_nothing_are_no_layers() -> None:
    assert group_wheels([]) == ()
    assert len(group_wheels([wheel("only")])) == 1


def test_losers_lie_below_winners_even_against_the_order_of_sharing() -> None:
    wheels = [wheel("nvidia-zz", 30 * MB), wheel("a-loser", 30 * MB), wheel("torch", 30 * MB), *SMALL]
    groups = group_wheels(wheels, [Contest("p", "nvidia-zz", ("a-loser",))])
    order = titles(groups)
    assert order.index("a-loser") < order.index("nvidia-zz")
    assert groups[order.index("nvidia-zz")].contests == ()


def test_small_wheels_that_contest_across_layers_are_alone() -> None:
    by_bucket: dict[str, list[str]] = {}
    for group in group_wheels(SMALL):
        by_bucket[group.title] = [w.name for w in group.wheels]
    (a, b, c, *_), (d, *_), *_ = by_bucket.values()
    # a and b share a bucket, d has another: a-b alone may stay, but b-d pulls all three out
    loser, winner = sorted([a, b])
    inside = group_wheels(SMALL, [Contest("p", winner, (loser,))])
    assert inside[0].contests == (Contest("p", winner, (loser,)),)
    names = [w.name for w in inside[0].wheels]
    assert names.index(loser) < names.index(winner)
    last, first = max(b, d), min(b, d)
    across = group_wheels(SMALL, [Contest("p", winner, (loser,)), Contest("q", last, (first,))])
    assert {a, b, d} <= set(titles(across))
    assert c not in titles(across)
    assert all(group.contests == () for group in across)


def test_more_large_wheels_than_layers() -> None:
    wheels = [wheel(f"large-{number:03}", (30 + number) * MB) for number in range(100)]
    groups = group_wheels([*wheels, *SMALL])
    assert len(groups) == 60
    alone = titles(groups)[:54]
    assert alone == [f"large-{number:03}" for number in range(46, 100)]
    torn = [Contest(f"p{n}", f"large-{n + 1:03}", (f"large-{n:03}",)) for n in range(0, 100, 2)]
    with pytest.raises(ImageError, match="100 wheels contest"):
        group_wheels(wheels, torn)
