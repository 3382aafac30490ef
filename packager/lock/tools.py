"""The effects that locking and assembling need, handed in as one value."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import environ
from ..command import Runner, run_command
from ..errors import OutputError
from ..oci.reference import parse_mirrors
from ..store import Store


def _silent(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Tools:
    """Where things are kept, how programs are run, and whom to tell.

    `run` runs a program to its end. `offline` forbids every fetch. `debian_mirror` replaces apt's own
    mirrors; `registry_mirrors` maps a registry host to `HOST[/PREFIX]` to read from instead.
    `stage` is told the name of each step, `on_bytes` (title, done, total) its progress. `say` is told what a person
    should know: that another build is waited for, that the spec is locked anew and why, what a choice will cost.
    """

    store: Store
    run: Runner
    offline: bool = False
    debian_mirror: str | None = None
    registry_mirrors: Mapping[str, str] = field(default_factory=dict)
    stage: Callable[[str], None] = _silent
    on_bytes: Callable[[str, int, int], None] | None = None
    say: Callable[[str], None] = _silent


@contextmanager
def storing(store: Store) -> Iterator[None]:
    """Turn an OSError of the body that comes of the store, not of what is put into it, into an OutputError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        if not full and not _is_of(store, error.filename):
            raise
        mend = "make room or give access there, or name another folder (PACKAGER_CACHE)"
        what = f"cannot write to the store: {(error.strerror or str(error)).lower()}"
        raise OutputError(what, where=str(store.root), mend=mend) from error


def _is_of(store: Store, name: object) -> bool:
    """Whether what a system call named is in the store, or a folder above it, where the store is to be made."""
    if not isinstance(name, str):
        return False
    place, root = Path(name).absolute(), store.root.absolute()
    return place.is_relative_to(root) or root.is_relative_to(place)


def default_tools() -> Tools:
    """Tools as the environment configures them, without progress: for use from Python."""
    return Tools(
        store=Store(environ.cache_root()),
        run=run_command,
        offline=environ.OFFLINE.get() == "1",
        debian_mirror=environ.DEBIAN_MIRROR.get() or None,
        registry_mirrors=parse_mirrors(environ.REGISTRY_MIRRORS.get()),
    )
