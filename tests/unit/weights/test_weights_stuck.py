"""Whoever brings something is not stuck, under whichever name its journal stands."""

from types import SimpleNamespace

import pytest

from packager.weights import stuck
from packager.weights.stuck import Stuck


@pytest.fixture
def now(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(stuck, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


@pytest.mark.parametrize("name", ["abc.journal", "abc.0123.journal"])
def test_a_journal_that_grows(tmp_path, now, name):
    (tmp_path / "abc.journal").write_bytes(b"head\n")
    (tmp_path / name).write_bytes(b"head\n")
    watched = Stuck(tmp_path / "abc.journal")
    assert watched.for_seconds() == 0
    now[0] += 7
    assert watched.for_seconds() == 7
    with (tmp_path / name).open("ab") as file:
        file.write(b"more\n")
    assert watched.for_seconds() == 0


def test_others_are_none_of_its_business(tmp_path, now):
    (tmp_path / "abc.journal").write_bytes(b"head\n")
    watched = Stuck(tmp_path / "abc.journal")
    assert watched.for_seconds() == 0
    now[0] += 7
    for name in ("abcd.journal", "abc.part", "ab.journal"):
        (tmp_path / name).write_bytes(b"head\n")
    assert watched.for_seconds() == 7


def test_where_there_is_none_nobody_is_waited_for(tmp_path, now):
    watched = Stuck(tmp_path / "gone" / "abc.journal")
    for _ in range(2):
        assert watched.for_seconds() == 0
        now[0] += 7
