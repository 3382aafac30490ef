"""From Debian packages to a root file system, without root and without running anything of theirs."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import ImageError, Problem
from .archive import Deb, control_fields, read_deb
from .disk import writing
from .entries import FileSlice, Kind, RootEntry, plain_file
from .ldcache import write_cache
from .merge import merge_packages
from .resolve import DebianPackage, DebianRelease
from .scripts import TRIPLETS, judge_scripts
from .synthesis import add_authorities, add_database, add_skeleton, apply_actions

__all__ = ["ROOTFS_FORMAT", "FileSlice", "Kind", "RootEntry", "build_rootfs"]

ROOTFS_FORMAT = 1
"""Part of the key of every layer made from a root file system: bumped when the same packages give other bytes."""

_LANES = min(4, os.cpu_count() or 1)


def build_rootfs(packages: Mapping[DebianPackage, Path], release: DebianRelease, work: Path) -> tuple[RootEntry, ...]:
    """The root file system of `packages` (each with its archive's path), sorted by path.

    A pure function of the archives' bytes and ROOTFS_FORMAT. Files' contents lie in plain spool files that are
    made in `work`, an empty or missing folder, which must live as long as the entries. Raises ImageError with
    every problem: scripts nobody reviewed, packages that contradict each other, entries an image must not hold.
    """
    if release.architecture not in TRIPLETS:
        raise ImageError(
            f"no root file system is made for architecture {release.architecture!r}",
            where=release.suite,
            mend=f"use one of {', '.join(sorted(TRIPLETS))}, or a base image from a registry (`image.base`)",
        )
    ordered = sorted(packages, key=lambda package: package.name)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
        debs = _read_all(ordered, packages, work)
    verdicts = [judge_scripts(package, debs[package.name].control, release.architecture) for package in ordered]
    tree, clashes = merge_packages(debs, {name: _replaced(deb) for name, deb in debs.items()})
    _refuse([*(problem for verdict in verdicts for problem in verdict.problems), *clashes])
    add_skeleton(tree)
    apply_actions(tree, [action for verdict in verdicts for action in verdict.actions])
    add_authorities(tree)
    add_database(tree, debs)
    tree.offer(plain_file("etc/ld.so.cache", write_cache(tree, release.architecture)))
    _refuse(tree.close())
    return tuple(tree.entries[path] for path in sorted(tree.entries))


def _read_all(ordered: list[DebianPackage], packages: Mapping[DebianPackage, Path], work: Path) -> dict[str, Deb]:
    def read(package: DebianPackage) -> Deb:
        deb = read_deb(packages[package], work / f"{package.file}.tar", name=package.file)
        fields = control_fields(deb.control.get("control", b""))
        if (fields.get("Package"), fields.get("Version")) != (package.name, package.version):
            raise ImageError(
                f"the archive holds {fields.get('Package')} {fields.get('Version')}, "
                f"not {package.name} {package.version}",
                where=package.file,
                mend="run `packager lock` again",
            )
        return deb

    # Decompressors let go of the interpreter lock, so lanes are worth their threads; the largest first, so that
    # no lane is left with a compiler at the end.
    largest_first = sorted(ordered, key=lambda package: -package.size)
    with ThreadPoolExecutor(_LANES) as pool:
        return {package.name: deb for package, deb in zip(largest_first, pool.map(read, largest_first), strict=True)}


def _replaced(deb: Deb) -> list[str]:
    """Names of the packages whose files this one may take over."""
    field = control_fields(deb.control["control"]).get("Replaces", "")
    return [match[0] for part in field.split(",") if (match := re.match(r"[a-z0-9][a-z0-9+.-]*", part.strip()))]


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise ImageError.collect(problems)
