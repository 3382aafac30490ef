"""vLLM's own log: its errors as our JSON lines on standard error, and the last of them at hand.

vLLM works in processes of its own, and what fails there reaches us as "see root cause above". Its logging is set
up by a file that all its processes read, so that file also has them write each error as one line into a file
that this process can read.
"""

import json
import logging
import re
from pathlib import Path

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


def write_settings(folder: Path, level: str) -> Path:
    """Write the logging settings for vLLM's processes into `folder`; gives the file that VLLM_LOGGING_CONFIG_PATH names."""
    here = __name__
    lines = f"{JsonLines.__module__}.{JsonLines.__name__}"
    settings = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": lines}, "cause": {"()": f"{here}.{OneLine.__name__}"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "lines", "level": level},
            "causes": {
                "class": "logging.FileHandler",
                "formatter": "cause",
                "level": "ERROR",
                "filename": str(folder / _CAUSES),
                "delay": True,
            },
        },
        "loggers": {"vllm": {"handlers": ["stderr", "causes"], "level": level, "propagate": False}},
    }
    path = folder / "logging.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def causes_so_far(folder: Path) -> int:
    """How far the file of errors has got, to ask for later ones."""
    path = folder / _CAUSES
    return path.stat().st_size if path.exists() else 0


def root_cause(folder: Path, since: int) -> str:
    """The last error that vLLM's processes have logged since then and that does not point at another; or nothing."""
    path = folder / _CAUSES
    if not path.exists():
        return ""
    lines = path.read_bytes()[since:].decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line and not _ELSEWHERE.search(line)), "")
