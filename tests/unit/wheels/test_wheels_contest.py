import itertools
from pathlib import Path

import pytest
from fakes.wheels import Entry, make_wheel

from packager.errors import ImageError
from packager.facts import BaseFacts
from packager.wheels.contest import Contest, find_contests, order_layers
from packager.wheels.read import InstalledFile, read_wheel


def test_different_bytes_on_one_path_are_a_contest(tmp_path: Path, facts: BaseFacts) -> None:
    shared = {"ns/__init__.py": b"", "ns/same.py": b"same = 1\n"}
    trees = {
        "cuda-python": {**shared, "ns/driver.py": b"old = 1\n"},
        "cuda-bindings": {**shared, "ns/driver.py": b"new = 1\n"},
        "another": {**shared, "ns/driver.py": b"new = 1\n"},
    }
    installed = {
        name: read_wheel(make_wheel(tmp_path, name, "1.0", dict(files)), facts) for name, files in trees.items()
    }
    expected = (Contest(f"{facts.site[1:]}/ns/driver.py", "cuda-python", ("another", "cuda-bindings")),)
    for order in itertools.permutations(installed):
        assert find_contests({name: installed[name] for name in order}) == expected


def test_the_wheel_whose_name_the_paths_bear_wins(tmp_path: Path, facts: BaseFacts) -> None:
    """As in vLLM's closure: an old cuda-python still brings what is cuda-bindings' today."""
    old = {"cuda/bindings/driver.py": b"12", "cuda/bindings/nvrtc.py": b"12", "notes.txt": b"old"}
    new = {"cuda/bindings/driver.py": b"13", "cuda/bindings/nvrtc.py": b"13", "notes.txt": b"new"}
    installed = {
        "cuda-python": read_wheel(make_wheel(tmp_path, "cuda-python", files=old), facts),
        "cuda-bindings": read_wheel(make_wheel(tmp_path, "cuda-bindings", files=new), facts),
    }
    contests = find_contests(installed)
    # One rank for all paths: the path that bears no name goes with the others, and layers can be ordered.
    assert {contest.winner for contest in contests} == {"cuda-bindings"}
    assert len(contests) == 3
    assert order_layers(["cuda-bindings", "cuda-python"], contests) == ("cuda-python", "cuda-bindings")


def test_the_same_bytes_are_none_however_they_are_packed(tmp_path: Path, facts: BaseFacts) -> None:
    stored = make_wheel(tmp_path, "a", "1.0", {"x.py": Entry(b"x" * 99, method=0)})
    deflated = make_wheel(tmp_path, "b", "1.0", {"x.py": b"x" * 99})
    made = (InstalledFile(f"{facts.site[1:]}/x.py", 0o644, b"x" * 99),)
    installed = {"a": read_wheel(stored, facts), "b": read_wheel(deflated, facts), "c": made}
    assert find_contests(installed) == ()
    changed = {"c": (InstalledFile(f"{facts.site[1:]}/x.py", 0o755, b"x" * 99),)}
    assert [contest.winner for contest in find_contests(installed | changed)] == ["c"]


def test_a_file_and_a_folder_at_one_path_are_refused() -> None:
    installed = {
        "a": (InstalledFile("usr/lib/x", 0o644, b""),),
        "b": (InstalledFile("usr/lib/x/y/z", 0o644, b""),),
    }
    with pytest.raises(ImageError, match="/usr/lib/x is a file in a and a folder in b"):
        find_contests(installed)


def test_winners_lie_above_losers_and_nothing_else_moves() -> None:
    contests = [Contest("p", "c", ("a", "d")), Contest("q", "d", ("e",)), Contest("r", "z", ("a",))]
    assert order_layers(["c", "b", "a", "d", "e"], contests) == ("b", "a", "e", "d", "c")
    assert order_layers(["c", "b"], contests) == ("c", "b")


def test_contests_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ImageError, match="a, b"):
        order_layers(["a", "b", "c"], [Contest("p", "a", ("b",)), Contest("q", "b", ("a",))])
