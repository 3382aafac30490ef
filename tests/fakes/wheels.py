"""Real, small wheels: the same arguments give the same bytes.

Also a folder of them that serves as a package index (`--find-links`), so that uv and pip
resolve and fetch without a network.
"""

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a wheel when more than its bytes matter."""

    data: bytes
    mode: int = 0o644
    method: int = zipfile.ZIP_DEFLATED


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes | Entry] | None = None,
    *,
    tag: str = "py3-none-any",
    entry_points: str = "",
    requires: Sequence[str] = (),
    record: Mapping[str, str | None] | None = None,
) -> Path:
    """Write `NAME-VERSION-TAG.whl` into `folder` and return its path.

    `files` maps archive names to bytes (default: one module). `record` changes the ledger: a row's text
    after the name, or None to leave the row out.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    content: dict[str, Entry] = {}
    for path, data in (files if files is not None else {f"{name.replace('-', '_')}.py": b"x = 1\n"}).items():
        content[path] = data if isinstance(data, Entry) else Entry(data)
    info = f"{stem}.dist-info"
    content[f"{info}/METADATA"] = Entry(_metadata(name, version, requires))
    pure = "true" if tag.endswith("-any") else "false"
    tags = "".join(f"Tag: {single}\n" for single in _expand(tag))
    content[f"{info}/WHEEL"] = Entry(f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\n{tags}".encode())
    if entry_points:
        content[f"{info}/entry_points.txt"] = Entry(entry_points.encode())
    content[f"{info}/RECORD"] = Entry(_record(content, f"{info}/RECORD", record or {}))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{tag}.whl"
    path.write_bytes(zip_bytes(content))
    return path


def zip_bytes(content: Mapping[str, Entry]) -> bytes:
    """An archive with fixed times, in the order given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, entry in content.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = entry.method
            info.external_attr = (0o100000 | entry.mode) << 16
            archive.writestr(info, entry.data)
    return buffer.getvalue()


def _metadata(name: str, version: str, requires: Sequence[str]) -> bytes:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    return ("\n".join(lines) + "\n").encode()


def _expand(tag: str) -> list[str]:
    python, abi, platform = tag.split("-")
    return [f"{a}-{b}-{c}" for a in python.split(".") for b in abi.split(".") for c in platform.split(".")]


def _record(content: Mapping[str, Entry], own: str, changes: Mapping[str, str | None]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for path, entry in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(entry.data).digest()).rstrip(b"=").decode()
        text = changes.get(path, f"sha256={digest},{len(entry.data)}")
        if text is not None:
            writer.writerow([path, *text.split(",")])
    writer.writerow([own, "", ""])
    return buffer.getvalue().encode()
