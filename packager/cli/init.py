"""`packager init`: a spec to start from."""

import shlex
from pathlib import Path
from typing import Literal

import click
from pydantic_core import PydanticCustomError

from ..errors import OutputError, SpecError
from ..spec import SPEC_NAME
from ..spec.grammar import NAME
from ..spec.parse import parse_yaml
from .console import Console

_HEAD = """\
# What to package. All keys: `packager schema`, or docs/reference/spec.md.
name: {name}
description: One line about the model
"""

_LLAMA_CPP = """\
engine:
  kind: llama_cpp               # llama.cpp; reads GGUF files
  # context_length: 4096        # tokens of prompt and answer; default: what the model was trained for
  # threads: 4                  # default: physical cores, less one for the server
weights:
  source: file://model.gguf     # a file or folder; a relative path starts at this file's folder
  # chat_template: chat.jinja   # default: the one in the GGUF file
"""

_ECHO = """\
engine:
  kind: echo                    # streams the prompt back: for trials without a model
"""

_TAIL = """\
serving:
  server: bentoml               # or standalone: packager's own server
  max_concurrency: 32           # requests that generate at the same time
  max_queue: 128                # requests that wait; more are answered 429
image:
  # repository: registry.example.com/team     # the image is REPOSITORY/NAME:TAG
  # tag: v1                                   # default: latest
  system_packages: []           # Debian packages to add
  python_packages: []           # Python requirements to add
"""

ENGINES: dict[str, str] = {"llama_cpp": _LLAMA_CPP, "echo": _ECHO}


@click.command()
@click.argument("folder", metavar="NAME|FOLDER", type=click.Path(path_type=Path))
@click.option("--engine", type=click.Choice(list(ENGINES)), default="llama_cpp", show_default=True, help="The engine.")
@click.pass_obj
def command(console: Console, folder: Path, engine: Literal["llama_cpp", "echo"]) -> None:
    """Write a commented spec to start from.

    It goes to FOLDER/packager.yaml; the folder's name becomes the model's. Nothing is overwritten.
    """
    name = _name(folder)
    text = "".join(part.replace("{name}", name) for part in (_HEAD, ENGINES[engine], _TAIL))
    path = folder / SPEC_NAME
    _write_new(path, text)
    console.result(str(path))
    mend = "put model.gguf beside it, then" if engine == "llama_cpp" else "next:"
    console.say(f"{mend} `packager build {shlex.quote(str(folder))}`")


def _name(folder: Path) -> str:
    """The model's name as YAML text. Raises SpecError when the folder's name does not do."""
    name = folder.absolute().name
    try:
        NAME.validate(name)
    except PydanticCustomError as error:
        mend = "choose another name for the folder; `name` in the spec may be changed later"
        raise SpecError(f"the name {(error.context or {})['what']}", where=str(folder), mend=mend) from error
    return name if isinstance(parse_yaml(name.encode()).value, str) else f'"{name}"'


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError as error:
        what = "there is a spec already" if path.is_file() else "a file is in the way"
        raise OutputError(what, where=str(path), mend="give another name, or remove it first") from error
    except OSError as error:
        raise OutputError(f"cannot write: {(error.strerror or str(error)).lower()}", where=str(path)) from error
