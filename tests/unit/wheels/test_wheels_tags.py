from dataclasses import replace

import pytest
from packaging.tags import Tag

from packager.errors import ResolveError
from packager.facts import BaseFacts
from packager.wheels.tags import best_wheel, image_tags, platforms, uv_platform

GLIBC_217 = "n-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
GLIBC_234 = "n-1-cp311-cp311-manylinux_2_34_x86_64.whl"
GLIBC_238 = "n-1-cp311-cp311-manylinux_2_38_x86_64.whl"
MUSL = "n-1-cp311-cp311-musllinux_1_1_x86_64.whl"
STABLE = "n-1-cp39-abi3-manylinux_2_17_x86_64.whl"
PURE = "n-1-py3-none-any.whl"


@pytest.mark.parametrize(
    ("files", "best"),
    [
        ([PURE, STABLE, GLIBC_217, GLIBC_234, GLIBC_238, MUSL], GLIBC_234),
        ([PURE, STABLE, GLIBC_217], GLIBC_217),
        ([PURE, STABLE], STABLE),
        ([PURE, MUSL, GLIBC_238], PURE),
        ([MUSL, GLIBC_238, "n-1-cp312-cp312-manylinux_2_17_x86_64.whl"], None),
        (["n-1-1-py3-none-any.whl", "n-1-2b-py3-none-any.whl", "n-1-2a-py3-none-any.whl"], "n-1-2b-py3-none-any.whl"),
        (["not a wheel.whl", "n-1.tar.gz"], None),
    ],
)
def test_the_best_wheel_is_the_one_an_installer_would_take(
    facts: BaseFacts, files: list[str], best: str | None
) -> None:
    assert best_wheel(files, image_tags(facts)) == best
    if best and "-2a-" not in "".join(files):
        assert best_wheel(list(reversed(files)), image_tags(facts)) == best


def test_highest_build_number_wins(facts: BaseFacts) -> None:
    files = ["n-1-2-py3-none-any.whl", "n-1-10-py3-none-any.whl", PURE]
    assert best_wheel(files, image_tags(facts)) == "n-1-10-py3-none-any.whl"


def test_tags_are_the_images_not_the_hosts(facts: BaseFacts) -> None:
    arm = replace(facts, architecture="arm64", python="3.13.1", glibc="2.41")
    tags = image_tags(arm)
    assert Tag("cp313", "cp313", "manylinux_2_41_aarch64") in tags
    assert not [tag for tag in tags if "x86_64" in tag.platform or tag.interpreter == "cp314"]
    assert uv_platform(arm) == "aarch64-manylinux_2_40"
    assert platforms(arm)[-1] == "linux_aarch64"
    assert "manylinux2010_aarch64" not in platforms(arm)


def test_legacy_names_follow_their_glibc(facts: BaseFacts) -> None:
    names = platforms(replace(facts, glibc="2.17"))
    assert names[:2] == ("manylinux_2_17_x86_64", "manylinux2014_x86_64")
    assert names[-2] == "manylinux1_x86_64"
    assert uv_platform(replace(facts, glibc="2.17")) == "x86_64-manylinux_2_17"


@pytest.mark.parametrize(
    "changed", [{"architecture": "s390x"}, {"glibc": ""}, {"glibc": "musl 1.2"}, {"glibc": "2.12"}]
)
def test_bases_without_wheels_are_refused(facts: BaseFacts, changed: dict[str, str]) -> None:
    with pytest.raises(ResolveError) as caught:
        uv_platform(replace(facts, **changed))
    assert caught.value.problems[0].mend
