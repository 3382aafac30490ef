"""What a build does whoever calls it; what it makes is seen in tests/golden and tests/integration."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.command import run_command
from packager.lock.tools import Tools
from packager.pipeline import BuildOptions, build, preview
from packager.store import Store
from packager.weights.leases import Lease, living

ECHO = Path(__file__).resolve().parents[2] / "examples/echo/packager.yaml"


class Enough(Exception):  # noqa: N818
    """The build has begun; what follows is of no interest here."""


@pytest.mark.parametrize("call", [build, preview])
def test_a_build_holds_the_whole_store_also_from_python(tmp_path: Path, call: Callable[..., object]) -> None:
    (tmp_path / "spec").mkdir()
    shutil.copyfile(ECHO, tmp_path / "spec/packager.yaml")
    store, held = Store(tmp_path / "store"), list[Lease]()

    def stage(_: str) -> None:
        held.extend(living(store))
        raise Enough

    with pytest.raises(Enough):
        call(tmp_path / "spec", BuildOptions(output=tmp_path / "dist"), Tools(store, run=run_command, stage=stage))
    assert [(one.holder, one.files) for one in held] == [("packager build", None)]
    assert living(store) == ()
