import platform
from pathlib import Path

import pytest
from fakes.debs import RELEASE, FakeApt

from packager.command import Completed
from packager.debian import DebianPackage, resolve_packages
from packager.debian.apt import Apt
from packager.errors import ResolveError

SHA = "ab" * 32
URIS = (
    f"'http://mirror/pool/z/zlib1g_1%3a1.2_amd64.deb' zlib1g_1%3a1.2_amd64.deb 30 SHA256:{SHA}\n"
    f"'http://mirror/pool/b/base-files_12_amd64.deb' base-files_12_amd64.deb 10 SHA256:{SHA}\n"
)


def resolve(tmp_path, apt, packages=("zlib1g",), mirror=None):
    return resolve_packages(packages, architecture="amd64", state=tmp_path / "apt", mirror=mirror, run=apt)


def test_the_closure_is_read_and_sorted(tmp_path):
    apt = FakeApt(install=Completed(0, URIS, ""))
    release, packages = resolve(tmp_path, apt)
    assert release == RELEASE
    assert packages == (
        DebianPackage("base-files", "12", "amd64", "base-files_12_amd64.deb", 10, SHA),
        DebianPackage("zlib1g", "1:1.2", "amd64", "zlib1g_1%3a1.2_amd64.deb", 30, SHA),
    )
    assert apt.calls[-1][-3:] == ["--", "base-files", "zlib1g"]


def test_apt_is_private_and_has_nothing_installed(tmp_path):
    apt = FakeApt(install=Completed(0, URIS, ""))
    resolve(tmp_path, apt)
    root = next((tmp_path / "apt").iterdir())
    assert (root / "status").read_bytes() == b""
    for call in apt.calls:
        assert call[0] == "apt-get"
        for setting in (f"Dir::State={root}", f"Dir::Cache={root}/cache", f"Dir::State::status={root}/status"):
            assert setting in call
        assert not any("SourceList" in word for word in call)


def test_the_state_of_architectures_and_mirrors_is_apart(tmp_path):
    apt = FakeApt(install=Completed(0, URIS, ""))
    resolve(tmp_path, apt)
    resolve_packages(["zlib1g"], architecture="arm64", state=tmp_path / "apt", mirror=None, run=apt)
    assert len(list((tmp_path / "apt").iterdir())) == 2


def test_a_machine_without_apt(tmp_path):
    with pytest.raises(ResolveError) as caught:
        resolve(tmp_path, FakeApt(missing=True))
    problem = caught.value.problems[0]
    assert problem.what == "this machine has no apt, which resolves and fetches Debian packages"
    assert problem.where == "apt-get"
    assert problem.mend == ("lock and build on Debian or Ubuntu, or use a base image from a registry (`image.base`)")


@pytest.mark.parametrize("name", ["", "-y", "libfoo-", "a b", "lib*", "x;y", "Foo", "x/stable", "libfoo=1 2"])
def test_what_is_no_name_is_refused(tmp_path, name):
    apt = FakeApt()
    with pytest.raises(ResolveError, match="not the name of a Debian package"):
        resolve(tmp_path, apt, [name])
    assert apt.calls == []


def test_apts_reason_is_told(tmp_path):
    apt = FakeApt(install=Completed(100, "", "E: Unable to locate package nosuch\n"))
    with pytest.raises(ResolveError) as caught:
        resolve(tmp_path, apt, ["nosuch"])
    problem = caught.value.problems[0]
    assert problem.what == "apt cannot install nosuch: Unable to locate package nosuch"
    assert problem.where == "debian bookworm (amd64)"


def test_an_unreachable_mirror_is_told_with_the_failure_it_causes(tmp_path):
    apt = FakeApt(
        refresh=Completed(0, "", "W: Failed to fetch lists\n"), lists="", install=Completed(100, "", "E: nothing\n")
    )
    with pytest.raises(ResolveError, match="Failed to fetch lists"):
        resolve(tmp_path, apt)


def test_a_stand_in_for_the_wanted_package_is_refused(tmp_path):
    with pytest.raises(ResolveError, match="there is no package 'awk'"):
        resolve(tmp_path, FakeApt(install=Completed(0, URIS, "")), ["awk"])


def test_a_package_without_sha256_is_refused(tmp_path):
    line = "'http://mirror/a_1_amd64.deb' a_1_amd64.deb 30 MD5Sum:00\n"
    with pytest.raises(ResolveError, match="without its sha256"):
        resolve(tmp_path, FakeApt(install=Completed(0, line, "")), ["a1"])


@pytest.mark.parametrize(
    "mirror", ["mirror.example.com", "http://a b", "ftp://x/debian", "http://x/\ndeb y", "http://x/[y]"]
)
def test_what_is_no_mirror_is_refused(tmp_path, mirror):
    with pytest.raises(ResolveError, match="not an address that apt can read"):
        resolve(tmp_path, FakeApt(), mirror=mirror)


def test_a_mirror_replaces_all_sources_and_must_answer(tmp_path):
    if platform.freedesktop_os_release().get("ID") not in {"debian", "ubuntu"}:
        pytest.skip("a mirror follows the machine's own release; this machine is no Debian or Ubuntu")
    apt = FakeApt(install=Completed(0, URIS, ""))
    resolve(tmp_path, apt, mirror="http://mirror.example.com/debian/")
    root = next((tmp_path / "apt").iterdir())
    lines = (root / "sources.list").read_text().splitlines()
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    assert [line.split("] ")[1].split()[1] for line in lines] == [suite, f"{suite}-updates", f"{suite}-security"]
    assert all(f"Dir::Etc::SourceList={root}/sources.list" in call for call in apt.calls)
    apt = FakeApt(refresh=Completed(100, "", "E: The repository has no Release file.\n"))
    with pytest.raises(ResolveError, match="does not serve this release: The repository has no Release file"):
        resolve(tmp_path, apt, mirror="http://mirror.example.com/debian")


def test_apt_is_not_started_where_its_lists_have_no_room():
    apt = FakeApt()
    with pytest.raises(OSError, match="apt's lists take 100 MB, and 0 MB are free"):
        Apt(Path("/proc"), "amd64", None, apt).update()  # a file system without a byte to give
    assert apt.calls == []
