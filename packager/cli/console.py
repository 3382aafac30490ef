"""How packager talks: standard output is data, standard error is talk, and both make sense without colour."""

import json
import re
import sys
from dataclasses import dataclass
from typing import Any, TextIO

from .. import environ
from ..digest import readable_json
from ..errors import PackagerError, Problem

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_RED, _CYAN = 31, 36


@dataclass(slots=True)
class Console:
    """Where a command's words go. `quiet` drops what is neither a result nor a failure."""

    quiet: bool = False
    debug: bool = False

    def result(self, text: str) -> None:
        """One line of data."""
        print(_harmless(text), file=sys.stdout)

    def aside(self, text: str) -> None:
        """A note beside the data, dim where there is colour."""
        if not self.quiet:
            said = _harmless(text)
            print(f"\x1b[2m{said}\x1b[0m" if is_lively(sys.stderr) else said, file=sys.stderr)

    def data(self, value: Any) -> None:
        """Data as JSON, in escapes where the output's encoding lacks a character (or a path is no text)."""
        try:
            text = readable_json(value).decode()
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            text = json.dumps(value, indent=2, allow_nan=False) + "\n"
        sys.stdout.write(text)

    def say(self, text: str) -> None:
        """What a person may like to know."""
        if not self.quiet:
            print(_harmless(text), file=sys.stderr)

    def failure(self, error: PackagerError) -> None:
        """Every problem of a failed command, each with its place and what to do."""
        for problem in error.problems:
            self.problem(problem)

    def problem(self, problem: Problem) -> None:
        """`error: WHERE: WHAT` and, on its own line, `  mend: ...`."""
        words = ": ".join(part for part in (problem.where, problem.what) if part)
        print(f"{_painted('error', _RED)}: {_harmless(words)}", file=sys.stderr)
        if problem.mend:
            print(f"  {_painted('mend', _CYAN)}: {_harmless(problem.mend)}", file=sys.stderr)


def is_lively(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that knows colours and moving lines, and wants them."""
    return stream.isatty() and not environ.NO_COLOR.get() and environ.TERM.get().lower() not in ("dumb", "unknown")


def _painted(word: str, colour: int) -> str:
    return f"\x1b[1;{colour}m{word}\x1b[0m" if is_lively(sys.stderr) else word


def harmless(text: str) -> str:
    """`text` with the controls that move a cursor or recolour a terminal made visible."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _harmless(text: str) -> str:
    """The same for a message, whose further lines are indented."""
    return harmless(text).replace("\n", "\n  ")
