"""Read a .deb: an ar archive of two tars, one of control files and one of the files themselves.

Nothing is extracted: the tar of files is unpacked once into a plain spool file, and entries refer to
places in it, so that a compiler's 250 MB are neither held in memory nor written twice.
"""

import gzip
import importlib
import io
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import ImageError, IntegrityError
from .entries import FileSlice, RootEntry, directory, symlink

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_COPY = 1 << 20
_PERMISSIONS = 0o777
_STICKY = 0o1000


@dataclass(frozen=True, slots=True)
class Deb:
    """A package that was read.

    `control` holds its control files by name (`control`, `postinst`, ...), `entries` its paths in tar order,
    as the package spells them (without `./`).
    """

    control: Mapping[str, bytes]
    entries: tuple[RootEntry, ...]


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    size: int


def read_deb(path: Path, spool: Path, *, name: str) -> Deb:
    """Read the archive at `path`; its files' bytes go uncompressed to the new file `spool`. `name` is for errors.

    Raises IntegrityError when it is no .deb, ImageError when it holds what an image must not: a path that
    leaves the root, a device, a compression this machine cannot undo.
    """
    try:
        with path.open("rb") as file:
            members = {_stem(member.name): member for member in _members(file)}
            control = _unpack(file, members["control.tar"], spool, path)
            scripts = {entry.path: entry.read() for entry in control if entry.kind == "file"}
            spool.unlink()
            return Deb(scripts, tuple(_unpack(file, members["data.tar"], spool, path)))
    except KeyError as error:
        raise _broken(name, f"it has no {error.args[0]}") from error
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _broken(name, str(error)) from error
    except ImageError as error:
        raise ImageError(
            f"package {name}: {error.problems[0].what}", where=name, mend=error.problems[0].mend
        ) from error


def control_fields(control: bytes) -> dict[str, str]:
    """The fields of a control file, in its order; continuation lines stay in the value as they are."""
    fields: dict[str, str] = {}
    last = ""
    for line in control.decode("utf-8", "replace").splitlines():
        if line[:1] in {" ", "\t"} and last:
            fields[last] += "\n" + line
        elif ":" in line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    return fields


def _broken(name: str, why: str) -> IntegrityError:
    return IntegrityError(f"this is not a Debian package: {why}", where=name, mend="run `packager lock` again")


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if name.count(".") > 1 else name


def _members(file: IO[bytes]) -> Iterator[_Member]:
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("it is no ar archive")
    while header := file.read(_AR_HEADER):
        if len(header) != _AR_HEADER or header[58:] != b"`\n":
            raise ValueError("an ar header is damaged")
        size = int(header[48:58])
        yield _Member(header[:16].decode("ascii").rstrip(" /"), offset := file.tell(), size)
        file.seek(offset + size + size % 2)


def _unpack(file: IO[bytes], member: _Member, spool: Path, deb: Path) -> list[RootEntry]:
    file.seek(member.offset)
    with spool.open("xb") as target:
        _decompress(_Window(file, member.size), member.name, target, deb)
    with tarfile.open(spool, "r:") as tar:
        return _read_entries(tar, spool)


def _decompress(source: "_Window", name: str, target: IO[bytes], deb: Path) -> None:
    with io.BufferedReader(source, _COPY) as stream:
        match name.rpartition(".")[2]:
            case "tar":
                shutil.copyfileobj(stream, target, _COPY)
            case "xz":
                with lzma.LZMAFile(stream) as plain:
                    shutil.copyfileobj(plain, target, _COPY)
            case "gz":
                with gzip.GzipFile(fileobj=stream) as plain:
                    shutil.copyfileobj(plain, target, _COPY)
            case "zst":
                if not _copy_zstd(stream, target):
                    _ask_dpkg(deb, name, target)
            case _:
                raise ImageError(f"{name} is compressed in an unknown way", mend="use a base image from a registry")


class _Window(io.RawIOBase):
    """The next `size` bytes of an open file, as a file of their own: what decompressors read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _copy_zstd(source: IO[bytes], target: IO[bytes]) -> bool:
    """Whether this Python could undo zstd: Python 3.14 can, and the `zstandard` package lets older ones."""
    for name in ("compression.zstd", "zstandard"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        try:
            if name == "zstandard":
                module.ZstdDecompressor().copy_stream(source, target)
            else:
                shutil.copyfileobj(module.ZstdFile(source), target, _COPY)
        except module.ZstdError as error:
            raise ValueError(str(error)) from error
        return True
    return False


def _ask_dpkg(deb: Path, name: str, target: IO[bytes]) -> None:
    verb = "--ctrl-tarfile" if name.startswith("control") else "--fsys-tarfile"
    try:
        subprocess.run(["dpkg-deb", verb, str(deb)], stdout=target, stderr=subprocess.PIPE, check=True)
    except FileNotFoundError as error:
        raise ImageError(
            f"{name} is compressed with zstd, which this Python cannot undo",
            mend="install the `zstandard` package beside packager, or dpkg, or use Python 3.14",
        ) from error
    except subprocess.CalledProcessError as error:
        raise ValueError(f"dpkg-deb cannot read {name}: {error.stderr.decode(errors='replace').strip()}") from error


def _read_entries(tar: tarfile.TarFile, spool: Path) -> list[RootEntry]:
    entries: list[RootEntry] = []
    files: dict[str, RootEntry] = {}
    for info in tar:
        path = _inside(info.name)
        if not path:
            continue  # the root itself
        if info.isfile() and not info.issparse():
            entry = RootEntry(path, "file", _mode(info), content=FileSlice(spool, info.offset_data, info.size))
        elif info.isdir():
            entry = directory(path, _mode(info))
        elif info.issym():
            if not info.linkname or "\0" in info.linkname or "\n" in info.linkname:
                raise ImageError(f"the link {path} has no usable target", mend="use a base image from a registry")
            entry = symlink(path, info.linkname)
        elif info.islnk():
            # The same bytes under a second name: layers hold no hard links, and what is shared is compressed away.
            twin = files.get(_inside(info.linkname))
            if twin is None:
                raise ImageError(f"{path} is a hard link to nothing in the package", mend="report it")
            entry = RootEntry(path, "file", twin.mode, content=twin.content)
        else:
            raise ImageError(
                f"{path} is a device, a pipe or another special file", mend="use a base image from a registry"
            )
        if entry.kind == "file":
            files[path] = entry
        entries.append(entry)
    return entries


def _inside(name: str) -> str:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or ".." in parts or any(ord(letter) < ord(" ") for letter in name):
        raise ImageError(
            f"the path {name!r} leaves the root or is not printable", mend="use a base image from a registry"
        )
    return "/".join(parts)


def _mode(info: tarfile.TarInfo) -> int:
    """Permissions; the sticky bit of a folder stays, set-user-id and set-group-id never do."""
    return info.mode & (_PERMISSIONS | (_STICKY if info.isdir() else 0))
