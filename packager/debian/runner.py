"""How this package runs a program: an argument, so that tests need no apt and no network."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended: its exit status and everything it said, as text."""

    returncode: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Runs `argv` in `cwd` with `env` added to the environment, and waits.

    Raises FileNotFoundError when the program is not on this machine; any exit status is an answer.
    Called from several threads at once.
    """

    def __call__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> Completed: ...


def run_command(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> Completed:
    """The Runner that really runs it, with nothing on its standard input."""
    done = subprocess.run(
        list(argv),
        env={**os.environ, **env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return Completed(done.returncode, done.stdout, done.stderr)
