"""Writes docs/reference/, and what `packager plan` says in the examples' READMEs, so that they cannot disagree with the code.

`docs/generate.py --write` writes the pages; `--check` changes nothing, and exits 1 when a page is not what the code says.
"""

import argparse
import inspect
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import click  # noqa: E402

import packager  # noqa: E402
from packager import environ, errors  # noqa: E402
from packager.cli import app  # noqa: E402
from packager.digest import readable_json  # noqa: E402
from packager.recipes import RECIPES  # noqa: E402
from packager.recipes.gpus import GPUS, shown  # noqa: E402
from packager.recipes.recipe import Recipe, Record, Vendor  # noqa: E402
from packager.spec import json_schema  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
EXAMPLES = ROOT / "examples"
NOTE = "<!-- Made by docs/generate.py: change the code, then run `python docs/generate.py --write`. -->"


def spec_page() -> str:
    schema = json_schema()
    lines = [NOTE, "", "# The spec: packager.yaml", "", SPEC_HEAD]
    sections(schema, schema, "", lines)
    return "\n".join(lines) + "\n"


SPEC_HEAD = """\
What a `packager.yaml` may say. Unknown keys are refused; all problems are reported at once, each with its line.
`packager schema` prints this as JSON schema for editors, `packager schema --check PATH` checks a spec.

Read is plain YAML 1.2: `no`, `on` and `yes` are text, only `true` and `false` are booleans. Anchors, aliases, tags,
duplicate keys, a second document and files over 1 MiB are refused, and so are numbers that YAML 1.1 and 1.2 read
differently (`0777`, `0x1F`): in quotes they are text. No text holds a line break or a control character.
"""


def sections(model: dict[str, Any], root: dict[str, Any], path: str, lines: list[str]) -> None:
    """One table for `model`, then one for each model below it."""
    below: list[tuple[str, dict[str, Any]]] = []
    lines += ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in model["properties"].items():
        parts = list(models_of(field, root))
        below += [(f"{path}{name}", part) for part in parts]
        one = bool(parts) and "items" not in field
        default = "**required**" if name in model.get("required", ()) else "" if one else default_text(field)
        kind = ("list of sections" if "items" in field else "section") if parts else type_text(field)
        lines.append(f"| `{path}{name}` | {kind} | {default} | {cell(field.get('description', ''))} |")
    lines.append("")
    for inner, part in below:
        tag = part["properties"].get("kind", {}).get("const")
        lines += [f"## {inner}" + (f", kind: {tag}" if tag else ""), "", cell(part["description"]), ""]
        sections(part, root, f"{inner}.", lines)


def models_of(field: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The models that a field may hold."""
    if "$ref" in field:
        yield root["$defs"][field["$ref"].rpartition("/")[2]]
    for part in [*field.get("oneOf", []), *field.get("anyOf", []), *([field["items"]] if "items" in field else [])]:
        yield from models_of(part, root)


def type_text(field: dict[str, Any]) -> str:
    """A field's type in words."""
    if "anyOf" in field:
        kinds = [type_text(part) for part in field["anyOf"] if part.get("type") != "null"]
        # Where nothing is the default, nobody writes null; where it is not, that is how to say "none".
        return " or ".join([*kinds, "`null`"] if field.get("default") is not None else kinds)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    match field["type"]:
        case "integer":
            return f"whole number, {field['minimum']} to {field['maximum']}"
        case "number":
            return f"number, more than {field['exclusiveMinimum']}, at most {field['maximum']}"
        case "array":
            return f"list of {type_text(field['items'])}"
        case "object":
            return "mapping of names to text"
    return str({"string": "text", "boolean": "`true` or `false`"}[field["type"]])


def default_text(field: dict[str, Any]) -> str:
    default = field.get("default", {} if field.get("type") == "object" else None)
    if default is None:
        return ""
    return "empty" if default in ([], {}) else f"`{default if isinstance(default, str) else json.dumps(default)}`"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def cli_page() -> str:
    lines = [NOTE, "", "# The command line", "", CLI_HEAD, "```text", help_text(app.group, "packager"), "```", ""]
    for name in app.COMMANDS:
        command = app.load_command(name)
        for path, one in ((name, command), *((f"{name} {one.name}", one) for one in app.commands_below(command))):
            lines += [f"## packager {path}", "", "```text", help_text(one, f"packager {path}"), "```", ""]
    return "\n".join(lines)


CLI_HEAD = """\
Results go to standard output, talk to standard error. Exit codes: 0 done, 1 a failure with its reason, 2 a wrong
command line, 70 a bug in packager, 130 interrupted, 129 and 143 ended by SIGHUP and SIGTERM, 141 the reader of its
output has left.
"""


def help_text(command: click.Command, name: str) -> str:
    context = click.Context(
        command, info_name=name, terminal_width=app.WIDTH, help_option_names=["--help", "-h"], color=False
    )
    return command.get_help(context)


def engines_page() -> str:
    """Every recipe's facts, each with where it is from, and the GPUs they are checked against."""
    lines = [NOTE, "", "# Engines and GPUs", "", ENGINES_HEAD]
    for name, recipe in RECIPES.items():
        if recipe.record is not None:
            lines += ["", f"## {name}", "", *recipe_lines(recipe, recipe.record)]
        elif recipe.vendor is not None:
            lines += ["", f"## {name}", "", *vendor_lines(recipe, recipe.vendor)]
    lines += [
        "",
        "## GPUs",
        "",
        GPUS_HEAD,
        "| `hardware.gpu` | compute capability | memory | source |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{name}` | {shown(gpu.capability)} | {gpu.memory} GB | {gpu.source} |" for name, gpu in GPUS.items()]
    return "\n".join(lines) + "\n"


ENGINES_HEAD = """\
What `packager lock` and `packager build` check a spec and its weights against. A record is read from the engine's own
registry by `.ci/record.py`, at the version named, and holds for that version: with another `engine.version`
architectures and methods are the engine's to judge, except those that it is known to have dropped before.

"runs from" is the lowest NVIDIA compute capability; below "native from" it runs as the note says."""

GPUS_HEAD = """\
Another name is refused, because nothing could be checked against it. Images are for amd64: no Grace superchips.
"""

PLACES = {"quantization": "`quantization`", "weights": "config.json of the weights"}


def recipe_lines(recipe: Recipe, record: Record) -> Iterator[str]:
    floor = f" GPUs from compute capability {shown(recipe.floor)} on: {recipe.floor_source}." if recipe.floor else ""
    note = f" On a GPU: {recipe.gpu_note}." if recipe.gpu_note else ""
    yield f"{recipe.distribution} {record.version}, for Python {record.python}.{floor}{note}"
    yield from format_lines(recipe)
    if record.methods:
        methods = (f"`{name}`" + (f" {shown(floor)}" if floor else "") for name, floor in record.methods.items())
        yield from ("", f"Knows weights quantized with (runs from, where it says): {', '.join(methods)}.")
    yield from ("", f"Runs: {named(record.architectures)}.")
    for backend, names in record.backends.items():
        lacks = [name for name in (*record.architectures, *record.methods) if name not in names]
        yield from ("", f"With `backend: {backend}` not: {named(lacks)}.")
    if record.converts:
        yield from ("", f"`{recipe.converter}` makes its weights of: {named(record.converts)}.")
    if record.removed:
        dropped = ", ".join(f"`{name}` {last}" for name, last in record.removed.items())
        yield from ("", f"Dropped, each with the last version that had it: {dropped}.")
    packages = "; ".join(f"`{name}`: {why}" for name, why in recipe.system_packages.items())
    more = "; ".join(f"`{name}`: {why}" for name, why in recipe.cpu_system_packages.items())
    yield from ("", f"Debian packages on a `debian` base: {packages}.{f' Without a GPU also {more}.' if more else ''}")


def vendor_lines(recipe: Recipe, vendor: Vendor) -> Iterator[str]:
    yield f"In images such as `{vendor.image}`, which hold the distribution {vendor.distribution}: the base is one of them."
    yield f"GPUs from compute capability {shown(recipe.floor)} on: {recipe.floor_source}."
    if recipe.newest:
        yield f"The newest version is {recipe.newest}: {recipe.newest_note}."
    yield "Its registry was not read, so architectures are the engine's to judge."
    yield from format_lines(recipe)


def format_lines(recipe: Recipe) -> Iterator[str]:
    """The table of number formats, and the sources that its last column counts."""
    sources = list(dict.fromkeys(row.source for rows in recipe.formats.values() for row in rows))
    yield from ("", "| said in | format | runs from | native from | without a GPU | needs | source |", "|---" * 7 + "|")
    for place, rows in recipe.formats.items():
        said = PLACES.get(place, f"`engine.{place}`")
        for row in rows:
            floor = max(row.floor, recipe.floor)
            native = f"{shown(row.native)}; else {row.note}" if row.native else ""
            until = f" to below {shown(row.below)}" if row.below else ""
            needs = named(recipe.plugins.get(row.name, ()) if place == "quantization" else row.needs)
            limits = [f"with `{one}` groups of {', '.join(map(str, sizes))}" for one, sizes in row.groups.items()]
            for one, kinds in row.kinds.items():
                said_so = [f"{row.name}:{kind}" if kind else row.name for kind in kinds]
                limits.append(f"{f'with `{one}` ' if one else ''}{named(said_so)} alone")
            needs += "; ".join(limits)
            yield (
                f"| {said} | `{row.name}` | {shown(floor) if floor else 'any'}{until} | {native} | {'yes' if row.cpu and not recipe.gpu_only else 'no'} "
                f"| {needs} | {sources.index(row.source) + 1} |"
            )
    yield ""
    yield from (f"{number}. {source}" for number, source in enumerate(sources, 1))


def named(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def environment_page() -> str:
    lines = [NOTE, "", "# Environment variables", "", "| variable | |", "|---|---|"]
    lines += [f"| `{variable.name}` | {cell(variable.text)} |" for variable in environ.ALL]
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    lines = [NOTE, "", "# Errors", "", ERRORS_HEAD, "| code | class | is a | |", "|---|---|---|---|"]
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.PackagerError):
            base = kind.__base__.__name__ if kind.__base__ else ""
            lines.append(f"| `{kind.code}` | `{kind.__name__}` | `{base}` | {cell(kind.__doc__ or '')} |")
    return "\n".join(lines) + "\n"


ERRORS_HEAD = """\
Every error raised on purpose is a `packager.errors.PackagerError`. It holds `problems`: each says *what* is wrong,
*where* (`packager.yaml:3:7`, a path, an image reference) and, where there is something to advise, *how to mend it*.
The command line prints all of them and exits with 1.
"""


def api_page() -> str:
    """Every public name, with its signature and its docstring."""
    lines = [NOTE, "", "# From Python", "", inspect.cleandoc(packager.__doc__ or ""), ""]
    for name in packager.__all__:
        value = getattr(packager, name)
        lines += [f"## packager.{name}", ""]
        if not (isinstance(value, type) and issubclass(value, Exception)):
            lines += ["```python", f"{name}{signature_text(value)}", "```", ""]
        lines += [inspect.getdoc(value) or "", ""]
    return "\n".join(lines)


def signature_text(value: Any) -> str:
    """The signature as it is written, without the default objects' own text, which may hold addresses."""
    signature = inspect.signature(value)
    shown = [
        parameter if parameter.default is parameter.empty else parameter.replace(default=Ellipsis)
        for parameter in signature.parameters.values()
    ]
    # No module paths: they are long, and differ between Pythons (`pathlib._local.Path`).
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(signature.replace(parameters=shown))).replace("Ellipsis", "...")


PLAN = re.compile(r"(?<=^<!-- plan -->\n).*?(?=^<!-- /plan -->$)", re.DOTALL | re.MULTILINE)
"""The lines of a README that are `packager plan`'s."""


def with_plan(folder: Path) -> str:
    """The README of an example, with what `packager plan` says of it today: its refusal, too, which a test finds there."""
    text = (folder / "README.md").read_text("utf-8")
    return PLAN.sub(lambda _: plan_block(folder), text) if PLAN.search(text) else text


def plan_block(folder: Path) -> str:
    """What `packager plan` prints of a copy without a lock: how large its files are is nobody's but the lock's."""
    told = io.StringIO()
    with tempfile.TemporaryDirectory() as work, chdir(work), redirect_stdout(told), redirect_stderr(told):
        shutil.copytree(folder, folder.name, ignore=shutil.ignore_patterns("packager.lock", "dist"))
        app.main(["plan", "--offline", folder.name])
    return f"```text\n$ packager plan {folder.name}\n{told.getvalue()}```\n"


def pages() -> dict[Path, bytes]:
    """Every page that is made, by its path."""
    readmes = sorted(EXAMPLES.glob("*/README.md"))
    return {
        **{REFERENCE / name: text for name, text in reference_pages().items()},
        **{path: with_plan(path.parent).encode() for path in readmes},
    }


def reference_pages() -> dict[str, bytes]:
    return {
        "api.md": api_page().encode(),
        "cli.md": cli_page().encode(),
        "engines.md": engines_page().encode(),
        "environment.md": environment_page().encode(),
        "errors.md": errors_page().encode(),
        "packager.schema.json": readable_json(json_schema()),
        "spec.md": spec_page().encode(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--check", action="store_true", help="exit 1 when a page is out of date")
    choice.add_argument("--write", action="store_true", help="write the pages")
    arguments = parser.parse_args()
    stale = {path: text for path, text in pages().items() if not is_current(path, text)}
    if arguments.write:
        REFERENCE.mkdir(exist_ok=True)
        for path, text in stale.items():
            path.write_bytes(text)
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the code says", file=sys.stderr)
    if stale:
        print("run: python docs/generate.py --write", file=sys.stderr)
    return 1 if stale else 0


def is_current(path: Path, text: bytes) -> bool:
    return path.is_file() and path.read_bytes() == text


if __name__ == "__main__":
    sys.exit(main())
