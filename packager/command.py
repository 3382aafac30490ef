"""How programs are run: one seam, which tests replace."""

import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_COULD_NOT_START = 127
_running: set["subprocess.Popen[str]"] = set()
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command left: its exit status and all it wrote, as text."""

    returncode: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Runs one command to its end.

    `env` is the whole environment of the command (None: this process's own), `cwd` its folder
    (None: this process's own). A command that cannot be started counts as one that failed.
    May be called from several threads at once.
    """

    def __call__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Completed: ...


def run_command(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Completed:
    """The Runner that starts real processes; shows nothing, and leaves none behind when interrupted."""
    try:
        process = subprocess.Popen(
            list(argv),
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return Completed(_COULD_NOT_START, "", f"{argv[0]}: {error.strerror}")
    with _guard:
        _running.add(process)
    try:
        with process:
            try:
                stdout, stderr = process.communicate()
            except BaseException:
                process.kill()
                raise
        return Completed(process.returncode, stdout, stderr)
    finally:
        with _guard:
            _running.discard(process)


def kill_running() -> None:
    """End every command that `run_command` has in flight, in any thread.

    For the thread that learns of Ctrl-C while others wait for their commands: they cannot learn of it.
    """
    with _guard:
        for process in _running:
            process.kill()
