"""The documentation: its links lead somewhere, its commands exist, its specs are specs."""

import re
import shlex
from pathlib import Path

import click
import pytest

from packager.cli.app import COMMANDS, load_command
from packager.spec.load import load_spec

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("README.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name} links to {target}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_options_exist(name: str) -> None:
    """Every `packager ...` line of a page names a command and options that there are."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", "")
    lines = re.findall(r"^\s{4}packager (.+)$", text, re.MULTILINE) + re.findall(r"`packager ([a-z][^`]+)`", text)
    for line in lines:
        words = shlex.split(line.partition("#")[0])
        assert words[0] in COMMANDS, f"{name}: packager {line}"
        command = load_command(words[0])
        if isinstance(command, click.Group):
            assert words[1] in command.commands, f"{name}: packager {line}"
            command = command.commands[words[1]]
        known = {option for one in command.params if isinstance(one, click.Option) for option in one.opts}
        known |= {option for one in command.params for option in one.secondary_opts} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{name}: packager {line}"


@pytest.mark.parametrize("name", NAMES)
def test_specs_are_specs(name: str, tmp_path: Path) -> None:
    """Every YAML block that names an engine is a whole spec, and a valid one."""
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)):
        if re.search(r"^name:", block, re.MULTILINE) and re.search(r"^engine:", block, re.MULTILINE):
            path = tmp_path / f"{number}.yaml"
            path.write_text(block)
            load_spec(path)
