"""`/etc/ld.so.cache` as ldconfig would write it, from a tree that is nowhere mounted.

glibc's new format (`glibc-ld.so.cache1.1`, elf/cache.c and sysdeps/generic/dl-cache.h): a header, one entry a
library, then the strings. Entries are sorted by soname, descending in `_dl_cache_libcmp`'s order, because the
loader searches them by halves; of equal sonames the earlier folder comes first. Libraries under
`glibc-hwcaps` are left out: the loader finds those that matter through their own links.
"""

import posixpath
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cmp_to_key

from .entries import FileSlice, RootEntry, symlink
from .merge import Tree, place
from .scripts import TRIPLETS

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN = 2
_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_LONGEST_NAME = 255
_PT_LOAD, _PT_DYNAMIC, _DT_STRTAB, _DT_SONAME = 1, 2, 5, 14


@dataclass(frozen=True, slots=True)
class _Machine:
    elf: int
    flags: int


# ELF's machine number, and ldconfig's flags: FLAG_ELF_LIBC6 with FLAG_X8664_LIB64 or FLAG_AARCH64_LIB64.
_MACHINES: Mapping[str, _Machine] = {"amd64": _Machine(62, 0x0303), "arm64": _Machine(183, 0x0A03)}


@dataclass(slots=True)
class _Library:
    """One soname of a folder, and the file or link that has it."""

    name: str
    soname: str
    is_link: bool


def write_cache(tree: Tree, architecture: str) -> bytes:
    """The cache's bytes for `tree`, to which links are added that ldconfig would make (soname to file)."""
    machine = _MACHINES[architecture]
    found: list[tuple[str, str]] = []
    for folder in _folders(tree, TRIPLETS[architecture]):
        for library in _libraries(tree, place(folder), machine.elf):
            if not library.is_link and library.name != library.soname:
                tree.offer(symlink(f"{place(folder)}/{library.soname}", library.name))
            found.append((library.soname, f"{folder}/{library.soname}"))
    found.sort(key=cmp_to_key(_descending))
    return _encode(found, machine.flags)


def _descending(left: tuple[str, str], right: tuple[str, str]) -> int:
    return compare_names(right[0], left[0])


def compare_names(left: str, right: str) -> int:
    """Compare as glibc's `_dl_cache_libcmp`: strcmp, but runs of digits are numbers and sort after other letters."""
    at = to = 0
    while at < len(left):
        a, b = left[at], right[to : to + 1]
        if a.isdigit():
            if not b.isdigit():
                return 1
            first, at = _number(left, at)
            second, to = _number(right, to)
            if first != second:
                return first - second
        elif b.isdigit():
            return -1
        elif a != b:
            return ord(a) - (ord(b) if b else 0)
        else:
            at, to = at + 1, to + 1
    return -len(right[to:])


def _number(text: str, start: int) -> tuple[int, int]:
    end = start
    while end < len(text) and text[end].isdigit():
        end += 1
    return int(text[start:end]), end


def _encode(found: list[tuple[str, str]], flags: int) -> bytes:
    start = _HEADER.size + _ENTRY.size * len(found)
    strings = bytearray()
    places: dict[str, int] = {}
    for pair in found:
        for text in pair:
            if text not in places:
                places[text] = start + len(strings)
                strings += text.encode() + b"\0"
    entries = b"".join(_ENTRY.pack(flags, places[soname], places[path], 0, 0) for soname, path in found)
    return _HEADER.pack(_MAGIC, len(found), len(strings), _LITTLE_ENDIAN, 0) + entries + bytes(strings)


def _folders(tree: Tree, triplet: str) -> list[str]:
    """The folders that are searched, as ld.so.conf spells them; the second name of one folder does not count."""
    conf = tree.entries.get("etc/ld.so.conf")
    # Without libc-bin there is no ld.so.conf; its only line includes these.
    text = conf.read().decode() if conf else "include /etc/ld.so.conf.d/*.conf"
    listed = [*_configured(tree, text), f"/lib/{triplet}", "/lib"]
    folders: dict[str, str] = {}
    for folder in listed:
        folders.setdefault(place(folder), folder)
    return list(folders.values())


def _configured(tree: Tree, text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                base = pattern.strip("/").removesuffix("*.conf")
                for path in sorted(tree.entries):
                    if posixpath.dirname(path) == base.rstrip("/") and path.endswith(".conf"):
                        yield from _configured(tree, tree.entries[path].read().decode())
        elif words:
            yield words[0].rstrip("/")


def _libraries(tree: Tree, folder: str, machine: int) -> Iterator[_Library]:
    """As ldconfig's `search_dir` does: one library a soname, files before links, newer names before older ones."""
    best: dict[str, _Library] = {}
    for path in sorted(tree.entries):
        name = posixpath.basename(path)
        if posixpath.dirname(path) != folder or not name.startswith(("lib", "ld-")) or ".so" not in name:
            continue
        entry = tree.entries[path]
        real = tree.find(path)
        if real is None or real.kind != "file":
            continue
        soname = _soname(real, machine)
        if soname is None:
            continue
        # A link counts under its own name if that is the soname, or the bare `.so` that ld(1) looks for.
        bare = name.endswith(".so") and soname.startswith(name)
        is_link = entry.kind == "symlink" and (name == soname or bare)
        library = _Library(name, name if is_link else soname, is_link)
        old = best.get(library.soname)
        if (
            old is None
            or (old.is_link and not library.is_link)
            or (old.is_link == library.is_link and compare_names(old.name, name) < 0)
        ):
            best[library.soname] = library
    yield from best.values()


def _soname(entry: RootEntry, machine: int) -> str | None:
    """The soname of a shared object for `machine`, its file name where it has none, or None for anything else."""
    try:
        head = _at(entry, 0, _ELF.size)
        if head[:6] != b"\x7fELF\x02\x01":
            return None
        _, _, found, _, _, segments_at, _, _, _, size, count, _, _, _ = _ELF.unpack(head)
        table = _at(entry, segments_at, size * count)
        segments = [_SEGMENT.unpack_from(table, index * size) for index in range(count)]
        dynamic = [segment for segment in segments if segment[0] == _PT_DYNAMIC]
        if found != machine or not dynamic:
            return None
        tags: dict[int, int] = {}
        for tag, value in _DYNAMIC.iter_unpack(_at(entry, dynamic[0][2], dynamic[0][5])):
            tags.setdefault(tag, value)
    except struct.error:  # cut short: ldconfig passes over it too
        return None
    if _DT_SONAME not in tags:
        return posixpath.basename(entry.path)
    strings = tags.get(_DT_STRTAB, 0)
    for kind, _, offset, address, _, in_file, _, _ in segments:
        if kind == _PT_LOAD and address <= strings < address + in_file:
            text = _at(entry, offset + strings - address + tags[_DT_SONAME], _LONGEST_NAME)
            return text.partition(b"\0")[0].decode()
    return None


def _at(entry: RootEntry, offset: int, size: int) -> bytes:
    if not isinstance(entry.content, FileSlice):
        return entry.content[offset : offset + size]
    within = max(0, min(size, entry.content.size - offset))
    return FileSlice(entry.content.path, entry.content.offset + offset, within).read()
