"""Digests do not depend on what inflates: isal where there are wheels of it, else the standard library."""

import zlib
from pathlib import Path

import pytest

from packager.oci import members
from packager.oci.content import DeflatedContent
from packager.oci.layer import digest_layer
from packager.oci.tar import Entry

isal_zlib = pytest.importorskip("isal.isal_zlib", reason="isal has no wheel for this processor or Python")


def test_a_layer_has_one_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"".join(b"%d: text that deflates\n" % number for number in range(200_000))
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(raw) + packer.flush()
    path = tmp_path / "packed"
    path.write_bytes(packed)
    entry = Entry("file", content=DeflatedContent(path, 0, len(packed), len(raw), zlib.crc32(raw)))
    found = set()
    for library in (zlib, isal_zlib):
        monkeypatch.setattr(members, "_zlib", library)
        found.add(digest_layer([entry]))
    assert len(found) == 1


def test_the_faster_one_is_taken_where_it_is() -> None:
    assert members._zlib is isal_zlib
