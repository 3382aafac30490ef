"""Small real .deb files, shared objects and an apt that serves them."""

import hashlib
import io
import lzma
import os
import struct
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from packager.command import Completed
from packager.debian import DebianPackage, DebianRelease

RELEASE = DebianRelease("debian", "bookworm", "amd64")


def make_tar(entries):
    """A tar of (path, kind, value, mode): a file's bytes, a link's target, a hard link's twin."""
    types = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}
    types |= {"hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, kind, value, mode in entries:
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.mtime = types[kind], mode, 1_700_000_000
            if kind == "file":
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
            else:
                info.linkname = value
                tar.addfile(info)
    return out.getvalue()


def make_ar(members):
    data = b"!<arch>\n"
    for name, content in members:
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        data += b"\n" * (len(content) % 2)
    return data


def make_deb(name, entries, *, version="1.0-1", fields="", scripts=None, compress=lzma.compress, suffix=".xz"):
    """The bytes of a .deb."""
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\n{fields}"
    control += f"Description: {name}\n a test\n"
    files = [("./control", "file", control.encode(), 0o644)]
    files += [(f"./{script}", "file", text.encode(), 0o755) for script, text in (scripts or {}).items()]
    return make_ar(
        [
            ("debian-binary", b"2.0\n"),
            (f"control.tar{suffix}", compress(make_tar(files))),
            (f"data.tar{suffix}", compress(make_tar(entries))),
        ]
    )


def describe(name, data, version="1.0-1"):
    file = f"{name}_{version.replace(':', '%3a')}_amd64.deb"
    return DebianPackage(name, version, "amd64", file, len(data), hashlib.sha256(data).hexdigest())


def write_debs(folder: Path, debs):
    """Write archives by name; the answer is what build_rootfs takes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, data in debs.items():
        package = describe(name, data)
        path = folder / package.file
        path.write_bytes(data)
        found[package] = path
    return found


def make_elf(soname, machine=62):
    """A shared object of nothing but a soname: one segment, its dynamic section and strings."""
    strings = b"\0" + soname.encode() + b"\0"
    head, table = 64, 2 * 56
    dynamic_at = head + table
    dynamic = [(5, dynamic_at + 48), (14, 1), (0, 0)]
    size = dynamic_at + 48 + len(strings)
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, head, 0, 0, head, 56, 2, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    elf += struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, dynamic_at, dynamic_at, 48, 48, 8)
    return elf + b"".join(struct.pack("<QQ", *pair) for pair in dynamic) + strings


@dataclass
class FakeApt:
    """apt-get as far as packager calls it, serving `archives` (by name=version) and recording what it was asked."""

    archives: dict[str, bytes] = field(default_factory=dict)
    lists: str = "Debian|bookworm-security\nDebian|bookworm\n"
    install: Completed = field(default_factory=lambda: Completed(0, "", ""))
    refresh: Completed = field(default_factory=lambda: Completed(0, "", ""))
    missing: bool = False
    calls: list[list[str]] = field(default_factory=list)

    def __call__(self, argv, *, env=None, cwd=None):
        assert env is not None
        assert env["LC_ALL"] == "C.UTF-8"
        assert env["PATH"] == os.environ["PATH"]
        if self.missing:
            return Completed(127, "", f"{argv[0]}: No such file or directory")
        self.calls.append(list(argv))
        if "update" in argv:
            return self.refresh
        if "indextargets" in argv:
            return Completed(0, self.lists, "")
        if "download" in argv:
            return self._download(argv[argv.index("download") + 1 :], Path(cwd))
        return self.install

    def _download(self, wanted, folder):
        for item in wanted:
            name, _, version = item.partition("=")
            if item not in self.archives:
                return Completed(100, "", f"E: Version '{version}' for '{name}' was not found\n")
        for item in wanted:
            name, _, version = item.partition("=")
            (folder / describe(name, b"", version).file).write_bytes(self.archives[item])
        return Completed(0, "", "")
