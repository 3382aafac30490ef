import csv
import importlib.metadata
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.wheels import Entry, make_wheel, zip_bytes

from packager.errors import ImageError, IntegrityError
from packager.facts import BaseFacts
from packager.wheels.archive import content, open_archive
from packager.wheels.read import InstalledFile, ZipMember, read_wheel

ENTRY_POINTS = """
[console_scripts]
tool = tool.cli:main
Tool-2 = tool.cli:App.run [extra]
# a comment
[gui_scripts]
window=tool:window

[other.group]
tool = not:a script
"""

FILES = {
    "tool/__init__.py": b"",
    "tool/cli.py": b"def main(): ...\n" * 500,
    "tool/native.so": Entry(b"\x7fELF" * 100, mode=0o755),
    "tool/raw.bin": Entry(bytes(range(256)) * 300, method=zipfile.ZIP_STORED),
    "tool/data, with comma.txt": "ünïcode\n".encode(),
    "tool/nam\u00e9.txt": b"name\n",
    "tool.pth": b"import tool\n",
    "tool-1.0.data/scripts/shell": b"#!/bin/sh\nexit 0\n",
    "tool-1.0.data/scripts/python-script": b"#!python -u\nprint(1)\n",
    "tool-1.0.data/scripts/pythonw-script": b"#!pythonw\r\nprint(1)\n",
    "tool-1.0.data/scripts/tool-script.py": b"#!python\nstale wrapper\n",
    "tool-1.0.data/scripts/tool": b"#!python\nstale wrapper\n",
    "tool-1.0.data/scripts/empty": b"",
    "tool-1.0.data/data/share/man/man1/tool.1": b".TH\n",
    "tool-1.0.data/headers/tool.h": b"#define TOOL\n",
    "tool-1.0.data/purelib/tool_pure.py": b"pure = 1\n",
    "tool-1.0.data/platlib/tool_plat.py": b"plat = 1\n",
    "tool-1.0.dist-info/licenses/LICENSE": b"free\n",
    "tool-1.0.dist-info/REQUESTED": b"",
    "tool-1.0.dist-info/direct_url.json": b"{}",
}


def by_path(files: tuple[InstalledFile, ...]) -> dict[str, InstalledFile]:
    return {file.path: file for file in files}


def data_of(wheel: Path, file: InstalledFile) -> bytes:
    if isinstance(file.source, bytes):
        return file.source
    with open_archive(wheel) as (archive, _):
        return content(archive, file.path, file.source, limit=1 << 30)


def write_tree(wheel: Path, files: tuple[InstalledFile, ...], root: Path) -> None:
    for file in files:
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data_of(wheel, file))
        path.chmod(file.mode)


def test_every_file_lands_where_the_base_wants_it(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "tool", "1.0", FILES, entry_points=ENTRY_POINTS)
    files = read_wheel(wheel, facts)
    assert [file.path for file in files] == sorted((file.path for file in files), key=str.encode)
    site = "usr/local/lib/python3.11/dist-packages"
    assert {file.path for file in files} == {
        f"{site}/tool-1.0.dist-info/{name}"
        for name in ("INSTALLER", "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    } | {
        f"{site}/{name}"
        for name in (
            *("tool.pth", "tool/__init__.py", "tool/cli.py", "tool/data, with comma.txt", "tool/nam\u00e9.txt"),
            *("tool/native.so", "tool/raw.bin", "tool_plat.py", "tool_pure.py"),
        )
    } | {
        "usr/local/include/python3.11/tool/tool.h",
        "usr/local/share/man/man1/tool.1",
    } | {
        f"usr/local/bin/{name}"
        for name in ("Tool-2", "empty", "python-script", "pythonw-script", "shell", "tool", "window")
    }
    executable = {file.path for file in files if file.mode == 0o755}
    assert executable == {f"{site}/tool/native.so"} | {f.path for f in files if f.path.startswith("usr/local/bin/")}


def test_scripts_name_the_images_interpreter(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "tool", "1.0", FILES, entry_points=ENTRY_POINTS)
    scripts = {f.path.rpartition("/")[2]: data_of(wheel, f) for f in read_wheel(wheel, facts) if "/bin/" in f.path}
    assert scripts["shell"] == b"#!/bin/sh\nexit 0\n"
    assert scripts["python-script"] == b"#!/usr/bin/python3.11\nprint(1)\n"
    assert scripts["pythonw-script"] == b"#!/usr/bin/python3.11\nprint(1)\n"
    assert scripts["Tool-2"] == (
        b"#!/usr/bin/python3.11\n"
        b"import sys\n"
        b"from tool.cli import App\n"
        b"if __name__ == '__main__':\n"
        b"    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n"
        b"    sys.exit(App.run())\n"
    )


def test_members_are_where_they_say(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "tool", "1.0", FILES)
    files = by_path(read_wheel(wheel, facts))
    raw = files["usr/local/lib/python3.11/dist-packages/tool/raw.bin"].source
    assert isinstance(raw, ZipMember)
    assert (raw.method, raw.compressed, raw.size) == ("stored", 76_800, 76_800)
    assert wheel.read_bytes()[raw.offset : raw.offset + raw.compressed] == bytes(range(256)) * 300
    cli = files["usr/local/lib/python3.11/dist-packages/tool/cli.py"].source
    assert isinstance(cli, ZipMember)
    assert (cli.method, cli.size) == ("deflated", 8_000)
    assert cli.compressed < cli.size


def test_record_makes_a_distribution_that_importlib_understands(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "tool", "1.0", FILES, entry_points=ENTRY_POINTS)
    root = tmp_path / "root"
    write_tree(wheel, read_wheel(wheel, facts), root)
    site = root / facts.site[1:]
    distribution = next(iter(importlib.metadata.distributions(name="tool", path=[str(site)])))
    listed = distribution.files or []
    on_disk = {path.resolve() for path in root.rglob("*") if path.is_file()}
    assert {Path(str(file.locate())).resolve() for file in listed} == on_disk
    for file in listed:
        if file.name == "RECORD":
            assert (file.hash, file.size) == (None, None)
        else:
            assert file.hash is not None
            assert file.hash.mode == "sha256"
            assert file.size == Path(str(file.locate())).stat().st_size
    record = (site / "tool-1.0.dist-info/RECORD").read_text()
    rows = [row[0] for row in csv.reader(record.splitlines())]
    assert rows == sorted(rows)
    assert '"tool/data, with comma.txt",sha256=' in record
    assert "../../../bin/tool,sha256=" in record


def pip_install(wheel: Path, prefix: Path) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--ignore-installed", "--no-compile"]
    subprocess.run([*argv, "--prefix", str(prefix), "--quiet", str(wheel)], check=True)


def uv_install(wheel: Path, prefix: Path) -> None:
    from uv import find_uv_bin

    argv = [find_uv_bin(), "pip", "install", "--no-index", "--no-deps", "--quiet", "--python", sys.executable]
    subprocess.run([*argv, "--prefix", str(prefix), "--link-mode", "copy", str(wheel)], check=True)


@pytest.mark.parametrize("install", [pip_install, uv_install])
def test_the_tree_is_what_installers_put_down(
    clients: None, tmp_path: Path, facts: BaseFacts, install: Callable[[Path, Path], None]
) -> None:
    wheel = make_wheel(tmp_path, "tool", "1.0", FILES, entry_points=ENTRY_POINTS)
    prefix = tmp_path / "prefix"
    install(wheel, prefix)
    site = next(prefix.rglob("tool-1.0.dist-info")).parent
    scripts = next(prefix.rglob("shell")).parent
    here = replace(
        facts,
        site=f"/{site.relative_to(prefix)}",
        scripts=f"/{scripts.relative_to(prefix)}",
        interpreter=sys.executable,
        python=".".join(map(str, sys.version_info[:3])),
    )
    ours = {file.path.replace("include/", "include/site/"): file for file in read_wheel(wheel, here)}
    theirs = {
        str(path.relative_to(prefix)).replace("include/python", "include/site/python"): path
        for path in prefix.rglob("*")
        if path.is_file()
    }
    own = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "uv_cache.json", ".lock"}
    wrappers = {"tool", "Tool-2", "window"} | {"tool-script.py"}  # uv keeps setuptools' stale wrapper, pip does not
    compared = {path for path in theirs if path.rpartition("/")[2] not in own | wrappers}
    assert compared == {path for path in ours if path.rpartition("/")[2] not in own | wrappers}
    for path in compared - {p for p in compared if p.endswith("pythonw-script")}:
        assert data_of(wheel, ours[path]) == theirs[path].read_bytes(), path
        # pip leaves a script as the archive has it; PEP 427 has installers set the bit, and uv does
        executable = bool(theirs[path].stat().st_mode & 0o100) or path.startswith("bin/")
        assert (ours[path].mode == 0o755) == executable, path
    for name in ("tool", "Tool-2", "window"):
        assert theirs[f"{scripts.relative_to(prefix)}/{name}"].read_text().splitlines()[0] == f"#!{sys.executable}"


def test_a_script_runs(tmp_path: Path, facts: BaseFacts) -> None:
    files = {"greet.py": b"import sys\nclass A:\n    @staticmethod\n    def go(): print(sys.argv); return 3\n"}
    wheel = make_wheel(tmp_path, "greet", "1.0", files, entry_points="[console_scripts]\ngreet = greet:A.go\n")
    write_tree(wheel, read_wheel(wheel, facts), tmp_path / "root")
    script = tmp_path / "root/usr/local/bin/greet"
    done = subprocess.run(
        [sys.executable, script, "x"],
        env={"PYTHONPATH": str(tmp_path / "root" / facts.site[1:])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, f"{[str(script), 'x']}\n")


@pytest.mark.parametrize("row", [None, "", "md5=x,1", "sha256=%%%,6", "sha256=YWJj,6", "sha256=" + "A" * 43 + ",999"])
def test_a_record_that_says_nothing_usable_is_made_good(tmp_path: Path, facts: BaseFacts, row: str | None) -> None:
    right = read_wheel(make_wheel(tmp_path / "a", "lib"), facts)
    lenient = read_wheel(make_wheel(tmp_path / "b", "lib", record={"lib.py": row}), facts)
    path = f"{facts.site[1:]}/lib-1.0.dist-info/RECORD"
    assert by_path(lenient)[path].source == by_path(right)[path].source


def test_record_may_name_what_is_not_there(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib")
    with zipfile.ZipFile(wheel) as archive:
        entries = {name: Entry(archive.read(name)) for name in archive.namelist()}
    entries["lib-1.0.dist-info/RECORD"] = Entry(b"gone.py,sha256=x,1\nlib-1.0.dist-info/RECORD,,\n")
    wheel.write_bytes(zip_bytes(entries))
    record = by_path(read_wheel(wheel, facts))[f"{facts.site[1:]}/lib-1.0.dist-info/RECORD"].source
    assert isinstance(record, bytes)
    assert b"gone" not in record
    assert b"lib.py,sha256=" in record


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.py", "/etc/passwd", "a/../../evil.py", "a\\b.py", "C:/evil.py", "a//b.py", "./a.py"),
        *("a/./b.py", "line\nbreak.py", "bell\x07.py"),
    ],
)
def test_unsafe_names_are_refused(tmp_path: Path, facts: BaseFacts, name: str) -> None:
    wheel = make_wheel(tmp_path, "lib", "1.0", {"lib.py": b"", name: b""})
    with pytest.raises(ImageError, match="unsafe name"):
        read_wheel(wheel, facts)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"lib-1.0.data/purelib/lib.py": b"2", "lib.py": b"1"}, "installs two files at /usr/local/lib"),
        ({"lib": b"1", "lib/x.py": b"1"}, "as a file and as a folder"),
        ({"lib-1.0.data/nowhere/x": b"1"}, "installed in no known place"),
        ({"lib-1.0.data/scripts": b"1"}, "installed in no known place"),
        ({"other-2.dist-info/METADATA": b""}, "2 .dist-info folders"),
        ({"lib.py": Entry(b"x" * 99, method=zipfile.ZIP_BZIP2)}, "compressed by method 12"),
        ({"lib-1.0.data/scripts/x": b"1", "lib-1.0.data/data/bin/x": b"2"}, "installs two files at /usr/local/bin/x"),
    ],
)
def test_wheels_that_cannot_be_installed(
    tmp_path: Path, facts: BaseFacts, files: dict[str, bytes | Entry], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        read_wheel(make_wheel(tmp_path, "lib", "1.0", files), facts)


@pytest.mark.parametrize("line", ["x = lib", "../x = lib:main", "a/b = lib:main", ".. = lib:main", "= lib:main", "x"])
def test_entry_points_that_are_no_scripts(tmp_path: Path, facts: BaseFacts, line: str) -> None:
    wheel = make_wheel(tmp_path, "lib", entry_points=f"[console_scripts]\n{line}\n")
    with pytest.raises(ImageError, match="cannot become a script"):
        read_wheel(wheel, facts)


def test_an_interpreter_too_long_for_a_first_line(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib", entry_points="[console_scripts]\nx = lib:main\n")
    assert read_wheel(wheel, replace(facts, interpreter="/" + "p" * 123))
    with pytest.raises(ImageError, match="too long or has a space"):
        read_wheel(wheel, replace(facts, interpreter="/" + "p" * 125))


def test_prefix_at_the_root(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib", "1.0", {"lib-1.0.data/data/etc/x": b"", "lib-1.0.data/headers/h": b""})
    paths = by_path(read_wheel(wheel, replace(facts, scripts="/bin")))
    assert {"etc/x", "include/python3.11/lib/h"} <= paths.keys()


def test_links_are_files_as_installers_write_them(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib")
    with zipfile.ZipFile(wheel, "a") as archive:
        info = zipfile.ZipInfo("liblink.so")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "lib.so")
    link = by_path(read_wheel(wheel, facts))[f"{facts.site[1:]}/liblink.so"]
    assert (link.mode, data_of(wheel, link)) == (0o644, b"lib.so")


def test_streamed_and_zip64_entries(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib")
    entries = zipfile.ZipFile(wheel)
    buffer = io.BytesIO()

    class Unseekable(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            return buffer.write(data)

    with entries, zipfile.ZipFile(Unseekable(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name in entries.namelist():  # sizes follow the data, in descriptors, and as zip64
            with archive.open(name, "w", force_zip64=True) as target:
                target.write(entries.read(name))
    streamed = tmp_path / "streamed.whl"
    streamed.write_bytes(buffer.getvalue())
    expected = by_path(read_wheel(wheel, facts))
    found = by_path(read_wheel(streamed, facts))
    assert found.keys() == expected.keys()
    for path, file in found.items():
        assert data_of(streamed, file) == data_of(wheel, expected[path])


def test_encrypted_entries_are_refused(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib")
    data = bytearray(wheel.read_bytes())
    data[6] |= 1  # the first entry's flags in its local header
    wheel.write_bytes(data)
    with pytest.raises(ImageError, match="encrypted"):
        read_wheel(wheel, facts)


def test_repeated_names_are_refused(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("lib.py", "y = 2\n")
    with pytest.raises(ImageError, match="two entries are named"):
        read_wheel(wheel, facts)


def test_headers_that_disagree_are_refused(tmp_path: Path, facts: BaseFacts) -> None:
    wheel = make_wheel(tmp_path, "lib")
    wheel.write_bytes(wheel.read_bytes().replace(b"lib.py", b"evi.py", 1))
    with pytest.raises(IntegrityError, match="disagree"):
        read_wheel(wheel, facts)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + b"\0" * 18, b"no zip at all" * 99])
def test_what_is_no_wheel(tmp_path: Path, facts: BaseFacts, data: bytes) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(data)
    with pytest.raises((ImageError, IntegrityError)):
        read_wheel(path, facts)
    with pytest.raises(IntegrityError, match="cannot read the wheel"):
        read_wheel(tmp_path / "none.whl", facts)


@pytest.mark.parametrize("text", ["Wheel-Version: 2.0\n", "Tag: x\n", ""])
def test_unknown_wheel_formats(tmp_path: Path, facts: BaseFacts, text: str) -> None:
    wheel = make_wheel(tmp_path, "lib")
    with zipfile.ZipFile(wheel) as archive:
        entries = {name: Entry(archive.read(name)) for name in archive.namelist()}
    entries["lib-1.0.dist-info/WHEEL"] = Entry(text.encode())
    wheel.write_bytes(zip_bytes(entries))
    with pytest.raises(ImageError, match="the wheel has format"):
        read_wheel(wheel, facts)


@pytest.mark.parametrize("name", ["RECORD", "WHEEL"])
def test_ledgers_that_are_missing(tmp_path: Path, facts: BaseFacts, name: str) -> None:
    wheel = make_wheel(tmp_path, "lib")
    with zipfile.ZipFile(wheel) as archive:
        entries = {n: Entry(archive.read(n)) for n in archive.namelist() if not n.endswith(name)}
    wheel.write_bytes(zip_bytes(entries))
    with pytest.raises(IntegrityError, match=f"has no lib-1.0.dist-info/{name}"):
        read_wheel(wheel, facts)
