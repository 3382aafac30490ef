"""Debian's real packages, from resolution to a Python that runs in the root file system."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import pytest
from fakes.machine import missing

from packager.command import run_command
from packager.debian import (
    DebianPackage,
    DebianRelease,
    build_rootfs,
    fetch_packages,
    python_facts,
    resolve_packages,
)
from packager.errors import FetchError, ResolveError
from packager.store import Store

pytestmark = pytest.mark.network

PYTHON_SET = ("python3", "ca-certificates", "libgomp1", "libstdc++6", "libc-bin")
COMPILER_SET = (*PYTHON_SET, "dash", "gcc", "libc6-dev", "libnuma1", "python3-dev")
WIDE_SET = (*COMPILER_SET, "curl", "g++", "git", "libopenblas0", "openmpi-bin", "procps", "tini")
REPOSITORY = Path(__file__).parents[2]

PROBE = """
import ctypes, hashlib, lzma, sqlite3, ssl, sys
assert len(ssl.create_default_context().get_ca_certs()) > 100
assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
assert lzma.decompress(lzma.compress(b"x")) == b"x"
ctypes.CDLL("libgomp.so.1"), ctypes.CDLL("libstdc++.so.6")
hashlib.sha256(b"").hexdigest()
print(sys.version.split()[0], sys.path[-2])
"""

# Run in fresh processes: what a build could depend on besides its inputs.
BUILD = """
import hashlib, json, os, sys, time
from pathlib import Path
from packager.debian import DebianPackage, DebianRelease, build_rootfs
os.umask(int(sys.argv[1], 8)); time.tzset()
given = json.load(open(sys.argv[2]))
packages = {DebianPackage(**package): Path(path) for package, path in given["packages"]}
hasher = hashlib.sha256()
for entry in build_rootfs(packages, DebianRelease(**given["release"]), Path(sys.argv[3])):
    hasher.update(f"{entry.path} {entry.kind} {entry.mode:o} {entry.target} {entry.uid} {entry.gid} {entry.size}\\n".encode())
    hasher.update(entry.read())
print(hasher.hexdigest())
"""

# Becomes another user, who owns nothing but the folder in argv, once all is imported: a checkout may lie in /root.
RESOLVE = """
import os, sys
from pathlib import Path
from packager.command import run_command
from packager.debian import fetch_packages, resolve_packages
from packager.store import Store
os.setgroups([]), os.setgid(65532), os.setuid(65532)
state = Path(sys.argv[1])
_, packages = resolve_packages(["tini"], architecture="amd64", state=state / "apt", mirror=None, run=run_command)
found = fetch_packages(packages, Store(state), mirror=None, run=run_command, offline=False, on_bytes=lambda _: None)
print(len(packages), len(found))
"""


class Base:
    """A resolved and fetched set of packages."""

    def __init__(self, names, cache, run=run_command, state="debian"):
        if not shutil.which("apt-get"):
            missing("no apt-get on this machine")
        self.state, self.store = cache / state, Store(cache)
        self.release, self.packages = resolve_packages(
            names, architecture="amd64", state=self.state, mirror=None, run=run
        )
        self.paths = fetch_packages(
            self.packages, self.store, mirror=None, run=run, offline=False, on_bytes=lambda _: None
        )

    def build(self, work):
        given = {package: self.paths[package.sha256] for package in self.packages}
        return build_rootfs(given, self.release, work)

    def to_tar(self, folder):
        path = folder / "root.tar"
        with tarfile.open(path, "w") as tar:
            for entry in self.build(folder / "work"):
                info = tarfile.TarInfo(entry.path)
                info.type = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}[
                    entry.kind
                ]
                info.mode, info.linkname, info.size = entry.mode, entry.target, entry.size
                tar.addfile(info, BytesIO(entry.read()) if entry.kind == "file" else None)
        return path

    def unpack(self, folder):
        if os.geteuid() != 0:
            missing("not root, so a root file system can be neither unpacked with its owners nor entered")
        root = folder / "root"
        root.mkdir(mode=0o755)
        subprocess.run(["tar", "-xpf", self.to_tar(folder), "-C", root], check=True)
        return root


@pytest.fixture(scope="module")
def python_base(shared_cache):
    return Base(PYTHON_SET, shared_cache)


@pytest.fixture(scope="module")
def wide_root(shared_cache, tmp_path_factory):
    root = Base(WIDE_SET, shared_cache).unpack(tmp_path_factory.mktemp("wide"))
    os.mknod(root / "dev" / "null", stat.S_IFCHR, os.makedev(1, 3))  # a container engine brings it
    (root / "dev" / "null").chmod(0o666)
    return root


def inside(root, *argv):
    """What a program says in the root file system, as the image's own user."""
    command = ["chroot", "--userspec=65532:65532", root, *argv]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/usr/sbin"}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cached(root, cache):
    text = subprocess.run(["ldconfig", "-p", "-C", cache], capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in text.splitlines() if "=>" in line]


def test_facts_match_what_runs(python_base, tmp_path):
    facts = python_facts(python_base.packages, python_base.release, python_base.build(tmp_path / "facts"))
    root = python_base.unpack(tmp_path)
    version, site = inside(root, facts.interpreter, "-c", PROBE).split()
    assert version == facts.python
    assert site == facts.site
    assert f"GNU C Library (Debian GLIBC {facts.glibc}" in inside(root, "/lib/x86_64-linux-gnu/libc.so.6")
    assert facts.installed == {}


def test_the_machine_does_not_show(python_base, tmp_path):
    given = {
        "release": asdict(python_base.release),
        "packages": [[asdict(package), str(python_base.paths[package.sha256])] for package in python_base.packages],
    }
    (tmp_path / "given.json").write_text(json.dumps(given))
    answers = set()
    for umask, zone, locale, seed in (("022", "UTC", "C", "0"), ("077", "Asia/Tokyo", "C.UTF-8", "1")):
        environment = {"TZ": zone, "LC_ALL": locale, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        argv = [sys.executable, "-c", BUILD, umask, tmp_path / "given.json", tmp_path / umask]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        answers.add(done.stdout)
    assert len(answers) == 1


def test_offline_needs_only_the_store(python_base, tmp_path):
    def no_apt(argv, *, env=None, cwd=None):
        raise AssertionError(f"{argv} was run offline")

    again = fetch_packages(
        python_base.packages,
        python_base.store,
        mirror=None,
        run=no_apt,
        offline=True,
        on_bytes=lambda _: None,
    )
    assert again == python_base.paths


def test_what_mirrors_do_not_have(python_base, tmp_path):
    with pytest.raises(ResolveError, match="Unable to locate package no-such-package"):
        resolve_packages(
            ["no-such-package"], architecture="amd64", state=python_base.state, mirror=None, run=run_command
        )
    gone = DebianPackage("tini", "0.0-0", "amd64", "tini_0.0-0_amd64.deb", 1, "0" * 64)
    with pytest.raises(FetchError, match=r"has no tini 0\.0-0: Version '0\.0-0' for 'tini' was not found"):
        fetch_packages(
            [gone],
            python_base.store,
            mirror=None,
            run=run_command,
            offline=False,
            on_bytes=lambda _: None,
        )


def test_another_user_resolves_and_fetches():
    if os.geteuid() != 0:
        missing("not root, so this test cannot become another user (the others already run as one)")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65532, 65532)
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE, folder],
            env={
                "PYTHONPATH": str(REPOSITORY),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": folder,
                "PATH": "/usr/bin:/bin",
            },
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    resolved, fetched = done.stdout.split()
    assert resolved == fetched


def test_the_wide_set_works(wide_root, tmp_path):
    source = wide_root / "tmp" / "a.c"
    source.write_text("#include <Python.h>\nint main(void) { return Py_IsInitialized(); }\n")
    version = inside(wide_root, "python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()
    inside(wide_root, "cc", "-o", "/tmp/a", f"-I/usr/include/{version}", "/tmp/a.c", f"-l{version}")
    inside(wide_root, "/tmp/a")
    assert inside(wide_root, "sh", "-c", ". /etc/os-release; echo $ID") == "debian\n"
    assert "libblas" in inside(wide_root, "python3", "-c", "import ctypes; print(ctypes.CDLL('libblas.so.3'))")
    assert inside(wide_root, "git", "version").startswith("git version")
    assert inside(wide_root, "curl", "--version").startswith("curl")
    assert inside(wide_root, "tini", "--version").startswith("tini")
    assert "gcc: /usr/bin/gcc" in inside(wide_root, "dpkg", "-S", "/usr/bin/gcc")
    assert inside(wide_root, "dpkg", "--audit") == ""
    assert inside(wide_root, "which", "awk", "cc", "c++", "mpirun", "which").split() == [
        "/usr/bin/awk",
        "/usr/bin/cc",
        "/usr/bin/c++",
        "/usr/bin/mpirun",
        "/usr/bin/which",
    ]
    links = inside(wide_root, "python3", "-c", BROKEN_LINKS).splitlines()
    assert links == []


# Links of packages whose target only another package brings are Debian's own.
BROKEN_LINKS = """
import os
for folder in ("/etc/alternatives", "/etc/ssl/certs", "/usr/bin", "/usr/sbin", "/usr/lib/ssl"):
    for name in sorted(os.listdir(folder)):
        if not os.path.exists(os.path.join(folder, name)):
            print(os.path.join(folder, name))
"""


def test_ldconfig_agrees(wide_root):
    cache = wide_root / "etc" / "ld.so.cache"
    ours = cached(wide_root, cache)
    links = sorted(str(path) for path in wide_root.rglob("*") if path.is_symlink())
    subprocess.run(["ldconfig", "-r", wide_root], check=True)
    assert cached(wide_root, cache) == ours
    assert sorted(str(path) for path in wide_root.rglob("*") if path.is_symlink()) == links
    assert len(ours) > 100


def test_trixie_is_reviewed(shared_cache, tmp_path):
    keyring = Path("/usr/share/keyrings/debian-archive-trixie-stable.gpg")
    if not keyring.exists():
        missing("this machine does not know the keys of Debian 13 (package debian-archive-keyring)")
    argv = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    listed = run_command(argv).stdout.split("\n")
    main = next((line.split()[1] for line in listed if line.startswith("bookworm ")), "")
    if not main:
        missing("this machine's apt sources have no Debian 12 whose mirror could serve Debian 13")
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [signed-by={keyring.parent}/debian-archive-keyring.gpg] {main} trixie main\n")
    options = ["-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"]

    def run(argv, *, env=None, cwd=None):
        return run_command([argv[0], *options, *argv[1:]], env=env, cwd=cwd)

    base = Base(COMPILER_SET, shared_cache, run, "debian-trixie")
    assert base.release == DebianRelease("debian", "trixie", "amd64")
    root = base.unpack(tmp_path)
    facts = python_facts(base.packages, base.release)
    assert inside(root, facts.interpreter, "-c", PROBE).split() == [facts.python, facts.site]


@pytest.mark.docker
def test_docker_runs_it(python_base, docker_socket, tmp_path):
    import docker

    client = docker.DockerClient(base_url=f"unix://{docker_socket}")
    repository = "packager-test-debian-base"
    try:
        answer = client.api.import_image(str(python_base.to_tar(tmp_path)), repository=repository)
        assert '"error"' not in answer
        facts = python_facts(python_base.packages, python_base.release)
        said = client.containers.run(
            repository,
            [facts.interpreter, "-c", PROBE],
            user="65532:65532",
            read_only=True,
            network_mode="none",
            remove=True,
        )
        assert said.decode().split() == [facts.python, facts.site]
    finally:
        for image in client.images.list(name=repository):
            client.images.remove(image.id, force=True)
        client.close()
