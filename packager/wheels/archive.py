"""The members of a zip archive, checked: where each one's compressed bytes lie, without inflating them.

Only what wheels use: stored and deflated members, zip64, data descriptors (sizes come from the central
directory). Format: PKWARE's APPNOTE 6.3; the rules that make a wheel's archive safe to read are those of
https://packaging.python.org/en/latest/specifications/binary-distribution-format/.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from ..digest import CHUNK
from ..errors import ImageError, IntegrityError

_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED, _DESCRIPTOR, _PATCHED, _UTF8, _MASKED = 0x1, 0x8, 0x20, 0x800, 0x2000
_ZIP64_SIZE = 0xFFFFFFFF
_METHODS: dict[int, Literal["stored", "deflated"]] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_SYMLINK, _TYPES = 0o120000, 0o170000


@dataclass(frozen=True, slots=True)
class ZipMember:
    """Where a member's bytes lie in its archive.

    `offset` is that of the first compressed byte; `compressed` and `size` are lengths in bytes before and
    after inflating; `crc32` is of the inflated bytes. `stored` members are not compressed.
    """

    offset: int
    compressed: int
    size: int
    crc32: int
    method: Literal["stored", "deflated"]


@dataclass(frozen=True, slots=True)
class Archived:
    """One file of an archive: its name as written there, whether any execute bit is set, its bytes' place."""

    name: str
    executable: bool
    member: ZipMember


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[BinaryIO, tuple[Archived, ...]]]:
    """The archive's file and its members, in the directory's order, folders left out.

    Raises IntegrityError when it is no sound zip archive, ImageError when it holds what cannot be
    installed (encrypted or oddly compressed members, unsafe or repeated names).
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise IntegrityError(f"cannot read the wheel: {error.strerror}", where=str(path)) from error
    with file:
        yield file, _members(file, path)


def content(file: BinaryIO, name: str, member: ZipMember, *, limit: int) -> bytes:
    """The member's inflated bytes. Raises IntegrityError when they are damaged or more than `limit`."""
    if member.size > limit:
        raise IntegrityError(f"{name} has {member.size} bytes; at most {limit} are believed", where=file.name)
    return b"".join(inflate(file, name, member))


def inflate(file: BinaryIO, name: str, member: ZipMember) -> Iterator[bytes]:
    """The member's inflated bytes in pieces of about 1 MiB, checked against its size and crc32.

    Raises IntegrityError at the end (or as soon as it shows) when they are damaged.
    """
    size = crc = 0
    for piece in _pieces(file, name, member):
        size += len(piece)
        if size > member.size:
            break
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != member.size or crc != member.crc32:
        raise IntegrityError(f"{name} is damaged: its size or checksum is not the directory's", where=file.name)


def _pieces(file: BinaryIO, name: str, member: ZipMember) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, member.compressed, CHUNK):
        raw = os.pread(file.fileno(), min(CHUNK, member.compressed - start), member.offset + start)
        if member.method == "stored":
            yield raw
            continue
        while raw:
            try:
                yield inflater.decompress(raw, CHUNK)
            except zlib.error as error:
                raise IntegrityError(f"{name} cannot be inflated: {error}", where=file.name) from error
            raw = inflater.unconsumed_tail
    if member.method == "deflated":
        yield inflater.flush()  # what the last call had no room for


def beginning(file: BinaryIO, member: ZipMember, length: int) -> bytes:
    """At most the first `length` bytes of the member, unchecked; empty when they cannot be inflated."""
    data = os.pread(file.fileno(), min(member.compressed, length + 1024), member.offset)
    if member.method == "stored":
        return data[:length]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length)
    except zlib.error:
        return b""


def _members(file: BinaryIO, path: Path) -> tuple[Archived, ...]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    # zipfile lets all of these through for damaged directories
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError, OSError) as error:
        raise IntegrityError(f"not a sound zip archive: {error}", where=str(path)) from error
    offsets: dict[str, int] = {}
    reached = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = info.orig_filename
        if name in offsets:
            raise ImageError(f"two entries are named {name}", where=str(path))
        if info.header_offset < reached:
            raise IntegrityError(f"the entry {name} overlaps another", where=str(path))
        offsets[name] = _data_offset(file, info, path)
        reached = offsets[name] + info.compress_size
    if reached > end:
        raise IntegrityError("an entry reaches into the directory", where=str(path))
    return tuple(
        Archived(_safe(info.orig_filename, path), _executable(info), _member(info, offsets[info.orig_filename], path))
        for info in infos
        if not info.orig_filename.endswith("/")
    )


def _member(info: zipfile.ZipInfo, offset: int, path: Path) -> ZipMember:
    return ZipMember(offset, info.compress_size, info.file_size, info.CRC, _method(info, path))


def _data_offset(file: BinaryIO, info: zipfile.ZipInfo, path: Path) -> int:
    """Where the data begins, from the local header, which must agree with the directory."""
    try:
        header = os.pread(file.fileno(), _LOCAL.size, info.header_offset)
        signature, _, flags, method, _, _, crc, compressed, size, name_length, extra = _LOCAL.unpack(header)
        name = os.pread(file.fileno(), name_length, info.header_offset + _LOCAL.size)
        text = name.decode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    except (struct.error, OSError, OverflowError, UnicodeDecodeError) as error:
        raise IntegrityError(f"the entry {info.orig_filename} has no readable header", where=str(path)) from error
    agrees = signature == _LOCAL_SIGNATURE and text == info.orig_filename and method == info.compress_type
    if agrees and not flags & _DESCRIPTOR:
        agrees = (
            crc == info.CRC
            and compressed in {info.compress_size, _ZIP64_SIZE}
            and size in {info.file_size, _ZIP64_SIZE}
        )
    if not agrees:
        raise IntegrityError(f"the entry {info.orig_filename} and the directory disagree", where=str(path))
    if (flags | info.flag_bits) & (_ENCRYPTED | _PATCHED | _MASKED):
        raise ImageError(f"the entry {info.orig_filename} is encrypted or patched", where=str(path))
    return info.header_offset + _LOCAL.size + int(name_length) + int(extra)


def _method(info: zipfile.ZipInfo, path: Path) -> Literal["stored", "deflated"]:
    method = _METHODS.get(info.compress_type)
    if method is None:
        raise ImageError(
            f"the entry {info.orig_filename} is compressed by method {info.compress_type}",
            where=str(path),
            mend="rebuild the wheel with deflate, the method that every installer reads",
        )
    if method == "stored" and info.compress_size != info.file_size:
        raise IntegrityError(f"the stored entry {info.orig_filename} has two sizes", where=str(path))
    return method


def _executable(info: zipfile.ZipInfo) -> bool:
    mode = info.external_attr >> 16
    # installers write a link's target as a plain file, so its 0777 means nothing
    return bool(mode & 0o111) and mode & _TYPES != _SYMLINK


def _safe(name: str, path: Path) -> str:
    """`name`, when it stays inside the folder it is unpacked to and means the same everywhere."""
    parts = name.split("/")
    unsafe = "" in parts or "." in parts or ".." in parts or "\\" in name or ":" in parts[0]
    if unsafe or not name.isprintable():  # which NUL and ends of lines are not
        raise ImageError(f"the entry {name!r} has an unsafe name", where=str(path), mend="do not install this wheel")
    return name
