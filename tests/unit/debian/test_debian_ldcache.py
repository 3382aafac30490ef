import shutil
import subprocess

import pytest
from fakes.debs import make_elf

from packager.debian.entries import plain_file, symlink
from packager.debian.ldcache import compare_names, write_cache
from packager.debian.merge import Tree

LIB = "usr/lib/x86_64-linux-gnu"


def tree_of(*entries):
    tree = Tree()
    for entry in entries:
        tree.entries[entry.path] = entry
    assert tree.close() == []
    return tree


def listing(tmp_path, data):
    program = shutil.which("ldconfig") or shutil.which("ldconfig", path="/usr/sbin:/sbin")
    if not program:
        pytest.skip("needs ldconfig")
    path = tmp_path / "cache"
    path.write_bytes(data)
    text = subprocess.run([program, "-p", "-C", path], capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in text.splitlines() if "=>" in line]


@pytest.mark.parametrize(
    ("left", "right", "sign"),
    [
        ("libz.so.1", "libz.so.1", 0),
        ("libz.so.2", "libz.so.10", -1),
        ("libz.so.1", "libz.so", 1),
        ("libz.so", "libz.so.1", -1),
        ("liba.so", "libb.so", -1),
        ("lib1.so", "liba.so", 1),
        ("liba.so", "lib1.so", -1),
        ("lib01.so", "lib1.so", 0),
    ],
)
def test_names_compare_as_the_loader_does(left, right, sign):
    found = compare_names(left, right)
    assert (found > 0) - (found < 0) == sign


def test_the_real_ldconfig_reads_the_cache(tmp_path):
    tree = tree_of(
        plain_file(f"{LIB}/libone.so.1.2", make_elf("libone.so.1")),
        symlink(f"{LIB}/libone.so.1", "libone.so.1.2"),
        symlink(f"{LIB}/libone.so", "libone.so.1"),
        plain_file(f"{LIB}/libtwo.so.10", make_elf("libtwo.so.10")),
        plain_file(f"{LIB}/libtwo.so.9", make_elf("libtwo.so.9")),
        plain_file("usr/lib/libone.so.1", make_elf("libone.so.1")),
        plain_file(f"{LIB}/libtext.so", b"INPUT(-lone)"),
        plain_file(f"{LIB}/libcut.so", make_elf("libcut.so")[:100]),
        plain_file(f"{LIB}/libarm.so.1", make_elf("libarm.so.1", machine=183)),
        plain_file(f"{LIB}/plugin.so", make_elf("plugin.so")),
    )
    assert listing(tmp_path, write_cache(tree, "amd64")) == [
        "libtwo.so.10 (libc6,x86-64) => /lib/x86_64-linux-gnu/libtwo.so.10",
        "libtwo.so.9 (libc6,x86-64) => /lib/x86_64-linux-gnu/libtwo.so.9",
        "libone.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libone.so.1",
        "libone.so.1 (libc6,x86-64) => /lib/libone.so.1",
        "libone.so (libc6,x86-64) => /lib/x86_64-linux-gnu/libone.so",
    ]


def test_configured_folders_come_first_and_missing_links_are_made(tmp_path):
    tree = tree_of(
        plain_file("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n"),
        plain_file("etc/ld.so.conf.d/a.conf", b"# ours\n/opt/lib\n/usr/lib/x86_64-linux-gnu\n"),
        plain_file("opt/lib/libone.so.1.2", make_elf("libone.so.1")),
        plain_file(f"{LIB}/libone.so.1", make_elf("libone.so.1")),
    )
    assert listing(tmp_path, write_cache(tree, "amd64")) == [
        "libone.so.1 (libc6,x86-64) => /opt/lib/libone.so.1",
        "libone.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libone.so.1",
    ]
    assert tree.entries["opt/lib/libone.so.1"].target == "libone.so.1.2"


def test_bytes_are_pinned_by_the_format():
    tree = tree_of(plain_file(f"{LIB}/liba.so.1", make_elf("liba.so.1")))
    strings = b"liba.so.1\0/lib/x86_64-linux-gnu/liba.so.1\0"
    head = b"glibc-ld.so.cache1.1" + b"\1\0\0\0" + bytes([len(strings), 0, 0, 0]) + b"\2\0\0\0" + bytes(16)
    entry = bytes([3, 3, 0, 0, 72, 0, 0, 0, 82, 0, 0, 0]) + bytes(12)
    assert write_cache(tree, "amd64") == head + entry + strings
