"""Structured logs: one JSON object a line. Prompts and answers never enter them."""

import json
import logging
import sys
import time
from functools import lru_cache
from typing import Any

LOG = logging.getLogger("packager.runtime")
"""One name, whatever name the package is imported under."""
_ENCODER = json.JSONEncoder(default=str)


def event(name: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """Log that `name` happened, with JSON values."""
    if LOG.isEnabledFor(level):
        # Without the search for the line that called, which no record of ours tells, and each request would pay for.
        LOG.handle(LOG.makeRecord(LOG.name, level, "", 0, name, (), None, extra={"fields": fields}))


class JsonLines(logging.Formatter):
    """A record as one JSON line: time (UTC), level, event, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != LOG.name:
            line["logger"] = record.name
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


@lru_cache(maxsize=1)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def log_to_stderr(level: str, *, everything: bool = False) -> None:
    """Send our records to standard error as JSON lines. `level` is a name; an unknown one means info.

    With `everything`, for a process that is all ours, other libraries' warnings and errors go there as well.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    LOG.setLevel(logging.getLevelNamesMapping().get(level.upper(), logging.INFO))
    if everything:
        logging.getLogger().handlers[:] = [handler]
