"""Broken inputs as checked-in projects: one folder a case, with the exact words that packager has for it.

`command.txt` holds the arguments (default: `schema --check CASE`); they are run in a folder that holds a copy of the
case, so paths in messages are relative. `pytest --update-golden` rewrites the expected files: read the diff.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from packager.cli.app import main

PROJECTS = Path(__file__).parents[1] / "projects"
ROOT = Path(__file__).parents[2]
CASES = sorted(path.parent.name for path in PROJECTS.glob("*/expected.txt"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def arguments(case: str) -> list[str]:
    command = PROJECTS / case / "command.txt"
    return shlex.split(command.read_text()) if command.exists() else ["schema", "--check", case]


@pytest.mark.parametrize("case", CASES)
def test_project(case, folder, capfd, update_golden):
    shutil.copytree(PROJECTS / case, folder / case, ignore=shutil.ignore_patterns("expected.txt", "command.txt"))
    status = main(arguments(case))
    said = capfd.readouterr()
    expected = PROJECTS / case / "expected.txt"
    if update_golden:
        expected.write_text(said.err)
    assert said.err == expected.read_text()
    assert (status, said.out) == (1, "")


def test_each_folder_is_a_case():
    assert sorted(path.name for path in PROJECTS.iterdir()) == CASES


def test_a_file_over_the_limit(folder, capfd):
    (folder / "packager.yaml").write_text("name: hello\n" + "# a comment that goes on and on\n" * 40_000)
    assert main(["schema", "--check", "."]) == 1
    assert capfd.readouterr().err == (
        "error: packager.yaml:1:1: the file is larger than 1024 KiB\n"
        "  mend: a spec is a few dozen lines: is this the right file?\n"
    )


def test_the_real_command_line_says_the_same(folder):
    shutil.copytree(PROJECTS / "two-problems", folder / "two-problems")
    found = subprocess.run(
        [sys.executable, "-m", "packager", "schema", "--check", "two-problems"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (PROJECTS / "two-problems" / "expected.txt").read_text()
