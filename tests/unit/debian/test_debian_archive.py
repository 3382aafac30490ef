import bz2
import gzip
import lzma
import shutil
import subprocess

import pytest
from fakes.debs import make_ar, make_deb, make_tar

from packager.debian.archive import control_fields, read_deb
from packager.errors import ImageError, IntegrityError

HELLO = [
    ("./", "directory", "", 0o755),
    ("./usr/", "directory", "", 0o755),
    ("./usr/bin/hello", "file", b"hello", 0o4755),
    ("./usr/bin/again", "hardlink", "./usr/bin/hello", 0o755),
    ("./usr/bin/link", "symlink", "hello", 0o777),
    ("./tmp", "directory", "", 0o1777),
]


def read(tmp_path, data):
    path = tmp_path / "a.deb"
    path.write_bytes(data)
    return read_deb(path, tmp_path / "spool", name="a.deb")


@pytest.mark.parametrize(("compress", "suffix"), [(lzma.compress, ".xz"), (gzip.compress, ".gz"), (bytes, "")])
def test_entries_and_control_are_read(tmp_path, compress, suffix):
    deb = read(
        tmp_path, make_deb("hello", HELLO, scripts={"postinst": "#!/bin/sh\n"}, compress=compress, suffix=suffix)
    )
    assert deb.control["postinst"] == b"#!/bin/sh\n"
    assert control_fields(deb.control["control"])["Description"] == "hello\n a test"
    found = [(entry.path, entry.kind, entry.mode, entry.target, entry.read()) for entry in deb.entries]
    assert found == [
        ("usr", "directory", 0o755, "", b""),
        ("usr/bin/hello", "file", 0o755, "", b"hello"),  # set-user-id dropped
        ("usr/bin/again", "file", 0o755, "", b"hello"),  # a hard link becomes the same bytes again
        ("usr/bin/link", "symlink", 0o777, "hello", b""),
        ("tmp", "directory", 0o1777, "", b""),
    ]


def test_zstd_is_read(tmp_path):
    if not shutil.which("zstd") or not shutil.which("dpkg-deb"):
        pytest.skip("needs the programs zstd and dpkg-deb")

    def compress(data):
        return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout

    deb = read(tmp_path, make_deb("hello", HELLO, compress=compress, suffix=".zst"))
    assert [entry.path for entry in deb.entries][1] == "usr/bin/hello"
    assert deb.entries[1].read() == b"hello"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (("/etc/passwd", "file", b"", 0o644), "leaves the root"),
        (("./../etc/passwd", "file", b"", 0o644), "leaves the root"),
        (("./dev/null", "device", "", 0o666), "is a device"),
        (("./a", "hardlink", "./b", 0o644), "hard link to nothing"),
        (("./a", "symlink", "x\ny", 0o777), "no usable target"),
    ],
)
def test_what_an_image_must_not_hold_is_refused(tmp_path, entry, why):
    with pytest.raises(ImageError, match=why) as caught:
        read(tmp_path, make_deb("bad", [entry]))
    assert caught.value.problems[0].where == "a.deb"
    assert caught.value.problems[0].mend


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an archive",
        b"!<arch>\n" + b"x" * 60,
        make_ar([("debian-binary", b"2.0\n")]),
        make_ar([("debian-binary", b"2.0\n"), ("control.tar.xz", b"nonsense"), ("data.tar.xz", b"nonsense")]),
        make_ar([("control.tar.gz", gzip.compress(make_tar(HELLO))[:-20]), ("data.tar", make_tar(HELLO))]),
        make_deb("hello", HELLO)[:-40],
    ],
)
def test_what_is_no_package_is_refused(tmp_path, data):
    with pytest.raises(IntegrityError, match="not a Debian package"):
        read(tmp_path, data)


def test_an_unknown_compression_is_refused(tmp_path):
    with pytest.raises(ImageError, match="compressed in an unknown way"):
        read(tmp_path, make_deb("hello", HELLO, compress=bz2.compress, suffix=".bz2"))
