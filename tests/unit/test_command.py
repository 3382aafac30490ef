import sys
import threading
import time
from pathlib import Path

from packager.command import Completed, kill_running, run_command


def test_a_command_gives_status_and_text(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd()); print(os.environ['X'], file=sys.stderr); sys.exit(3)"
    assert run_command([sys.executable, "-c", code], env={"X": "ä", "PYTHONUTF8": "1"}, cwd=tmp_path) == Completed(
        3, f"{tmp_path.resolve()}\n", "ä\n"
    )


def test_a_command_that_cannot_start_failed() -> None:
    done = run_command(["/nonesuch/program"])
    assert (done.returncode, done.stderr) == (127, "/nonesuch/program: No such file or directory")


def test_commands_of_other_threads_can_be_ended(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"
    found: list[Completed] = []
    thread = threading.Thread(target=lambda: found.append(run_command([sys.executable, "-c", code])))
    thread.start()
    while not started.exists():
        time.sleep(0.01)
    while thread.is_alive():  # a command counts as running a moment after it was started
        kill_running()
        thread.join(0.01)
    assert found[0].returncode == -9
