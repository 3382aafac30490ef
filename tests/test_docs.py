"""The documentation: its links lead somewhere, its commands exist, its specs are specs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from packager.cli.app import COMMANDS, load_command
from packager.spec.load import load_spec

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("README.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


CODE = re.compile(r"^```\w*\n(.*?)^```|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
"""Fenced and indented blocks."""
TYPED = re.compile(r"(?:^|[;&|$]|\bdo) *(?:[A-Z_]+=\S+ )*packager ([^;&|#\n]+)", re.MULTILINE)
HELP = "docs/reference/cli.md"
"""What the commands themselves say, sentences about packager among it."""


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        there = page.parent / target if target else page
        assert there.exists(), f"{name} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text("utf-8")), f"{name} links to {target}#{anchor}"


def anchors(text: str) -> set[str]:
    """What headings are called in addresses."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def typed(text: str) -> Iterator[str]:
    """What stands behind `packager` in each command line of a page's blocks."""
    for block in CODE.finditer(text.replace("\\\n", "")):
        yield from TYPED.findall(re.sub("^ {4}", "", block[1] or block[2], flags=re.MULTILINE))


@pytest.mark.parametrize("name", [one for one in NAMES if one != HELP])
def test_commands_and_options_exist(name: str) -> None:
    """Every `packager ...` of a page names a command and options that there are, and whole lines what has to be named."""
    text = (ROOT / name).read_text("utf-8")
    whole = list(typed(text))
    for line in (*whole, *re.findall(r"`packager ([a-z][^`]+)`", text)):
        words = shlex.split(line)
        assert words[0] in COMMANDS, f"{name}: packager {line}"
        command = load_command(words[0])
        if isinstance(command, click.Group):
            assert words[1] in command.commands, f"{name}: packager {line}"
            command = command.commands[words[1]]
        options = [one for one in command.params if isinstance(one, click.Option)]
        known = {word for one in options for word in (*one.opts, *one.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= known, f"{name}: packager {line}"
        lacking = [one.opts for one in options if one.required and not used & {*one.opts}]
        assert line not in whole or not lacking, f"{name}: packager {line}"


def test_what_is_typed_is_found_wherever_it_stands() -> None:
    page = "Run:\n\n    packager lock\n    X=1 packager plan\n    echo packager no\n\n"
    page += "```\nfor n in 1; do packager bench \\\n  URL; done  # packager no\n```\n"
    assert [line.split() for line in typed(page)] == [["lock"], ["plan"], ["bench", "URL"]]


@pytest.mark.parametrize("name", NAMES)
def test_specs_are_specs(name: str, tmp_path: Path) -> None:
    """Every YAML block that names an engine is a whole spec, and a valid one."""
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)):
        if re.search(r"^name:", block, re.MULTILINE) and re.search(r"^engine:", block, re.MULTILINE):
            path = tmp_path / f"{number}.yaml"
            path.write_text(block)
            load_spec(path)
