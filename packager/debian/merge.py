"""Put the files of many packages into one tree with a merged /usr."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import Problem
from .archive import Deb
from .entries import RootEntry, directory, symlink

MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
"""Folders of the root that are links into /usr."""

# Folders that a booted Debian turns into links; a container boots without anyone to do it.
_MOVED = {**{name: f"usr/{name}" for name in MERGED}, "var/run": "run", "var/lock": "run/lock"}

_LEFT_OUT = tuple(
    f"usr/share/{name}/"
    for name in ("bug", "doc", "doc-base", "gtk-doc", "help", "info", "lintian", "linda", "locale", "man", "omf")
)
_LICENCES = ("copyright", "licence", "license", "notice")


@dataclass(slots=True)
class Tree:
    """A root file system that is being put together: entries by path, and which package each came from."""

    entries: dict[str, RootEntry] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def offer(self, entry: RootEntry) -> None:
        """Add an entry of ours, unless something is there already."""
        entry = replace(entry, path=place(entry.path))
        self.entries.setdefault(entry.path, entry)

    def find(self, path: str) -> RootEntry | None:
        """The file or folder that `path` leads to, through symbolic links; None where it leads nowhere."""
        for _ in range(40):  # the kernel's own limit
            parts = place(path).split("/")
            for depth in range(1, len(parts) + 1):
                entry = self.entries.get("/".join(parts[:depth]))
                if entry is not None and entry.kind == "symlink":
                    parent = "" if entry.target.startswith("/") else posixpath.dirname(entry.path)
                    path = posixpath.normpath("/" + posixpath.join(parent, entry.target, *parts[depth:])).strip("/")
                    break
            else:
                return self.entries.get("/".join(parts))
        return None

    def close(self) -> list[Problem]:
        """Add the folders that are missing above entries; the answer is what lies below something that is no folder."""
        problems = []
        for path in list(self.entries):
            parent = posixpath.dirname(path)
            while parent:
                above = self.entries.setdefault(parent, directory(parent))
                if above.kind != "directory":
                    problems.append(
                        Problem(
                            f"package {self.owners.get(path, 'packager')} puts {path} below {parent}, "
                            f"which package {self.owners.get(parent, 'packager')} makes a {above.kind}",
                            f"/{path}",
                            "leave one of the packages out, or use a base image from a registry (`image.base`)",
                        )
                    )
                    break
                parent = posixpath.dirname(parent)
        return problems


def place(path: str) -> str:
    """Where `path` (absolute or relative to the root) lies in a root with a merged /usr."""
    path = path.strip("/")
    for old, new in _MOVED.items():
        if path == old or path.startswith(old + "/"):
            return new + path[len(old) :]
    return path


def merged_links() -> list[RootEntry]:
    """The links that make /usr merged; /lib32 and /libx32 only matter to other architectures."""
    links = [symlink(name, f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")]
    return [*links, symlink("var/run", "/run"), symlink("var/lock", "/run/lock")]


def merge_packages(debs: Mapping[str, Deb], replaces: Mapping[str, Sequence[str]]) -> tuple[Tree, list[Problem]]:
    """One tree of all packages, by name; `replaces` says whose files each package may take over.

    Two packages may ship one path when it is the same thing in both, or when one replaces the other.
    """
    tree, problems = Tree(), []
    for name in sorted(debs):
        for entry in debs[name].entries:
            if entry.path in MERGED and entry.kind == "symlink":
                continue  # newer base-files bring the links of the merged /usr, which are ours already
            placed = _placed(entry)
            if not _wanted(placed):
                continue
            other = tree.owners.get(placed.path)
            if other is None or other == name:
                tree.entries[placed.path], tree.owners[placed.path] = placed, name
                continue
            winner = _winner(tree.entries[placed.path], placed, (other, name), replaces)
            if winner is None:
                problems.append(_clash(placed.path, other, name))
            else:
                tree.entries[placed.path] = winner
                tree.owners[placed.path] = name if winner is placed else other
    return tree, problems


def _placed(entry: RootEntry) -> RootEntry:
    path = place(entry.path)
    if path == entry.path or entry.kind != "symlink" or entry.target.startswith("/"):
        return replace(entry, path=path)
    # A relative link that moved one folder down points where it did only if it never climbed out of its folder.
    top = entry.path.split("/", 1)[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.target))
    if target == top or target.startswith(top + "/"):
        return replace(entry, path=path)
    return replace(entry, path=path, target="/" + target.removeprefix("../"))


def _wanted(entry: RootEntry) -> bool:
    """Manuals, translations and documentation stay out; licences stay in."""
    if not f"{entry.path}/".startswith(_LEFT_OUT):
        return True
    parts = entry.path.split("/")
    if parts[2] != "doc" or entry.kind == "directory":
        return False
    # A package's documentation folder may be a link to the one that holds the licence of both.
    return (entry.kind == "symlink" and len(parts) == 4) or parts[-1].lower().startswith(_LICENCES)


def _winner(
    old: RootEntry, new: RootEntry, names: tuple[str, str], replaces: Mapping[str, Sequence[str]]
) -> RootEntry | None:
    if old.kind == new.kind == "directory":
        return old if old.mode >= new.mode else new  # so that 1777 wins wherever it is asked for
    if (old.kind, old.target, old.size, old.mode) == (new.kind, new.target, new.size, new.mode) and (
        old.read() == new.read()
    ):
        return old
    old_takes, new_takes = names[1] in replaces[names[0]], names[0] in replaces[names[1]]
    if old_takes == new_takes or "directory" in {old.kind, new.kind}:
        return None
    return old if old_takes else new


def _clash(path: str, first: str, second: str) -> Problem:
    return Problem(
        f"packages {first} and {second} both ship /{path} with different contents, and neither replaces the other",
        f"/{path}",
        "leave one of them out, or use a base image from a registry (`image.base`)",
    )
