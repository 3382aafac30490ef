"""vLLM's own log: its errors as our JSON lines on standard error, and the last of them at hand.

vLLM works in processes of its own, and what fails there reaches us as "see root cause above". Its logging is set
up by a file that all its processes read, so that file also has them write each error as one line into a file
that this process can read.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from ..logs import JsonLines

_CAUSES = "causes"
_ELSEWHERE = re.compile(r"\bsee (the )?(root cause|stack ?trace|error|log)", re.IGNORECASE)
"""How vLLM's errors point at another one."""


class OneLine(logging.Formatter):
    """An error as one line: the exception's type and message, without its trace."""

    def format(self, record: logging.LogRecord) -> str:
        failure = record.exc_info[1] if record.exc_info else None
        return record.getMessage().split("\n")[0] if failure is None else one_line(failure)


def one_line(error: BaseException) -> str:
    """The first line of what an error says; its type when it says nothing, or does not say what it is about."""
    listed = getattr(error, "errors", None)  # pydantic's: its own text is a table
    if callable(listed) and (problems := listed()):
        return str(problems[0]["msg"]).removeprefix("Value error, ").split("\n")[0]
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Folder:
    """What the engines of this process share with theirs: the settings, the errors, the sockets.

    It must be there when vLLM is imported, which reads the settings, and while an engine runs.
    """

    def __init__(self, path: Path, level: str) -> None:
        self.path = path
        self.settings = path / "logging.json"
        self._level = level
        self._users = 0
        self._removed = False

    def write(self) -> None:
        """Put the settings into it."""
        if self._removed:
            self.path.mkdir(mode=0o700)  # which fails when somebody else has taken the name
            self._removed = False
        self.settings.write_text(json.dumps(_settings(self.path / _CAUSES, self._level)), encoding="utf-8")

    def enter(self) -> None:
        """An engine is about to start."""
        self._users += 1
        self.write()

    def leave(self) -> None:
        """An engine has ended. The last one takes the folder with it: a server's end may not wait for `atexit`."""
        self._users -= 1
        if not self._users:
            shutil.rmtree(self.path, ignore_errors=True)
            self._removed = True

    def causes(self) -> int:
        """How far the errors have got, to ask for later ones."""
        path = self.path / _CAUSES
        return path.stat().st_size if path.exists() else 0

    def root_cause(self, since: int) -> str:
        """The last error that vLLM's processes have logged since then and that does not point at another; or nothing."""
        path = self.path / _CAUSES
        if not path.exists():
            return ""
        lines = path.read_bytes()[since:].decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line and not _ELSEWHERE.search(line)), "")


def _settings(causes: Path, level: str) -> dict[str, Any]:
    """The logging of vLLM's processes, in the words of `logging.config.dictConfig`."""
    lines, cause = (f"{kind.__module__}.{kind.__name__}" for kind in (JsonLines, OneLine))
    file = {"class": "logging.FileHandler", "formatter": "cause", "level": "ERROR", "filename": str(causes)}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": lines}, "cause": {"()": cause}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "lines", "level": level},
            "causes": file | {"delay": True},
        },
        "loggers": {"vllm": {"handlers": ["stderr", "causes"], "level": level, "propagate": False}},
    }
