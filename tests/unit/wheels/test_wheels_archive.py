"""Damaged wheels: read, or refused with one of our errors; never anything else."""

import zipfile
from pathlib import Path

import pytest
from fakes.wheels import Entry, make_wheel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.errors import PackagerError
from packager.facts import BaseFacts
from packager.wheels.archive import content, inflate, open_archive
from packager.wheels.read import read_wheel

FILES = {
    "lib/__init__.py": b"x = 1\n" * 50,
    "lib/raw.bin": Entry(b"raw" * 40, method=zipfile.ZIP_STORED),
    "lib-1.0.data/scripts/go": b"#!python\nprint(1)\n",
}


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_wheel_is_read_or_refused(tmp_path: Path, facts: BaseFacts, data: st.DataObject) -> None:
    wheel = make_wheel(
        tmp_path, "lib", "1.0", FILES, entry_points="[console_scripts]\nx = lib:y\n", record={"lib/raw.bin": None}
    )
    whole = wheel.read_bytes()
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(broken) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert", "drop"])):
            case "set":
                broken[position] = data.draw(st.integers(0, 255))
            case "cut":
                del broken[max(position, 1) :]
            case "insert":
                broken[position:position] = data.draw(st.binary(max_size=8))
            case _:
                del broken[position : position + data.draw(st.integers(1, 9))]
        if not broken:
            break
    path = tmp_path / "broken.whl"
    path.write_bytes(broken)
    try:
        files = read_wheel(path, facts)
        with open_archive(path) as (file, members):
            for member in members:
                content(file, member.name, member.member, limit=1 << 20)
    except PackagerError as error:
        assert str(error)  # noqa: PT017  both outcomes are right
        return
    for installed in files:
        assert installed.path.startswith("usr/local/")
        assert ".." not in installed.path.split("/")
        assert installed.mode in {0o644, 0o755}


def test_large_members_come_in_pieces(tmp_path: Path) -> None:
    data = bytes(5_000_000) + bytes(range(256)) * 4_000
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        wheel = make_wheel(tmp_path, "big", "1.0", {"big.bin": Entry(data, method=method)})
        with open_archive(wheel) as (file, members):
            pieces = list(inflate(file, "big.bin", members[0].member))
            assert b"".join(pieces) == data
            assert max(map(len, pieces)) <= 1 << 20
            with pytest.raises(PackagerError, match="at most 1000 are believed"):
                content(file, "big.bin", members[0].member, limit=1000)
