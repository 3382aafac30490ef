"""What a conversion looks at before it begins; what it does is in tests/cli/test_cli_convert.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from packager.convert.plan import Build, ConvertPlan, Needs
from packager.convert.run import check_output
from packager.convert.source import Found
from packager.errors import OutputError
from packager.lock.model import ModelFacts
from packager.weights.compiled import Limits


def plan(output: Path, disk: int) -> ConvertPlan:
    model = Found("hf://ada/model", "", (), ModelFacts(), "")
    build = Build(1, 1, Limits(1, 1, 1, 1, 1), None, None, None, own_code=False)
    needs = Needs(disk, 0, 0)
    return ConvertPlan("x", "1.2.1", "image", "a100-40gb", "8.0", 1, model, None, build, needs, output, True, None)


def test_a_disk_that_is_too_small(tmp_path):
    asked = plan(tmp_path / "not/there/yet", 10**18)
    with pytest.raises(OutputError) as caught:
        check_output(asked)
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path)
    assert problem.what.startswith("the disk has ")
    assert problem.what.endswith(" GB free, and the conversion takes up to 1,000,000,000.0 GB")
    check_output(replace(asked, needs=Needs(1, 0, 0)))


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="a file stands where the output goes"):
        check_output(plan(tmp_path / "out", 1))
