"""The effects that locking and assembling need, handed in as one value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..store import Store
from ..wheels.run import Runner


def _silent(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Tools:
    """Where things are kept, how programs are run, and whom to tell.

    `run` runs a program to its end. `offline` forbids every fetch. `debian_mirror` replaces apt's own
    mirrors; `registry_mirrors` maps a registry host to `HOST[/PREFIX]` to read from instead.
    `stage` is told the name of each step, `on_bytes` (title, done, total) its progress.
    """

    store: Store
    run: Runner
    offline: bool = False
    debian_mirror: str | None = None
    registry_mirrors: Mapping[str, str] = field(default_factory=dict)
    stage: Callable[[str], None] = _silent
    on_bytes: Callable[[str, int, int], None] | None = None
