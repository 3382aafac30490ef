"""A private apt: its lists, caches and (empty) status file lie in a folder of ours.

It reads the machine's own sources, keys and proxies, needs no root, and installs nothing. Signatures
and hashes are apt's business: what it does not trust, it does not offer.
"""

import errno
import fcntl
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..command import Completed, Runner
from ..digest import sha256_hex
from ..errors import ResolveError
from ..store import write_atomically

# Read after the machine's configuration. Its hooks speak to a desktop or to root's caches, and
# `#clear` is the only way to take a hook out. Foreign architectures are the machine's, not the image's.
_CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
"""

_LISTS_BYTES = 100_000_000
"""What a release's lists take, with apt's own index of them."""
_COULD_NOT_START = 127  # the shell's convention, which Runner follows

_MIRROR = re.compile(r"(?:https?|file)://[^\s\[\]\"'\\]+")


@dataclass(frozen=True, slots=True)
class _Archive:
    """How a distribution lays out its archive: components, and where security updates lie."""

    components: str
    security: str
    keyring: str


# `security` is appended to the mirror's address: Debian keeps a second archive beside the first.
_ARCHIVES = {
    "debian": _Archive("main", "-security", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": _Archive("main universe", "", "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}

DISTRIBUTIONS = tuple(sorted(_ARCHIVES))


@dataclass(frozen=True, slots=True)
class Apt:
    """One private apt: where it keeps its state, for which architecture, from which mirror (None: the machine's)."""

    state: Path
    architecture: str
    mirror: str | None
    run: Runner

    @property
    def root(self) -> Path:
        """Its folder; lists of different sources must not share one, or apt deletes the other's."""
        return self.state.resolve() / f"{self.architecture}-{sha256_hex((self.mirror or '').encode())[:8]}"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold this apt alone among all processes: apt itself does not wait for its locks, it fails."""
        for folder in ("lists/partial", "cache/archives/partial"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        with (self.root / "busy").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            write_atomically(self.root / "apt.conf", _CONFIGURATION.encode())
            write_atomically(self.root / "status", b"")
            if self.mirror is not None:
                write_atomically(self.root / "sources.list", mirror_sources(self.mirror).encode())
            yield

    def has_lists(self) -> bool:
        """Whether an earlier update left lists."""
        return any((self.root / "lists").glob("*_Packages*"))

    def update(self) -> Completed:
        """Refresh the lists; only a mirror that was asked for by name must answer in full.

        One of the machine's own sources may be dead for years; whether that matters shows when a package is missing.
        Raises OSError where the lists have no room: apt waits for ever on a full disk (2.6).
        """
        free = shutil.disk_usage(self.state).free
        if free < _LISTS_BYTES:
            raise OSError(
                errno.ENOSPC, f"apt's lists take {_LISTS_BYTES / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free"
            )
        strict = () if self.mirror is None else ("-o", "APT::Update::Error-Mode=any")
        return self.call("update", *strict)

    def call(self, *arguments: str, cwd: Path | None = None) -> Completed:
        """Run apt-get with `arguments`; raises ResolveError where apt is missing."""
        root = self.root
        options = [
            f"Dir::State={root}",
            f"Dir::State::Lists={root}/lists",
            f"Dir::State::status={root}/status",
            f"Dir::Cache={root}/cache",
            f"APT::Architecture={self.architecture}",
            f"APT::Architectures::={self.architecture}",
        ]
        if self.mirror is not None:
            options += [f"Dir::Etc::SourceList={root}/sources.list", "Dir::Etc::SourceParts=/dev/null"]
        settings = [part for option in options for part in ("-o", option)]
        argv = ["apt-get", "-q", "-c", str(root / "apt.conf"), *settings, *arguments]
        # Its answers are read, so they must not be translated; proxies and the like stay as they are.
        done = self.run(argv, env={**os.environ, "LC_ALL": "C.UTF-8"}, cwd=cwd or root)
        if done.returncode == _COULD_NOT_START:
            raise ResolveError(
                "this machine has no apt, which resolves and fetches Debian packages",
                where="apt-get",
                mend="lock and build on Debian or Ubuntu, or use a base image from a registry (`image.base`)",
            )
        return done


def mirror_sources(mirror: str) -> str:
    """Sources that apt reads for `mirror`: the machine's own release, its updates and its security updates."""
    if not _MIRROR.fullmatch(mirror):
        raise ResolveError(
            "the Debian mirror is not an address that apt can read",
            where=mirror,
            mend="give a base address such as http://mirror.example.com/debian",
        )
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    archive, suite = _ARCHIVES.get(system.get("ID", "")), system.get("VERSION_CODENAME", "")
    if archive is None or not suite:
        raise ResolveError(
            "a Debian mirror was given, but this machine is no Debian or Ubuntu whose release it could follow",
            where=system.get("ID", "os-release"),
            mend="lock and build on Debian or Ubuntu, or use a base image from a registry (`image.base`)",
        )
    base = mirror.rstrip("/")
    lines = [(base, suite), (base, f"{suite}-updates"), (base + archive.security, f"{suite}-security")]
    return "".join(f"deb [signed-by={archive.keyring}] {where} {what} {archive.components}\n" for where, what in lines)


def complaints(*runs: Completed) -> str:
    """What apt complained about, without its line prefixes, for an error's text."""
    lines: Sequence[str] = [
        line[2:].strip() for done in runs for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))
    ]
    return "; ".join(dict.fromkeys(lines)) or "apt gave no reason"
