"""`packager catalog`: what can be built by name."""

from dataclasses import asdict

import click

from ..catalog import catalog
from .console import Console


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of name, summary, path and refused.")
@click.pass_obj
def command(console: Console, *, as_json: bool) -> None:
    """List the example specs that can be built by name.

    What no supported engine serves is marked: `packager lock NAME` says why, and what to use instead.
    The examples lie in packager's source tree; a packager installed from a wheel has none of them
    and builds the specs whose path you give.
    """
    entries = catalog()
    if as_json:
        console.data([{**asdict(one), "path": str(one.path)} for one in entries])
        return
    width = max((len(one.name) for one in entries), default=0)
    for one in entries:
        mark = "refused: " if one.refused else ""
        console.result(f"{one.name:{width}}  {mark}{one.summary}".rstrip())
    if not entries:
        console.say("no examples are installed; `packager init NAME` writes a spec to start from")
