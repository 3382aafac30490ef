"""The steps that import torch or TensorRT-LLM, each as a process in the Python that has them.

A process of its own gives back its memory when it ends, may end any way it likes, and is what the workers of
TensorRT-LLM's MPI start from (each imports the main module anew). packager itself may stand in an environment above that
Python: the two need different versions of huggingface_hub, so a step's modules are copied out and import nothing of it.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import IO, Any

from ..digest import readable_json
from ..errors import ConvertError

_PROGRAMS = ("program.py", "merge.py", "tensorrt_llm.py")
_FOLDER = "packager_steps"
"""The package that a step's modules are while they run."""
_SHOWN = 12
"""Lines of a failed step that its error repeats."""
_END = "\0"
"""The line after the last of a step. Its pipe need not end: a worker that left the step's group may hold it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A module of this folder that is a program, what it is to do, and what is added to the environment for it."""

    module: str
    task: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)


def python_of(distributed: str) -> str:
    """The Python that an installed distribution is for: this one, or the one that this environment stands on."""
    place = Path(str(distribution(distributed).locate_file(""))).resolve()
    ours = Path(sys.prefix).resolve() in place.parents
    return sys.executable if ours else str(vars(sys)["_base_executable"])  # venv has no other name for it


def run_step(step: Step, folder: Path, python: str, say: Callable[[str], None]) -> None:
    """Run the step in `folder`, which it may write to. Blocks; `say` is told each line that it writes.

    Raises ConvertError with its last lines when it fails.
    """
    _lay_out(folder / _FOLDER)
    path = folder / f"{step.module}.json"
    path.write_bytes(readable_json({**step.task, "parent": os.getpid()}))
    reading, writing = os.pipe()
    last: deque[str] = deque(maxlen=_SHOWN)
    with os.fdopen(writing, "wb", 0) as pipe, os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        process = subprocess.Popen(
            [python, "-m", f"{_FOLDER}.{step.module}", str(path)],
            cwd=folder,
            env={**os.environ, **step.env},
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its workers can be ended with it
        )
        ending = threading.Thread(target=_end, args=(process.pid, pipe), name="packager-step")
        ending.start()
        try:
            for line in iter(lines.readline, f"{_END}\n"):
                if text := line.rstrip():
                    last.append(text)
                    say(text)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            lines.close()  # nobody reads what `_end` may be writing
            ending.join()
            process.wait()
    if process.returncode:
        raise _failed(step, process.returncode, list(last))


def _end(group: int, pipe: IO[bytes]) -> None:
    """Wait for the group's first process, then end its workers, which are of no use alone, and write the last line."""
    os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT)  # until it is reaped, no other group can have its number
    os.killpg(group, signal.SIGKILL)
    with suppress(BrokenPipeError):
        pipe.write(f"\n{_END}\n".encode())


def _lay_out(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    for name in _PROGRAMS:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)


def _failed(step: Step, status: int, last: list[str]) -> ConvertError:
    what = f"the step {step.module} ended with exit status {status}"
    mend = "mend what it says, then run it again: what was fetched is kept"
    if status < 0:
        what = f"the step {step.module} was ended by signal {-status}"
        mend = "signal 9 is what Linux sends when memory runs out (`--dry-run` says what is needed); then run it again"
    said = "\n".join(last) or "nothing"
    return ConvertError(f"{what}; the last it said:\n{said}", mend=mend)
