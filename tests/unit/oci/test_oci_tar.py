import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from packager.errors import ImageError
from packager.oci.tar import END, Entry, FileContent, InlineContent, arrange, header, padding


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestHeader:
    def test_golden_file(self):
        block = header(Entry("usr/bin/tool", mode=0o755, content=InlineContent(b"hello")))
        assert block[:156] == (
            b"usr/bin/tool".ljust(100, b"\0")
            + b"0000755\0"
            + b"0000000\0"
            + b"0000000\0"
            + b"00000000005\0"
            + b"00000000000\0"
            + b"010224\0 "
        )
        assert block[156:] == (b"0".ljust(101, b"\0") + b"ustar\x0000" + bytes(64 + 16 + 155 + 12))
        assert digest(block) == GOLDEN["file"], BUMP

    @pytest.mark.parametrize("name", ["directory", "symlink", "prefix", "pax-path", "pax-target", "non-ascii", "large"])
    def test_golden_digest(self, name):
        assert digest(header(CASES[name][0], **CASES[name][1])) == GOLDEN[name], BUMP

    @pytest.mark.parametrize(
        ("entry", "kind"),
        [
            (Entry("a/b", content=InlineContent(b"x" * 700)), tarfile.REGTYPE),
            (Entry("bin/su", mode=0o4755, uid=12, gid=65532), tarfile.REGTYPE),
            (Entry("d" * 99, "directory", 0o1777), tarfile.DIRTYPE),
            (Entry("lib", "symlink", target="usr/lib"), tarfile.SYMTYPE),
            (Entry("d" * 90 + "/" + "f" * 90), tarfile.REGTYPE),
        ],
    )
    def test_equals_what_pythons_own_ustar_writer_gives(self, entry, kind):
        info = tarfile.TarInfo(entry.path)
        info.type, info.size, info.linkname = kind, entry.size, entry.target
        info.mode = 0o777 if entry.kind == "symlink" else entry.mode
        info.uid, info.gid = entry.uid, entry.gid
        assert header(entry) == info.tobuf(tarfile.USTAR_FORMAT)

    @pytest.mark.parametrize("name", ["pax-path", "pax-target", "non-ascii", "prefix"])
    def test_long_and_foreign_names_are_read_back(self, name):
        entry = CASES[name][0]
        with tarfile.open(fileobj=io.BytesIO(header(entry) + END)) as tar:
            (member,) = tar.getmembers()
        assert (member.name, member.linkname, member.mtime) == (entry.path, entry.target, 0)

    def test_sizes_from_eight_gib_on_are_read_back(self):
        with tarfile.open(fileobj=io.BytesIO(header(Entry("w"), size=9 << 30)), mode="r|") as tar:
            assert tar.next().size == 9 << 30

    @pytest.mark.parametrize("length", range(85, 110))
    def test_a_pax_record_counts_its_own_digits(self, length):
        path = "n" * 101 + "/" + "é" * (length // 2)
        with tarfile.open(fileobj=io.BytesIO(header(Entry(path)) + END)) as tar:
            assert tar.getnames() == [path]

    def test_padding_fills_blocks(self):
        assert [len(padding(n)) for n in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]


BUMP = (
    "header bytes changed, and with them every layer digest. Wanted: raise the layer format in the lock and "
    "renew these values. Not wanted: revert. Found to be wrong before: fix, and say so in the changelog."
)
CASES = {
    "directory": (Entry("usr/lib", "directory", 0o755), {}),
    "symlink": (Entry("lib64", "symlink", target="usr/lib64"), {}),
    "prefix": (Entry("a" * 100 + "/" + "b" * 100), {}),
    "pax-path": (Entry("a" * 101 + "/" + "b" * 101), {}),
    "pax-target": (Entry("link", "symlink", target="t" * 101), {}),
    "non-ascii": (Entry("ünïcode/名", content=InlineContent(b"1")), {}),
    "large": (Entry("weights.bin"), {"size": 8 << 30}),
}
GOLDEN = {
    "file": "119b7da1910bac9be8ec9e3d2e29f76852a1289e1d4b62424f598873ca0d52fd",
    "directory": "814da75d216979c1cfaa4838294a8038c82ee48d39d4eb48180065497450713b",
    "symlink": "1cc583d60d3c00b157b51fe15b033e2fa3d8ee5564d665da41c1420a82922b6d",
    "prefix": "ba0b10ac683ed7126ae13e4a22079bb622f8b9855a1650839d7a44858e4b9be8",
    "pax-path": "6d4bcc46d5b1e5eb9321df159911a0497e4c23aee6519f08cf19b053bda87e65",
    "pax-target": "c9ea67b91f7b33154b9d0b1b25ff3a5884ca4519c2315ec5241bf9e9f18cb6a5",
    "non-ascii": "ce2bd92471be5b84c0e42513cd790509864baa09b51a1ae569163d0dbfb3c8bd",
    "large": "296162313eef9a07ee22f64d93cae17892f6985ea12fc3b6d3e7680f98966876",
}


class TestArrange:
    def test_adds_parents_and_sorts_by_utf8_bytes(self):
        arranged = arrange([Entry("b/ü"), Entry("b/z"), Entry("a-b"), Entry("a/x/y"), Entry("\U0001f600"), Entry("￥")])
        assert [entry.path for entry in arranged] == [
            "a", "a-b", "a/x", "a/x/y", "b", "b/z", "b/ü", "￥", "\U0001f600",
        ]  # fmt: skip
        parents = [entry for entry in arranged if entry.kind == "directory"]
        assert {(entry.mode, entry.uid, entry.gid) for entry in parents} == {(0o755, 0, 0)}

    def test_keeps_folders_that_are_given(self):
        tmp = Entry("tmp", "directory", 0o1777)
        assert arrange([Entry("tmp/x"), tmp])[0] is tmp

    def test_is_idempotent(self):
        once = arrange([Entry("a/b/c")])
        assert arrange(once) == once

    @pytest.mark.parametrize(
        ("entry", "what"),
        [
            (Entry(""), "plain relative path"),
            (Entry("/etc/passwd"), "plain relative path"),
            (Entry("a/../b"), "plain relative path"),
            (Entry("a//b"), "plain relative path"),
            (Entry("./a"), "plain relative path"),
            (Entry("a/", "directory", 0o755), "plain relative path"),
            (Entry("a\nb"), "newline"),
            (Entry("a\0b"), "NUL"),
            (Entry("l", "symlink", target="a\n"), "newline"),
            (Entry("a\udcff"), "UTF-8"),
            (Entry("a/.wh.b"), "delete files"),
            (Entry("x" * 256), "longer than 255"),
            (Entry("l", "symlink"), "has a target"),
            (Entry("f", target="x"), "has a target"),
            (Entry("d", "directory", 0o755, content=InlineContent(b"")), "has no content"),
            (Entry("d", "directory"), "cannot be entered"),
            (Entry("f", mode=0o10000), "out of the range"),
            (Entry("f", uid=1 << 21), "out of the range"),
        ],
    )
    def test_refuses(self, entry, what):
        with pytest.raises(ImageError, match=what) as caught:
            arrange([entry])
        assert caught.value.problems[0].where == entry.path

    def test_refuses_a_parent_that_is_no_folder(self):
        for parent in (Entry("a"), Entry("a", "symlink", target="/etc")):
            with pytest.raises(ImageError, match=f"parent a is a {parent.kind}"):
                arrange([Entry("a/b/c"), parent])

    def test_reports_every_problem_in_order(self):
        with pytest.raises(ImageError) as caught:
            arrange([Entry("z"), Entry("z"), Entry("../y"), Entry("b"), Entry("b/c")])
        assert [problem.where for problem in caught.value.problems] == ["../y", "b/c", "z"]


def test_stored_members_are_cut_at_fixed_places(tmp_path: Path):
    data = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(b"skip" + data)
    content = FileContent(tmp_path / "f", len(data), offset=4)
    assert b"".join(content.members()) == b"".join(InlineContent(data).members())
    assert b"".join(content.raw()) == data
