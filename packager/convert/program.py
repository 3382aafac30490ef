"""What a step is as a program of its own. Standard library alone: it runs in the Python of a vendor's image, without packager."""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def serve(step: Callable[[Mapping[str, Any]], None]) -> None:
    """Do the step, on the task that the one argument names. The process ends with the one that started it."""
    task = json.loads(Path(sys.argv[1]).read_bytes())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != task["parent"]:
        sys.exit("whoever started this is gone")
    step(task)
