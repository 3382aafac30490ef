"""`packager lock`: resolve a spec to exact bytes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import Console

if TYPE_CHECKING:
    from ..lock.lockfile import Lock
    from ..spec.load import SpecFile


@click.command("lock")
@click.argument("spec", default=".")
@click.option("--offline", is_flag=True, help="Ask no index, mirror or registry: then only --check works.")
@click.option("--base", help="Stand on this instead: an image of a registry, or the folder of an OCI layout.")
@click.option("--check", is_flag=True, help="Write nothing; fail when the lock does not answer the spec.")
@click.pass_obj
def command(console: Console, spec: str, *, base: str | None, offline: bool, check: bool) -> None:
    """Resolve a spec to exact bytes, and write packager.lock beside it.

    SPEC is a name from `packager catalog`, a packager.yaml or its folder. The lock names wheels,
    Debian packages and weights by version, size and sha256, and no host to get them from.
    """
    from ..catalog import find
    from ..lock.keep import check_lock, write_lock
    from ..lock.lockfile import FILE_NAME
    from ..lock.resolve import resolve
    from ..spec.load import load_spec, on_base
    from .progress import Progress
    from .tools import make_tools

    file = on_base(load_spec(find(spec)), base)
    path = file.folder / FILE_NAME
    if check:
        check_lock(file)
        console.say(f"{path} answers the spec")
        return
    with Progress.start(quiet=console.quiet) as progress:
        lock = resolve(file, make_tools(progress, offline=offline))
    write_lock(lock, path)
    tell(console, file, lock)
    console.result(str(Path(path)))


def tell(console: Console, file: "SpecFile", lock: "Lock") -> None:
    """What was locked, and what a person should know of it."""
    from ..lock.hardware import too_small

    weights = sum(file.size for one in (lock.weights, lock.tokenizer) if one is not None for file in one.files)
    console.say(f"{len(lock.wheels)} wheels, {weights:,} bytes of weights, Python {lock.facts.python}")
    if note := too_small(file.spec, lock.weights):
        console.say(note)
    for contest in lock.contests:
        console.say(f"{contest.path}: {contest.winner} wins over {', '.join(contest.losers)}")
