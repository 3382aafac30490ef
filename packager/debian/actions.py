"""What we do in place of a maintainer script: a few plain verbs, and nothing that runs."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Alternative:
    """`update-alternatives --install LINK NAME PATH PRIORITY`; slaves are (link, name, path)."""

    link: str
    name: str
    path: str
    priority: int
    slaves: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """A file with this text, unless a package ships one."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A file with the bytes of `source`, unless a package ships one."""

    path: str
    source: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory, unless a package ships one."""

    path: str
    mode: int = field(default=0o755)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, unless a package ships something there."""

    path: str
    target: str


Action = Alternative | Write | Copy | Folder | Link
