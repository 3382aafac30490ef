import re

import pytest
from fakes.debs import FakeApt, describe

from packager.command import Completed
from packager.debian import fetch_packages
from packager.errors import FetchError, IntegrityError, OutputError
from packager.store import Store

ARCHIVES = {f"pkg{index}=1.0-1": b"archive %d" % index for index in range(20)}
PACKAGES = [describe(key.partition("=")[0], data) for key, data in ARCHIVES.items()]


def fetch(tmp_path, apt, packages=PACKAGES, *, offline=False):
    seen = []
    found = fetch_packages(
        packages,
        Store(tmp_path / "store"),
        mirror=None,
        run=apt,
        offline=offline,
        on_bytes=seen.append,
    )
    assert sum(seen) == sum(package.size for package in packages)
    return found


def test_packages_land_in_the_store_once(tmp_path):
    apt = FakeApt(ARCHIVES)
    found = fetch(tmp_path, apt)
    assert {path.read_bytes() for path in found.values()} == set(ARCHIVES.values())
    assert set(found) == {package.sha256 for package in PACKAGES}
    again = FakeApt()
    assert fetch(tmp_path, again, offline=True) == found
    assert again.calls == []


def test_offline_names_what_is_missing(tmp_path):
    fetch(tmp_path, FakeApt(ARCHIVES), PACKAGES[:18])
    apt = FakeApt(ARCHIVES)
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path, apt, offline=True)
    assert [problem.where for problem in caught.value.problems] == [package.file for package in PACKAGES[18:]]
    assert caught.value.problems[0].what == "this Debian package is not in the local store"
    assert apt.calls == []


def test_only_what_is_gone_is_reported(tmp_path):
    left = {key: data for key, data in ARCHIVES.items() if key not in {"pkg3=1.0-1", "pkg4=1.0-1"}}
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path, FakeApt(left))
    problems = caught.value.problems
    assert [problem.where for problem in problems] == ["pkg3_1.0-1_amd64.deb", "pkg4_1.0-1_amd64.deb"]
    assert problems[0].what.startswith("the Debian mirror has no pkg3 1.0-1: Version '1.0-1' for 'pkg")
    assert "packager lock" in problems[0].mend
    fetch(tmp_path, FakeApt(), [package for package in PACKAGES if package.name not in {"pkg3", "pkg4"}], offline=True)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            "Unable to connect to a:80:",
            r"no Debian mirror can be reached for 20 locked packages: .* to connect to a:80:$",
        ),
        ("404  Not Found [IP: 10.0.0.1 80]", r"the Debian mirror has no pkg0 1\.0-1: Version"),
    ],
)
def test_a_mirror_out_of_reach_is_said_once(tmp_path, said, what):
    update = Completed(
        0, "", f"W: Failed to fetch http://a/InRelease  {said}\nW: Some index files failed to download.\n"
    )
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path, FakeApt(refresh=update))
    assert re.match(what, caught.value.problems[0].what)
    assert len(caught.value.problems) == (1 if "connect" in said else len(PACKAGES))


def test_other_bytes_are_refused(tmp_path):
    with pytest.raises(IntegrityError):
        fetch(tmp_path, FakeApt({**ARCHIVES, "pkg3=1.0-1": b"archive X"}))


def test_a_cut_download_is_not_taken_for_the_archive(tmp_path):
    with pytest.raises(FetchError):
        fetch(tmp_path, FakeApt({**ARCHIVES, "pkg3=1.0-1": b"arch"}))


def test_lists_from_an_earlier_run_spare_the_update(tmp_path):
    apt = FakeApt(ARCHIVES)
    fetch(tmp_path, apt, PACKAGES[:2])
    assert any("update" in call for call in apt.calls)
    root = next((tmp_path / "store" / "apt").iterdir())
    (root / "lists" / "mirror_Packages").touch()
    apt = FakeApt(ARCHIVES)
    fetch(tmp_path, apt, PACKAGES[2:4])
    assert not any("update" in call for call in apt.calls)


def test_no_apt(tmp_path):
    with pytest.raises(FetchError, match="this machine has no apt"):
        fetch(tmp_path, FakeApt(missing=True))


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tmp").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="Debian packages cannot be written here") as caught:
        fetch(tmp_path, FakeApt(ARCHIVES))
    assert caught.value.problems[0].where == str(tmp_path / "store")


def test_an_interrupted_fetch_leaves_nothing_behind(tmp_path):
    class Interrupted(FakeApt):
        def __call__(self, argv, *, env=None, cwd=None):
            if "download" in argv and "pkg9=1.0-1" in argv:
                raise KeyboardInterrupt
            return super().__call__(argv, env=env, cwd=cwd)

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, Interrupted(ARCHIVES))
    root = next((tmp_path / "store" / "apt").iterdir())
    assert not list(root.glob("download.*"))
    fetch(tmp_path, FakeApt(ARCHIVES))
