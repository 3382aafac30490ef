"""The closure of a served package, from the configured package index, for Debian 12's Python."""

import email
import zipfile
from pathlib import Path

import pytest

from packager.facts import BaseFacts
from packager.store import Store
from packager.wheels.contest import find_contests
from packager.wheels.fetch import fetch_wheels
from packager.wheels.group import group_wheels
from packager.wheels.read import read_wheel
from packager.wheels.resolve import resolve_image, resolve_universal

pytestmark = pytest.mark.network

REQUIREMENTS = ["bentoml>=1.4.39,<1.5", "xllamacpp"]
FACTS = BaseFacts(
    architecture="amd64",
    interpreter="/usr/bin/python3.11",
    python="3.11.2",
    site="/usr/local/lib/python3.11/dist-packages",
    scripts="/usr/local/bin",
    glibc="2.36",
    installed={},
)


def test_a_real_closure_is_resolved_fetched_and_read(shared_cache: Path) -> None:
    wheels = resolve_image(REQUIREMENTS, FACTS)
    assert wheels == resolve_image(REQUIREMENTS, FACTS)
    assert {"bentoml", "xllamacpp"} <= {wheel.name for wheel in wheels}
    assert [wheel.name for wheel in wheels] == sorted({wheel.name for wheel in wheels})
    paths = fetch_wheels(wheels, Store(shared_cache / "wheels"), facts=FACTS)
    installed = {}
    for wheel in wheels:
        path = paths[wheel.sha256]
        assert path.stat().st_size == wheel.size
        with zipfile.ZipFile(path) as archive:
            info = next(n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
            assert email.message_from_bytes(archive.read(info))["Version"] == wheel.version
        installed[wheel.name] = read_wheel(path, FACTS)
    everything = {file.path for files in installed.values() for file in files}
    assert {"usr/local/bin/bentoml", f"{FACTS.site[1:]}/bentoml/__init__.py"} <= everything
    for contest in find_contests(installed):
        assert contest.winner > max(contest.losers)
    groups = group_wheels(wheels, find_contests(installed))
    assert sorted(w.name for group in groups for w in group.wheels) == [wheel.name for wheel in wheels]


def test_what_a_base_has_is_not_resolved_again() -> None:
    with_base = resolve_image(["numpy"], FACTS)
    version = with_base[0].version
    base = BaseFacts(
        FACTS.architecture, FACTS.interpreter, FACTS.python, FACTS.site, FACTS.scripts, FACTS.glibc, {"numpy": version}
    )
    assert [wheel.name for wheel in with_base] == ["numpy"]
    assert resolve_image(["numpy"], base) == ()


def test_a_universal_set_names_no_host() -> None:
    text = resolve_universal(REQUIREMENTS, python="3.11")
    assert text == resolve_universal(REQUIREMENTS, python="3.11")
    assert "://" not in text
    assert "bentoml==1.4." in text
    assert " ; python_full_version" in text
    # wheels of other platforms and Pythons are in
    assert text.partition("\nxllamacpp==")[2].count("--hash=sha256:") > 1
