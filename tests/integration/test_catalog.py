"""`make catalog` with stand-ins for wheels too: every example locked, packaged and imaged by the real commands.

Debian's packages are real; hub, vendors' registry and package index are on loopback.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes.catalog import read_examples
from fakes.cli import ROOT

pytestmark = [pytest.mark.network, pytest.mark.slow]

EXAMPLES = read_examples(ROOT / "examples")
BUILT = [one for one in EXAMPLES if one.refusal is None]


def catalog(
    work: Path, cache: Path, *argv: str | Path, env: Mapping[str, str] | None = None, umask: str = "022"
) -> "subprocess.CompletedProcess[str]":
    script = [
        sys.executable,
        ROOT / ".ci/catalog.py",
        "--stand-ins",
        "--jobs",
        os.cpu_count() or 1,
        "--work",
        work,
        *argv,
    ]
    return subprocess.run(
        ["sh", "-c", f'umask {umask}; exec "$0" "$@"', *map(str, script)],
        env={**os.environ, "PACKAGER_CACHE": str(cache), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> tuple[Path, str]:
    """The folder of a whole run, with `rows.json`, and what was printed."""
    work = tmp_path_factory.mktemp("catalog")
    done = catalog(work, shared_cache, "--json", work / "rows.json", env={"TZ": "UTC", "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    return work, done.stdout


def test_every_example_is_built_or_refused_in_its_words(first: tuple[Path, str]) -> None:
    rows = rows_of(first[0] / "rows.json")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        one.name: "built" if one.refusal is None else "refused" for one in EXAMPLES
    }
    for row in rows.values():
        assert bool(row["layers"]) == (row["outcome"] == "built")


def test_the_table_has_a_line_for_each(first: tuple[Path, str]) -> None:
    lines = [line.split(" | ")[0].removeprefix("| ") for line in first[1].splitlines() if line.startswith("| ")]
    assert lines[2:] == [one.name for one in EXAMPLES]


def test_nothing_of_the_images_is_left(first: tuple[Path, str]) -> None:
    assert list(first[0].glob("*/dist")) == []
    assert list(first[0].rglob("*.oci")) == []


def test_another_folder_umask_and_time_zone_give_the_same_digests(
    first: tuple[Path, str], shared_cache: Path, tmp_path: Path
) -> None:
    """No digest of a layer is remembered: the second store has what was fetched, without its memos."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in shared_cache.iterdir():
        if path.name.startswith(("sha256", "apt", "debian")):
            (cache / path.name).symlink_to(path)
    work = tmp_path / "another-place"
    env = {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "4242"}
    done = catalog(work, cache, "--json", tmp_path / "rows.json", env=env, umask="077")
    assert done.returncode == 0, done.stderr
    digests = [
        {name: (row["package"], row["image"]) for name, row in rows_of(path).items()}
        for path in (first[0] / "rows.json", tmp_path / "rows.json")
    ]
    assert digests[0] == digests[1]


def test_images_of_one_engine_share_layers(first: tuple[Path, str]) -> None:
    """All have the runtime in common, and two of the same engine and base more: the base and wheels."""
    rows = [row for row in rows_of(first[0] / "rows.json").values() if row["outcome"] == "built"]
    assert all(row["shared_layers"] for row in rows[1:])


def example(folder: Path, spec: str, refusal: str | None = None) -> Path:
    """A catalog of one, called `one`."""
    (folder / "one").mkdir(parents=True)
    (folder / "one/packager.yaml").write_text(f"name: one\n{spec}")
    if refusal is not None:
        (folder / "one/refusal.txt").write_text(refusal)
    return folder


LLAMA = "engine: {kind: llama_cpp}\nweights: {source: file://gone.gguf}\n"


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (None, "`packager lock` exits with 1"),
        ("error: another reason\n", "refused otherwise than refusal.txt says"),
    ],
)
def test_a_row_that_is_not_as_it_should_be_fails(
    refusal: str | None, said: str, tmp_path: Path, shared_cache: Path
) -> None:
    examples = example(tmp_path / "examples", LLAMA, refusal)
    done = catalog(tmp_path / "work", shared_cache, "--examples", examples)
    assert done.returncode == 1
    assert said in done.stderr
    assert "gone.gguf" in done.stderr


def test_what_should_be_refused_and_is_not_fails(tmp_path: Path, shared_cache: Path) -> None:
    examples = example(tmp_path / "examples", "engine: {kind: echo}\n", "error: no echo here\n")
    done = catalog(tmp_path / "work", shared_cache, "--examples", examples)
    assert done.returncode == 1
    assert "it was locked" in done.stderr
