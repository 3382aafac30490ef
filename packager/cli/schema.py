"""`packager schema`: the spec's JSON schema, and the check that needs nothing but the spec."""

from pathlib import Path

import click

from ..catalog import find
from ..errors import Problem, SpecError
from ..spec import json_schema, load_spec
from .console import Console


@click.command()
@click.option("--check", is_flag=True, help="Check the given specs instead; exit 1 when one is wrong.")
@click.argument("specs", nargs=-1, metavar="[NAME|PATH]...")
@click.pass_obj
def command(console: Console, specs: tuple[str, ...], *, check: bool) -> None:
    """Print the JSON schema of a spec, or check specs.

    Editors take the schema from a file: `packager schema > packager.schema.json`, and in the first line
    of packager.yaml `# yaml-language-server: $schema=packager.schema.json`.

    With --check, nothing is locked, fetched or written; the specs alone are read.
    """
    if bool(specs) != check:
        raise click.UsageError("--check needs the specs to check" if check else "specs are only read with --check")
    if not check:
        console.data(json_schema())
        return
    problems: list[Problem] = []
    for spec in specs:
        try:
            console.say(f"{_checked(spec)}: no problems")
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError.collect(problems)


def _checked(name_or_path: str) -> str:
    from ..lock.check import check

    file = load_spec(Path(find(name_or_path)))
    check(file)
    return file.shown
