from pathlib import Path

from packager.upload.plan import LocalFile, differences, make_plan
from packager.weights.source import SourceFile

A, B = LocalFile("a", Path("a"), 1, "a" * 64), LocalFile("b/c", Path("c"), 2, "b" * 64)


def test_only_what_is_known_to_be_the_same_stays_at_home() -> None:
    there = [SourceFile("a", 1, "a" * 64), SourceFile("b/c", 2), SourceFile("old", 3)]
    plan = make_plan("s3://there", (A, B), there)
    assert (plan.send, plan.present, plan.others) == ((B,), (A,), ("old",))
    assert plan.files == (A, B)


def test_what_no_spec_takes_is_not_told_of() -> None:
    there = [SourceFile(".gitattributes", 1), SourceFile("old", 3), SourceFile("x/.cache/y", 1)]
    assert make_plan("hf://there", (A,), there).others == ("old",)


def test_another_size_or_another_digest_is_sent() -> None:
    assert make_plan("x", (A,), [SourceFile("a", 2, "a" * 64)]).send == (A,)
    assert make_plan("x", (A,), [SourceFile("a", 1, "c" * 64)]).send == (A,)


def test_what_is_compared_afterwards() -> None:
    plan = make_plan("s3://there", (A, B), [SourceFile("a", 1, "a" * 64)])
    assert not differences(plan, [SourceFile("a", 1, "a" * 64), SourceFile("b/c", 2), SourceFile("old", 3)])
    found = differences(plan, [SourceFile("a", 1, "c" * 64)])
    assert [problem.what for problem in found] == [
        "a has the sha256 cccccccccccc there, and aaaaaaaaaaaa here",
        "b/c is not there after the upload",
    ]
    assert "has 5 bytes there, and 2 here" in differences(plan, [SourceFile("a", 1), SourceFile("b/c", 5)])[0].what
    assert found[0].where == "s3://there"
