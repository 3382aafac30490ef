"""A package served by a process of its own, for as long as a command wants it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..environ import LOG_LEVEL
from ..errors import LoadError

_PATIENCE = 60
"""Seconds that the server may take to drain and stop."""


@contextmanager
def served(package: Path) -> Iterator[str]:
    """The address at which `packager serve` serves the package, once it takes requests; ended afterwards.

    Raises LoadError with the server's own reason when it does not come up.
    """
    argv = [sys.executable, "-m", __name__.partition(".")[0], "serve", str(package), "--port", "0"]
    # A session of its own: Ctrl-C ends an answer, not the server.
    env = os.environ | {LOG_LEVEL.name: "info"}  # what is read here is its log
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env) as process:
        events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=_read, args=(process, events), daemon=True).start()
        try:
            yield _when_ready(package, events)
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _when_ready(package: Path, events: "SimpleQueue[dict[str, Any] | None]") -> str:
    port, said = 0, list[str]()
    while (event := events.get()) is not None:
        port = event.get("port", port)
        if event["event"] == "failed":
            raise LoadError(str(event.get("reason")), mend=str(event.get("mend") or ""))
        if event["event"] == "ready":
            return f"http://127.0.0.1:{port}"
        said += [event["text"]] if event.get("text") else []
    reason = next((line.removeprefix("error: ") for line in said if line.startswith("error: ")), "its server ended")
    mend = next((line.removeprefix("mend: ") for line in said if line.startswith("mend: ")), "")
    raise LoadError(f"the package cannot be served: {reason}", where=os.fspath(package), mend=mend)


def _read(process: "subprocess.Popen[str]", events: "SimpleQueue[dict[str, Any] | None]") -> None:
    for line in process.stderr or ():
        try:
            event = json.loads(line)
            event["event"]
        except (ValueError, KeyError, TypeError):
            event = {"event": "", "text": line.strip()}
        events.put(event)
    events.put(None)
