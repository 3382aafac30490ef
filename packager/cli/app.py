"""The command `packager`: which commands there are, and how their failures become words and exit codes.

A command is imported when it is run, not when the list of commands is shown: help stays quick.

Exit codes: 0 done, 1 a failure with its reason, 2 a wrong command line, 70 a bug in packager, 130 interrupted, 129 and
143 ended by SIGHUP and SIGTERM, 141 the reader of its output has left.
"""

import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import cast

import click

from ..errors import PackagerError, Problem
from .console import Console
from .signals import ended_by_signals

COMMANDS: Mapping[str, str] = {
    "init": "Write a commented spec to start from.",
    "schema": "Print the JSON schema of a spec, or check specs.",
    "catalog": "List the example specs that can be built by name.",
    "lock": "Resolve a spec to exact bytes.",
    "plan": "Say what a model takes of its GPUs, and whether it fits.",
    "convert": "Make the weights of a spec: compile an engine where its GPU is.",
    "build": "Build the package and the image of a spec.",
    "inspect": "Show what is in a package or an image.",
    "verify": "Compare an image with what its package says it is.",
    "fetch": "Bring the weights that packages load into the store.",
    "store": "List, verify and prune the store.",
    "serve": "Serve a package on this machine.",
    "bench": "Measure a server's first tokens, gaps and throughput.",
    "chat": "Talk to a served model or a package.",
    "push": "Push an image to a registry.",
    "upload": "Upload weights to the hub, an object store or a folder.",
    "engine": "Describe a compiled engine where it was compiled.",
}
"""Each command's name and one line about it; `cli/NAME.py` has the rest in its `command`."""

FAILED, INTERRUPTED, BUG, BROKEN_PIPE = 1, 130, 70, 141
WIDTH = 100
"""Columns of help on a wide terminal: longer lines are hard to read."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, in the order of work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name, imported now; None when there is none."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for an unknown name."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            ctx.fail(f"there is no command '{args[0]}'{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def load_command(name: str) -> click.Command:
    """Import `cli/NAME.py` and give its `command`, and those below it, the options that all commands share."""
    command = cast("click.Command", importlib.import_module(f".{name}", __package__).command)
    for one in (command, *commands_below(command)):
        if not any(parameter.name == "debug" for parameter in one.params):
            one.params += shared_options()
    return command


def commands_below(command: click.Command) -> tuple[click.Command, ...]:
    """The commands of a group, by name; none of a plain command."""
    return tuple(command.commands.values()) if isinstance(command, click.Group) else ()


def shared_options() -> list[click.Parameter]:
    """`--quiet` and `--debug`, good before and after the command's name."""
    return [
        click.Option(["--quiet", "-q"], is_flag=True, expose_value=False, callback=_set("quiet"), help="Say less."),
        click.Option(
            ["--debug"], is_flag=True, expose_value=False, callback=_set("debug"), help="Show tracebacks of failures."
        ),
    ]


def _set(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 -- click's signature
        if value:
            setattr(ctx.ensure_object(Console), name, True)

    return callback


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 -- click's signature
    if value and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("llm-packager")
        except PackageNotFoundError:
            found = "(not installed)"
        click.echo(f"packager {found}")
        ctx.exit()


group = LazyGroup(
    "packager",
    help="Turn a model spec into a self-contained package and a reproducible container image.",
    epilog="Start with `packager init NAME`, or with `packager build` and a name from `packager catalog`.",
    params=[
        click.Option(
            ["--version", "-V"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version.",
        ),
        *shared_options(),
    ],
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDTH},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Only here do errors become text."""
    _settle_streams()
    console, status = Console(), 0
    try:
        with ended_by_signals():
            status = _run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"], console)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has left (`packager catalog | head -1`)
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        if status == 0:  # else that was told already
            what = f"the result cannot be printed: {(error.strerror or str(error)).lower()}"
            with suppress(OSError):  # standard error may be as full
                console.problem(Problem(what, mend="look at where standard output goes"))
        _drop_output()
        return status or FAILED
    return status


def _settle_streams() -> None:
    """A standard stream that was closed (`>&-`) is `/dev/null`; a character that the output's encoding lacks is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 -- open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What is still unwritten goes nowhere: the interpreter must not trip over it again at exit."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(arguments: list[str], console: Console) -> int:
    try:
        # Not group.main: that takes an EOFError, such as a truncated archive's, for the user's wish to stop.
        with group.make_context("packager", arguments, obj=console) as context:
            group.invoke(context)
    except click.exceptions.Exit as wish:
        return wish.exit_code
    except click.ClickException as error:
        _usage(error, console)
        return error.exit_code
    except PackagerError as error:
        if console.debug:
            _traceback()
        console.failure(error)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        if console.debug:
            _traceback()
        what = f"the system refused: {(error.strerror or str(error)).lower()}"
        console.problem(Problem(what, where=str(error.filename or ""), mend="--debug shows at which step"))
        return FAILED
    except Exception as error:  # noqa: BLE001 -- the last border: translated into words and an exit code
        _bug(error, console)
        return BUG
    return 0


def _usage(error: click.ClickException, console: Console) -> None:
    text = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        known = [name for parameter in error.ctx.command.params for name in parameter.opts] if error.ctx else []
        near = difflib.get_close_matches(error.option_name, known, n=1)
        text = f"there is no option '{error.option_name}'" + (f"; did you mean `{near[0]}`?" if near else "")
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "packager"
    console.problem(Problem(text[:1].lower() + text[1:], mend=f"`{path} --help` shows how it is used"))


def _bug(error: Exception, console: Console) -> None:
    if console.debug:
        _traceback()
    first = str(error).partition("\n")[0]
    mend = "run it again with --debug for the traceback, and report it with that"
    console.problem(Problem(f"this is a bug in packager: {type(error).__name__}: {first}", mend=mend))


def _traceback() -> None:
    import traceback

    traceback.print_exc(file=sys.stderr)
