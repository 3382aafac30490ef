"""What a wheel puts down on a base: every file, where it goes, and where its bytes lie in the wheel.

Exactly what a correct installer would do, computed without installing and, but for scripts and
RECORD, without inflating: PEP 427, 376, 491 and the specifications that `metadata` names.
Where pip is lenient so is this: RECORD may lack files or name files that are not there; what we
write lists what is installed, and a row's hash is used only when its size is right.
"""

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Literal

from ..digest import sha256_hex
from ..errors import ImageError, IntegrityError
from ..facts import BaseFacts
from .archive import Archived, ZipMember, beginning, content, inflate, open_archive
from .metadata import (
    Recorded,
    check_wheel_version,
    only_info,
    parse_record,
    parse_scripts,
    script,
    shebang,
    write_record,
)

__all__ = ["InstalledFile", "ZipMember", "read_wheel"]

_LARGEST_TEXT = 64_000_000
_OURS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
_INSTALLER = b"packager\n"
_PYTHON_SCRIPT = b"#!python"
_WRAPPER_ENDINGS = (".exe", "-script.py", ".pya")


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """One file of an image: its path from the root without a leading slash, its mode, its bytes or their place."""

    path: str
    mode: Literal[0o644, 0o755]
    source: ZipMember | bytes


@dataclass(frozen=True, slots=True)
class _Placed:
    file: InstalledFile
    archived: Archived | None  # None for bytes of our making


def read_wheel(path: Path, facts: BaseFacts) -> tuple[InstalledFile, ...]:
    """Every file the wheel at `path` installs on a base with these facts, sorted by path.

    Raises IntegrityError when the wheel is damaged, ImageError when it holds what cannot be installed.
    """
    where = str(path)
    with open_archive(path) as (file, members):
        by_name = {member.name: member for member in members}
        info = only_info(by_name, where)
        read = _text_reader(file, by_name, info, where)
        check_wheel_version(read("WHEEL"), where)
        scripts = parse_scripts(read("entry_points.txt", ""), where)
        record = parse_record(read("RECORD"), where)
        placed = [_place(file, member, info, facts) for member in members if not _skipped(member.name, info, scripts)]
        placed += [_made(f"{_root(facts.site)}/{info}/INSTALLER", _INSTALLER)]
        placed += [
            _made(f"{_root(facts.scripts)}/{name}", script(reference, facts.interpreter), 0o755)
            for name, reference in sorted(scripts.items())
        ]
        _refuse_clashes((one.file.path for one in placed), where)
        rows = {_from_site(one.file.path, facts): _row(file, one, record) for one in placed}
    own = f"{info}/RECORD"
    files = [one.file for one in placed]
    files.append(InstalledFile(f"{_root(facts.site)}/{own}", 0o644, write_record(rows, own)))
    return tuple(sorted(files, key=lambda one: one.path.encode()))


def _text_reader(file: BinaryIO, by_name: Mapping[str, Archived], info: str, where: str) -> Callable[..., str]:
    def read(name: str, default: str | None = None) -> str:
        found = by_name.get(f"{info}/{name}")
        if found is None:
            if default is None:
                raise IntegrityError(f"the wheel has no {info}/{name}", where=where)
            return default
        try:
            return content(file, found.name, found.member, limit=_LARGEST_TEXT).decode()
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{found.name} is not UTF-8", where=where) from error

    return read


def _skipped(name: str, info: str, scripts: Mapping[str, str]) -> bool:
    """Whether the installer writes this file itself, or instead of it a script for an entry point."""
    folder, _, file = name.rpartition("/")
    if folder == info and file in _OURS:
        return True
    top, _, rest = name.partition("/")
    if not (top.endswith(".data") and rest.startswith("scripts/")):
        return False
    base = posixpath.basename(name)
    ending = next((ending for ending in _WRAPPER_ENDINGS if base.lower().endswith(ending)), "")
    return base[: len(base) - len(ending)] in scripts


def _place(file: BinaryIO, archived: Archived, info: str, facts: BaseFacts) -> _Placed:
    top, _, rest = archived.name.partition("/")
    if not (top.endswith(".data") and rest):
        return _taken(f"{_root(facts.site)}/{archived.name}", archived)
    scheme, _, rest = rest.partition("/")
    prefix = posixpath.dirname(_root(facts.scripts))
    folders = {
        "purelib": _root(facts.site),
        "platlib": _root(facts.site),
        "scripts": _root(facts.scripts),
        "data": prefix,
        "headers": posixpath.join(prefix, "include", f"python{facts.python_minor}", info.partition("-")[0]),
    }
    if scheme not in folders or not rest:
        raise ImageError(
            f"the wheel wants {archived.name} installed in no known place",
            where=file.name,
            mend=f"known are: {', '.join(sorted(folders))}",
        )
    path = posixpath.join(folders[scheme], rest)
    if scheme != "scripts":
        return _taken(path, archived)
    if beginning(file, archived.member, len(_PYTHON_SCRIPT)) != _PYTHON_SCRIPT:
        return _taken(path, archived, executable=True)
    data = content(file, archived.name, archived.member, limit=_LARGEST_TEXT)
    return _made(path, shebang(facts.interpreter) + data.partition(b"\n")[2], 0o755)


def _taken(path: str, archived: Archived, *, executable: bool = False) -> _Placed:
    mode: Literal[0o644, 0o755] = 0o755 if executable or archived.executable else 0o644
    return _Placed(InstalledFile(path, mode, archived.member), archived)


def _made(path: str, data: bytes, mode: Literal[0o644, 0o755] = 0o644) -> _Placed:
    return _Placed(InstalledFile(path, mode, data), None)


def _refuse_clashes(paths: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ImageError(f"the wheel installs two files at /{path}", where=where)
        seen.add(path)
    folders: set[str] = set()
    for path in seen:
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    if both := folders & seen:
        raise ImageError(f"the wheel installs /{min(both)} as a file and as a folder", where=where)


def _row(file: BinaryIO, placed: _Placed, record: Mapping[str, Recorded]) -> tuple[str, int]:
    if isinstance(placed.file.source, bytes):
        return sha256_hex(placed.file.source), len(placed.file.source)
    assert placed.archived is not None, "only bytes of our making have no place in the archive"
    member, said = placed.file.source, record.get(placed.archived.name)
    if said is not None and said.sha256 is not None and said.size == member.size:
        return said.sha256, member.size
    hasher = sha256()
    for piece in inflate(file, placed.archived.name, member):
        hasher.update(piece)
    return hasher.hexdigest(), member.size


def _from_site(path: str, facts: BaseFacts) -> str:
    site = f"{_root(facts.site)}/"
    return path[len(site) :] if path.startswith(site) else posixpath.relpath("/" + path, facts.site)


def _root(folder: str) -> str:
    return folder.strip("/")
