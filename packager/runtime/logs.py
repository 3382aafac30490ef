"""Structured logs: one JSON object a line. Prompts and answers never enter them."""

import json
import logging
import sys
import time
from functools import lru_cache
from typing import Any

from ..environ import LOG_LEVEL

LOG = logging.getLogger("packager.runtime")
"""One name, whatever name the package is imported under."""
_ENCODER = json.JSONEncoder(default=str)


def event(name: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """Log that `name` happened, with JSON values."""
    if LOG.isEnabledFor(level):
        LOG.handle(_Event(name, level, fields))


class _Event(logging.LogRecord):
    """An event and its fields, without the line that called: none of ours tells it, and each request would pay for it."""

    def __init__(self, name: str, level: int, fields: dict[str, Any]) -> None:
        super().__init__(LOG.name, level, "", 0, name, (), None)
        self.fields = fields

    def getMessage(self) -> str:  # noqa: N802 -- logging's own name
        """One line for the logs of a program that loads a package and has set up none of ours."""
        return "; ".join([self.msg, *(f"{key} {value}" for key, value in self.fields.items())])


class JsonLines(logging.Formatter):
    """A record as one JSON line: time (UTC), level, event, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage() if fields is None else record.msg,
        }
        if record.name != LOG.name:
            line["logger"] = record.name
        line.update(fields or {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error. A type of its own: LMDeploy takes everything under an error from the root's plain handlers (utils.py)."""


@lru_cache(maxsize=1)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def log_to_stderr(*, everything: bool = False) -> None:
    """Send our records to standard error as JSON lines, from the level that PACKAGER_LOG_LEVEL names.

    With `everything`, for a process that is all ours, other libraries' warnings and errors go there as well.
    Raises SettingError for what is no level, when errors are logged already.
    """
    handler = _Stderr(sys.stderr)
    handler.setFormatter(JsonLines())
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    if everything:
        logging.getLogger().handlers[:] = [handler]
    LOG.setLevel(LOG_LEVEL.get() or logging.INFO)
