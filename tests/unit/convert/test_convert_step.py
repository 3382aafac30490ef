"""A step as a process: what it says, how it fails, and that it needs nothing of packager."""

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from packager.convert.step import Step, python_of, run_step
from packager.errors import ConvertError

ALONE = {"PYTHONPATH": ""}
BASE = str(vars(sys)["_base_executable"])


def library(folder: Path, text: str) -> dict[str, str]:
    """The environment with a `tensorrt_llm` whose engine module is `text`, and without packager."""
    package = folder / "library/tensorrt_llm"
    (package / "_tensorrt_engine").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "_tensorrt_engine/__init__.py").write_text(text)
    return {"PYTHONPATH": str(folder / "library")}


def fails(folder: Path, text: str) -> tuple[str, str, list[str]]:
    heard: list[str] = []
    with pytest.raises(ConvertError) as caught:
        run_step(Step("tensorrt_llm", {}, library(folder, text)), folder, BASE, heard.append)
    (problem,) = caught.value.problems
    return problem.what, problem.mend, heard


def test_without_the_library_it_says_so(tmp_path):
    """Nothing of packager is imported either: that would be named."""
    with pytest.raises(ConvertError, match="ModuleNotFoundError: No module named 'tensorrt_llm'"):
        run_step(Step("tensorrt_llm", {}, ALONE), tmp_path, BASE, lambda _: None)
    with pytest.raises(ConvertError, match="ModuleNotFoundError: No module named 'peft'"):
        run_step(Step("merge", {}, ALONE), tmp_path, BASE, lambda _: None)


def test_its_lines_are_told_as_they_come_and_the_last_are_in_the_error(tmp_path):
    text = (
        "import sys\nprint('one\\n\\n', flush=True)\nfor n in range(20): print(n, file=sys.stderr)\nraise SystemExit(3)"
    )
    what, mend, heard = fails(tmp_path, text)
    assert heard == ["one", *map(str, range(20))]
    first, *last = what.splitlines()
    assert first == "the step tensorrt_llm ended with exit status 3; the last it said:"
    assert last == [str(number) for number in range(8, 20)]
    assert mend == "mend what it says, then run it again: what was fetched is kept"


def test_one_that_was_killed(tmp_path):
    what, mend, heard = fails(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (what, heard) == ("the step tensorrt_llm was ended by signal 9; the last it said:\nnothing", [])
    assert mend.startswith("signal 9 is what Linux sends when memory runs out")


def test_whoever_is_interrupted_ends_it_and_its_workers(tmp_path):
    held = tmp_path / "held"
    os.mkfifo(held)
    text = (
        "import signal, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import sys; open(sys.argv[1]).read()', {str(held)!r}])\n"
        "print('working', flush=True)\nsignal.pause()"
    )
    writers: list[int] = []

    def interrupt(_: str) -> None:
        writers.append(os.open(held, os.O_WRONLY))  # opens when the worker reads
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(Step("tensorrt_llm", {}, library(tmp_path, text)), tmp_path, BASE, interrupt)
    poll = select.poll()
    poll.register(writers[0], 0)
    assert poll.poll(30_000) == [(writers[0], select.POLLERR)]  # nobody reads any more
    os.close(writers[0])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_worker_that_holds_the_pipe_does_not_keep_one_that_was_killed(tmp_path, elsewhere):
    """Its workers are ended; one that left its group lives on, and nobody waits for it."""
    held = tmp_path / "held"
    os.mkfifo(held)
    text = (
        "import os, signal, subprocess, sys\n"
        f"argv = [sys.executable, '-c', 'import sys; open(sys.argv[1]).read()', {str(held)!r}]\n"
        f"subprocess.Popen(argv, start_new_session={elsewhere})\n"
        "print(os.getpid(), flush=True)\nsignal.pause()"
    )
    writers: list[int] = []

    def kill(line: str) -> None:
        writers.append(os.open(held, os.O_WRONLY))  # opens when the worker reads
        os.kill(int(line), signal.SIGKILL)

    with pytest.raises(ConvertError, match="the step tensorrt_llm was ended by signal 9"):
        run_step(Step("tensorrt_llm", {}, library(tmp_path, text)), tmp_path, BASE, kill)
    poll = select.poll()
    poll.register(writers[0], 0)
    assert poll.poll(0 if elsewhere else 30_000) == ([] if elsewhere else [(writers[0], select.POLLERR)])
    os.close(writers[0])  # which ends a worker that lives on


def test_the_python_of_a_distribution(tmp_path, monkeypatch):
    """packager may stand in an environment above the one that has TensorRT-LLM."""
    assert python_of("pytest") == sys.executable
    info = tmp_path / "tensorrt_llm-1.2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: tensorrt-llm\nVersion: 1.2.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert python_of("tensorrt-llm") == BASE
    assert sys.executable != BASE
