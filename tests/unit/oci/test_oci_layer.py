import gzip
import hashlib
import io
import random
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.errors import ImageError, IntegrityError
from packager.oci.blob import BytesBlob, FileBlob, RecipeBlob
from packager.oci.layer import digest_layer, layer_chunks, make_layer
from packager.oci.members import BLOCK, SPAN, gunzip, stored_member
from packager.oci.tar import DeflatedContent, Entry, FileContent, InlineContent, arrange


def wheel_entries(path: Path) -> list[Entry]:
    """The entries of a zip as a layer would take them: their own bytes, not inflated."""
    entries = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            offset = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            content = (
                FileContent(path, info.file_size, offset)
                if info.compress_type == zipfile.ZIP_STORED
                else DeflatedContent(path, offset, info.compress_size, info.file_size, info.CRC)
            )
            entries.append(Entry(f"site/{info.filename}", content=content))
    return entries


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "demo-1-py3-none-any.whl"
    noise = random.Random(7).randbytes(200_000)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo/__init__.py", "x = 1\n" * 500, zipfile.ZIP_DEFLATED)
        archive.writestr("demo/big.so", noise + bytes(6 << 20) + noise, zipfile.ZIP_DEFLATED)
        archive.writestr("demo/stored.bin", noise * 8, zipfile.ZIP_STORED)
        archive.writestr("demo/empty", "", zipfile.ZIP_STORED)
        archive.writestr("demo/empty-deflated", "", zipfile.ZIP_DEFLATED)
        archive.writestr("demo-1.dist-info/METADATA", "Name: demo\n", zipfile.ZIP_DEFLATED)
    return path


def read_back(blob: bytes) -> dict[str, tuple[str, int, int, int, str, bytes]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob)), mode="r:") as tar:
        for member in tar:
            data = tar.extractfile(member).read() if member.isreg() else b""
            kind = "file" if member.isreg() else "directory" if member.isdir() else "symlink"
            assert (member.mtime, member.uname, member.gname) == (0, "", "")
            found[member.name] = (kind, member.mode, member.uid, member.gid, member.linkname, data)
    return found


PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0\n"), min_size=1, max_size=40).filter(
    lambda part: part not in (".", "..") and not part.startswith(".wh.") and len(part.encode()) < 200
)
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
OWNERS = st.integers(0, 0o7777777)
ENTRIES = st.one_of(
    st.builds(
        Entry,
        path=PATHS,
        mode=st.integers(0, 0o7777),
        content=st.one_of(st.none(), st.builds(InlineContent, st.binary(max_size=1500))),
        uid=OWNERS,
        gid=OWNERS,
    ),
    st.builds(Entry, path=PATHS, kind=st.just("symlink"), target=PATHS),
    st.builds(Entry, path=PATHS, kind=st.just("directory"), mode=st.integers(0, 0o7777).map(lambda m: m | 0o100)),
)


def compatible(entries: list[Entry]) -> list[Entry]:
    """The entries that can share a layer: no path twice, no file above another."""
    kept: dict[str, Entry] = {}
    for entry in entries:
        above = [other for other in kept.values() if entry.path.startswith(other.path + "/")]
        below = [other for other in kept if other.startswith(entry.path + "/")]
        if entry.path in kept or any(o.kind != "directory" for o in above) or (below and entry.kind != "directory"):
            continue
        kept[entry.path] = entry
    return list(kept.values())


@settings(max_examples=80, deadline=None)
@given(st.lists(ENTRIES, max_size=12).map(compatible), st.randoms(use_true_random=False))
def test_python_reads_back_exactly_what_was_put_in(entries, shuffler):
    blob = b"".join(layer_chunks(entries))
    assert read_back(blob) == {
        entry.path: (
            entry.kind,
            0o777 if entry.kind == "symlink" else entry.mode,
            entry.uid,
            entry.gid,
            entry.target,
            b"".join(entry.content.raw()) if entry.content else b"",
        )
        for entry in arrange(entries)
    }
    digests = digest_layer(entries)
    raw = gzip.decompress(blob)
    assert digests.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert digests.diff_id == "sha256:" + hashlib.sha256(raw).hexdigest()
    assert (digests.size, digests.uncompressed) == (len(blob), len(raw))
    shuffler.shuffle(entries)
    assert digest_layer(entries) == digests


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3 * SPAN), st.sampled_from([BLOCK, SPAN]), st.integers(-1, 1))
def test_stored_members_inflate_to_their_data(size, edge, nudge):
    for length in (size, edge + nudge):
        data = bytes(length)
        assert gzip.decompress(stored_member(data)) == data


def test_a_stored_member_is_pinned():
    assert stored_member(b"abc").hex() == "1f8b08000000000000ff" + "010300fcff" + "616263" + "c2412435" + "03000000"
    assert stored_member(b"").hex() == "1f8b08000000000000ff" + "010000ffff" + "00000000" + "00000000"


def test_a_wheels_own_bytes_pass_through(wheel):
    entries = wheel_entries(wheel)
    blob = b"".join(layer_chunks(entries))
    found = read_back(blob)
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            assert found[f"site/{info.filename}"][-1] == archive.read(info)
    data = wheel.read_bytes()
    for entry in entries:
        if isinstance(entry.content, DeflatedContent):
            content = entry.content
            assert data[content.offset : content.offset + content.compressed] in blob
    digests = digest_layer(entries)
    assert digests.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert digests.diff_id == "sha256:" + hashlib.sha256(gzip.decompress(blob)).hexdigest()
    assert [b"".join(entry.content.raw()) for entry in entries] == [found[entry.path][-1] for entry in entries]


def test_glue_between_contents_is_one_member():
    entries = [
        Entry("a", content=InlineContent(b"1")),
        Entry("b", "symlink", target="a"),
        Entry("c", "directory", 0o755),
    ]
    assert b"".join(layer_chunks(entries)).count(b"\x1f\x8b\x08\0\0\0\0\0\0\xff") == 3  # header, content, the rest


def test_very_many_empty_files_do_not_pile_up():
    entries = [Entry(f"d/{number}") for number in range(2200)]
    blob = b"".join(layer_chunks(entries))
    assert len(read_back(blob)) == 2201
    assert blob.count(b"\x1f\x8b\x08\0\0\0\0\0\0\xff") == 2


class TestBroken:
    def corrupt(self, wheel: Path, entry: Entry, at: int = 20) -> None:
        data = bytearray(wheel.read_bytes())
        data[entry.content.offset + at] ^= 0xFF
        wheel.write_bytes(data)

    @pytest.mark.parametrize("at", [0, 20, 1000])
    def test_a_damaged_entry_is_found(self, wheel, at):
        entries = wheel_entries(wheel)
        self.corrupt(wheel, entries[1], at)
        with pytest.raises(IntegrityError, match="is broken") as caught:
            digest_layer(entries)
        assert caught.value.problems[0].where == str(wheel)

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"size": 2999}, "more than 2999 bytes"),
            ({"size": 3001}, "inflates to 3000 bytes"),
            ({"crc32": 1}, "with crc32"),
            ({"compressed": 10}, "inflates to|does not inflate"),
        ],
    )
    def test_an_entry_that_is_not_what_the_directory_says(self, wheel, change, what):
        good = wheel_entries(wheel)[0].content
        fields = {name: getattr(good, name) for name in ("path", "offset", "compressed", "size", "crc32")}
        with pytest.raises(IntegrityError, match=what):
            list(DeflatedContent(**{**fields, **change}).raw())

    def test_bytes_after_the_stream_are_refused(self, tmp_path):
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(b"abc") + packer.flush()
        (tmp_path / "z").write_bytes(packed + b"extra")
        content = DeflatedContent(tmp_path / "z", 0, len(packed) + 5, 3, zlib.crc32(b"abc"))
        with pytest.raises(IntegrityError, match="bytes follow"):
            list(content.raw())

    def test_a_bomb_stops_at_its_declared_size(self, tmp_path):
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(bytes(64 << 20)) + packer.flush()
        (tmp_path / "z").write_bytes(packed)
        pairs = DeflatedContent(tmp_path / "z", 0, len(packed), 10, 0).pairs()
        assert next(pairs)[0] == b""
        with pytest.raises(IntegrityError, match="more than 10 bytes"):
            next(pairs)

    def test_a_file_cut_short_is_found(self, tmp_path):
        (tmp_path / "f").write_bytes(b"abc")
        with pytest.raises(IntegrityError, match="ends 1 bytes too early"):
            digest_layer([Entry("f", content=FileContent(tmp_path / "f", 4))])

    def test_a_changed_input_shows_when_the_layer_is_read(self, wheel):
        entries = wheel_entries(wheel)
        layer = make_layer(entries, title="demo")
        assert hashlib.sha256(b"".join(layer.blob.open())).hexdigest() == layer.digest[7:]
        self.corrupt(wheel, entries[1])
        with pytest.raises(IntegrityError) as caught:
            list(layer.blob.open())
        assert caught.value.problems[0].where == "demo"

    def test_known_digests_are_believed_until_the_bytes_are_read(self):
        truth = digest_layer([Entry("a")])
        layer = make_layer([Entry("b")], title="b", known=truth)
        assert (layer.digest, layer.size, layer.diff_id) == (truth.digest, truth.size, truth.diff_id)
        with pytest.raises(IntegrityError):
            list(layer.blob.open())

    def test_entries_that_cannot_be_in_a_layer(self):
        with pytest.raises(ImageError):
            make_layer([Entry("../a")], title="bad")


class TestBlob:
    def test_all_kinds_give_the_same_bytes_each_time(self, tmp_path):
        data = bytes(range(256)) * 9000
        (tmp_path / "b").write_bytes(data)
        plain = BytesBlob(data)
        for blob in (
            plain,
            FileBlob(tmp_path / "b", plain.digest, plain.size),
            RecipeBlob(plain.digest, plain.size, lambda: iter([data])),
        ):
            assert b"".join(blob.open()) == b"".join(blob.open()) == data

    @pytest.mark.parametrize("made", [b"abcd", b"ab", b"abd", b""])
    def test_other_bytes_are_refused(self, made):
        blob = RecipeBlob(BytesBlob(b"abc").digest, 3, lambda: iter([made]))
        with pytest.raises(IntegrityError, match="are not those of"):
            list(blob.open())

    def test_a_blob_that_is_too_long_is_stopped_before_its_end(self):
        def endless():
            while True:
                yield bytes(1000)

        with pytest.raises(IntegrityError, match="more than 5000 bytes came"):
            list(RecipeBlob("sha256:" + "0" * 64, 5000, endless).open())


class TestGunzip:
    def test_many_members_in_any_cut(self):
        data = b"".join(stored_member(bytes([number]) * number) + gzip.compress(b"x" * number) for number in range(60))
        want = gzip.decompress(data)
        for step in (1, 7, 1000, len(data)):
            assert b"".join(gunzip(data[at : at + step] for at in range(0, len(data), step))) == want

    def test_a_large_ratio_comes_in_bounded_pieces(self):
        pieces = list(gunzip([gzip.compress(bytes(40 << 20))]))
        assert sum(map(len, pieces)) == 40 << 20
        assert max(map(len, pieces)) <= 4 << 20

    def test_a_cut_stream_is_an_error(self):
        with pytest.raises(EOFError):
            list(gunzip([gzip.compress(b"abc")[:-3]]))

    def test_nothing_is_nothing(self):
        assert list(gunzip([])) == []
