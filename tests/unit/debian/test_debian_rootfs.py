import hashlib
import os
import time
from dataclasses import replace

import pytest
from fakes.debs import RELEASE, make_deb, make_elf, write_debs

from packager.debian import ROOTFS_FORMAT, build_rootfs
from packager.errors import ImageError

ADDUSER = "#!/bin/sh\nset -e\nadduser --system demo\n"


def f(path, content=b"x", mode=0o644):
    return (path, "file", content, mode)


def build(tmp_path, debs, **kwargs):
    packages = write_debs(tmp_path / "debs", debs)
    work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    return {entry.path: entry for entry in build_rootfs(packages, kwargs.get("release", RELEASE), work)}


DEMO = {
    "demo": make_deb(
        "demo",
        [
            f("./bin/demo", b"demo", 0o755),
            f("./lib/x86_64-linux-gnu/libdemo.so.1", make_elf("libdemo.so.1")),
            ("./lib/x86_64-linux-gnu/up", "symlink", "../../etc/demo", 0o777),
            ("./lib/x86_64-linux-gnu/libdemo.so", "symlink", "libdemo.so.1", 0o777),
            f("./var/run/demo/pid", b""),
            f("./usr/share/doc/demo/copyright", b"free"),
            f("./usr/share/doc/demo/changelog.gz"),
            f("./usr/share/man/man1/demo.1.gz"),
            f("./usr/share/locale/de/demo.mo"),
            ("./usr/share/doc/other", "symlink", "demo", 0o777),
            f("./etc/demo", b"1", 0o600),
        ],
        fields="Multi-Arch: same\n",
        scripts={
            "md5sums": "00000000000000000000000000000000  bin/demo\n" + "0" * 32 + "  usr/share/man/man1/demo.1.gz\n"
        },
    ),
    "ca-certificates": make_deb(
        "ca-certificates",
        [f("./usr/share/ca-certificates/m/B.crt", b"BBB"), f("./usr/share/ca-certificates/m/A.crt", b"AAA\n")],
    ),
}


def test_usr_is_merged(tmp_path):
    root = build(tmp_path, DEMO)
    assert {name: root[name].target for name in ("bin", "lib", "lib64", "sbin")} == {
        "bin": "usr/bin",
        "lib": "usr/lib",
        "lib64": "usr/lib64",
        "sbin": "usr/sbin",
    }
    assert root["usr/bin/demo"].read() == b"demo"
    assert root["usr/bin/demo"].mode == 0o755
    assert root["usr/lib/x86_64-linux-gnu/up"].target == "/etc/demo"
    assert root["usr/lib/x86_64-linux-gnu/libdemo.so"].target == "libdemo.so.1"
    assert root["var/run"].target == "/run"
    assert "run/demo/pid" in root
    for path in root:
        parent = path.rpartition("/")[0]
        assert not parent or root[parent].kind == "directory"
    assert list(root) == sorted(root)


def test_manuals_stay_out_and_licences_in(tmp_path):
    root = build(tmp_path, DEMO)
    share = [path for path in root if path.startswith("usr/share/")]
    assert [path for path in share if "ca-certificates" not in path] == [
        "usr/share/doc",
        "usr/share/doc/demo",
        "usr/share/doc/demo/copyright",
        "usr/share/doc/other",
    ]


def test_what_no_package_ships_is_made(tmp_path):
    root = build(tmp_path, DEMO)
    assert (root["tmp"].mode, root["var/tmp"].mode, root["root"].mode) == (0o1777, 0o1777, 0o700)
    assert b"packager:x:65532:65532:" in root["etc/passwd"].read()
    assert b"packager:x:65532:" in root["etc/group"].read()
    assert b"hosts: files dns\n" in root["etc/nsswitch.conf"].read()
    assert root["etc/ssl/certs/ca-certificates.crt"].read() == b"AAA\nBBB\n"
    assert root["etc/ssl/certs/A.pem"].target == "/usr/share/ca-certificates/m/A.crt"
    assert root["etc/ld.so.cache"].read().count(b"libdemo.so.1\0") == 2
    assert {entry.uid for entry in root.values()} == {0}


def test_dpkg_knows_what_is_installed(tmp_path):
    root = build(tmp_path, DEMO)
    status = root["var/lib/dpkg/status"].read().decode()
    first, second = status.split("\n\n")
    assert first.startswith("Package: ca-certificates\nStatus: install ok installed\nVersion: 1.0-1\n")
    assert second.startswith("Package: demo\nStatus: install ok installed\n")
    assert second.endswith("Description: demo\n a test\n")
    listed = root["var/lib/dpkg/info/demo:amd64.list"].read().decode().splitlines()
    assert listed[0] == "/."
    assert "/usr/bin/demo" in listed
    assert "/usr/share/man/man1/demo.1.gz" not in listed
    assert root["var/lib/dpkg/info/demo:amd64.md5sums"].read() == b"0" * 32 + b"  usr/bin/demo\n"


def test_reviewed_scripts_are_replaced(tmp_path):
    awk = (
        "#!/bin/sh\n# Automatically added by dh_installalternatives/13\n"
        "update-alternatives --install /usr/bin/awk awk /usr/bin/{0} {1} --slave /usr/bin/nawk nawk /usr/bin/{0} "
        "--slave /usr/share/man/awk.1.gz awk.1.gz /usr/share/man/{0}.1.gz\n# End automatically added section\n"
    )
    root = build(
        tmp_path,
        {
            "mawk": make_deb("mawk", [f("./usr/bin/mawk")], scripts={"postinst": awk.format("mawk", 5)}),
            "gawk": make_deb("gawk", [f("./usr/bin/gawk")], scripts={"postinst": awk.format("gawk", 10)}),
        },
    )
    assert root["usr/bin/awk"].target == "/etc/alternatives/awk"
    assert root["etc/alternatives/awk"].target == "/usr/bin/gawk"
    assert root["etc/alternatives/nawk"].target == "/usr/bin/gawk"
    assert "etc/alternatives/awk.1.gz" not in root


def test_every_unknown_script_is_refused_at_once(tmp_path):
    debs = {name: make_deb(name, [], scripts={"postinst": ADDUSER}) for name in ("aaa", "bbb")}
    with pytest.raises(ImageError) as caught:
        build(tmp_path, debs)
    assert [problem.where for problem in caught.value.problems] == ["aaa_1.0-1_amd64.deb", "bbb_1.0-1_amd64.deb"]
    assert caught.value.problems[0].what == (
        "package aaa 1.0-1 needs its postinst script, which nobody has reviewed "
        "(sha256 7fdf78d31624631b3626717ab88e144836664312c278bb093afeddfa691104cf), "
        "and packager runs no maintainer scripts"
    )


def test_two_packages_may_not_disagree(tmp_path):
    one, two = make_deb("one", [f("./etc/same", b"1")]), make_deb("two", [f("./etc/same", b"2")])
    with pytest.raises(ImageError) as caught:
        build(tmp_path, {"one": one, "two": two})
    problem = caught.value.problems[0]
    assert problem.where == "/etc/same"
    assert problem.what == (
        "packages one and two both ship /etc/same with different contents, and neither replaces the other"
    )


def test_replaces_decides(tmp_path):
    for fields, winner in (({"one": "two"}, b"1"), ({"two": "zero, one (<< 2)"}, b"2")):
        debs = {
            name: make_deb(
                name, [f("./bin/same", data)], fields=f"Replaces: {fields[name]}\n" if name in fields else ""
            )
            for name, data in (("one", b"1"), ("two", b"2"))
        }
        assert build(tmp_path, debs)["usr/bin/same"].read() == winner


def test_the_same_file_twice_is_one(tmp_path):
    debs = {
        name: make_deb(name, [f("./bin/same"), ("./srv", "directory", "", mode)])
        for name, mode in (("a1", 0o755), ("b1", 0o1777))
    }
    root = build(tmp_path, debs)
    assert root["usr/bin/same"].read() == b"x"
    assert root["srv"].mode == 0o1777


def test_a_path_below_another_packages_link_is_refused(tmp_path):
    debs = {
        "one": make_deb("one", [("./opt/a", "symlink", "b", 0o777)]),
        "two": make_deb("two", [f("./opt/a/file")]),
    }
    with pytest.raises(ImageError, match="package two puts opt/a/file below opt/a, which package one makes a symlink"):
        build(tmp_path, debs)


def test_an_archive_of_another_package_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"the archive holds other 1\.0-1, not demo 1\.0-1"):
        build(tmp_path, {"demo": make_deb("other", [])})


def test_an_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(ImageError, match="'mips'"):
        build(tmp_path, {}, release=replace(RELEASE, architecture="mips"))


def digest(root):
    hasher = hashlib.sha256()
    for entry in root.values():
        hasher.update(f"{entry.path} {entry.kind} {entry.mode:o} {entry.target} {entry.uid} {entry.gid}\n".encode())
        hasher.update(entry.read())
    return hasher.hexdigest()


def test_the_machine_does_not_show(tmp_path, monkeypatch):
    first = digest(build(tmp_path / "a", DEMO))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    umask = os.umask(0o077)
    try:
        second = digest(build(tmp_path / "b", dict(reversed(DEMO.items()))))
    finally:
        os.umask(umask)
        monkeypatch.undo()
        time.tzset()
    assert first == second


def test_the_format_is_pinned(tmp_path):
    found = digest(build(tmp_path, DEMO))
    pinned = {1: "0aa51c311c51e11c94d427484db5466f10b8e51ee4eb324ac76948adfec4185b"}
    assert found == pinned[ROOTFS_FORMAT], (
        "The same packages give another root file system. If that is wanted, raise ROOTFS_FORMAT and pin the new "
        "digest beside it (locks made before say which format they were made with); if not, fix it."
    )
