"""CPU builds, by their versions: pip is really asked, about a folder of wheels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.wheels import make_wheel

from packager.command import Completed, run_command
from packager.facts import BaseFacts
from packager.wheels.builds import cpu_builds, is_cpu_build
from packager.wheels.wheel import Wheel

TAG = "cp311-cp311-manylinux_2_28_x86_64"


@pytest.mark.parametrize(
    ("version", "cpu"), [("2.13.0+cpu", True), ("2.13.0", False), ("2.13.0+cu130", False), ("2.13.0+cpu.cxx11", False)]
)
def test_the_label_says_it(version: str, cpu: bool) -> None:
    assert is_cpu_build(Wheel("torch", version, "x.whl", 1, "0" * 64)) is cpu


def test_those_that_fit_the_image_newest_first(links: Path, facts: BaseFacts) -> None:
    for version in ("2.9.0+cpu", "2.13.0+cpu", "2.14.0", "2.14.1+cu130", "2.10.0+cpu"):
        make_wheel(links, "torch", version, tag=TAG)
    make_wheel(links, "torch", "2.15.0+cpu", tag=TAG.replace("311", "312"))
    assert cpu_builds("torch", facts) == ("2.13.0+cpu", "2.10.0+cpu", "2.9.0+cpu")


def test_none(links: Path, facts: BaseFacts) -> None:
    make_wheel(links, "torch", "2.14.0", tag=TAG)
    assert cpu_builds("torch", facts) == cpu_builds("nowhere", facts) == ()


def test_a_pip_without_an_answer(clients: None, facts: BaseFacts) -> None:
    def old_pip(argv: Sequence[str], **more: Any) -> Completed:
        return Completed(1, "", "unknown command") if "index" in argv else run_command(argv, **more)

    assert cpu_builds("torch", facts, run=old_pip) == ()
