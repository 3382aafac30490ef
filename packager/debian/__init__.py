"""Debian packages as a base: resolve, fetch, read and unpack them without root and without their scripts."""

from .facts import python_facts
from .fetch import fetch_packages
from .resolve import DebianPackage, DebianRelease, resolve_packages
from .rootfs import ROOTFS_FORMAT, FileSlice, RootEntry, build_rootfs

__all__ = [
    "ROOTFS_FORMAT",
    "DebianPackage",
    "DebianRelease",
    "FileSlice",
    "RootEntry",
    "build_rootfs",
    "fetch_packages",
    "python_facts",
    "resolve_packages",
]
