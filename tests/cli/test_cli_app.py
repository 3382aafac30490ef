"""The command line as a whole: quick help, exit codes, and failures in words."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import psutil
import pytest
from fakes.cli import environment
from fakes.serving import PATIENCE, wait_until

from packager.cli import app
from packager.cli.app import COMMANDS, main
from packager.errors import DriftError, PackagerError, Problem

ROOT = Path(__file__).parents[2]
PYTHON = [sys.executable, "-c"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""An environment in which what is printed waits for more, as it does for users."""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*PYTHON, code, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )


def test_help_imports_nothing_heavy():
    code = "import sys; from packager.cli.app import main; main(['--help']); print('\\n'.join(sys.modules), file=sys.stderr)"
    found = run(code)
    assert "Commands:" in found.stdout
    heavy = {"pydantic", "yaml", "httpx", "rich", "docker", "packaging", "pip", "uv", "asyncio", "ssl", "importlib.metadata"}  # fmt: skip
    assert heavy & set(found.stderr.split()) == set()


def test_help_lists_every_command_and_each_explains_itself(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"  {name} " in listed
        assert text in listed
        command = app.load_command(name)
        assert command.help, f"packager {name} has no help"
        undocumented = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
        assert undocumented == []
        assert [one.name for one in command.params].count("debug") == 1


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["--version"], ["-V"], ["schema", "--help"]])
def test_questions_are_answered_on_standard_output(arguments, capsys):
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["biuld"], "error: there is no command 'biuld'; did you mean `build`?\n  mend: `packager --help`"),
        (["zzz"], "error: there is no command 'zzz'\n  mend: `packager --help` shows how it is used\n"),
        (
            ["schema", "--chek"],
            "error: there is no option '--chek'; did you mean `--check`?\n  mend: `packager schema --help`",
        ),
        (["schema", "x"], "error: specs are only read with --check\n"),
        (["schema", "--check"], "error: --check needs the specs to check\n"),
        (["store"], "error: missing command\n  mend: `packager store --help`"),
        (["engine"], "error: missing command\n  mend: `packager engine --help`"),
        (["init"], "error: missing argument 'NAME|FOLDER'\n"),
        (["init", "x", "--engine", "sglang"], "error: invalid value for '--engine': 'sglang' is not one of"),
    ],
)
def test_wrong_command_lines_exit_2(arguments, expected, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(expected)


@pytest.fixture
def fails_with(monkeypatch):
    """Puts a command `lock` in place that raises what it is given."""

    def install(error: BaseException) -> None:
        @click.command("lock")
        def command() -> None:
            raise error

        module = ModuleType("packager.cli.lock")
        module.command = command
        monkeypatch.setitem(sys.modules, "packager.cli.lock", module)

    return install


def test_every_problem_is_printed(fails_with, capsys):
    fails_with(DriftError.collect([Problem("a moved", "x:1:2", "lock again"), Problem("b moved")]))
    assert main(["lock"]) == 1
    assert capsys.readouterr().err == "error: x:1:2: a moved\n  mend: lock again\nerror: b moved\n"


def test_controls_cannot_reach_the_terminal_and_lines_stay_together(fails_with, capsys):
    fails_with(PackagerError("it said\n\x1b[2Jgone\rover", where="a\x07b"))
    assert main(["lock"]) == 1
    assert capsys.readouterr().err == "error: a\\x07b: it said\n  \\x1b[2Jgone\\x0dover\n"


def test_a_bug_says_that_it_is_one(fails_with, capsys):
    fails_with(RuntimeError("lost count\nof things"))
    assert main(["lock"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("error: this is a bug in packager: RuntimeError: lost count\n  mend: ")
    assert "Traceback" not in said
    for arguments in (["lock", "--debug"], ["--debug", "lock"]):
        assert main(arguments) == 70
        assert "Traceback" in capsys.readouterr().err


def test_a_truncated_archive_is_not_an_interrupt(fails_with, capsys):
    fails_with(EOFError("compressed file ended"))
    assert main(["lock"]) == 70
    assert "EOFError" in capsys.readouterr().err


def test_debug_shows_where_a_failure_came_from(fails_with, capsys):
    fails_with(PackagerError("no"))
    assert main(["lock", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_system_that_refuses_is_no_bug(fails_with, capsys):
    fails_with(OSError(28, "No space left on device", "/somewhere/file"))
    assert main(["lock"]) == 1
    assert capsys.readouterr().err.startswith("error: /somewhere/file: the system refused: no space left on device\n")


def test_an_interrupt_is_one_line(fails_with, capsys):
    fails_with(KeyboardInterrupt())
    assert main(["lock"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("way", ["module", "script"])
def test_an_interrupt_of_the_imports_is_one_line_too(tmp_path, way):
    """Ctrl-C in the first tenth of a second, as a library is imported: one that stands for click sends it."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    script = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["packager"]
    start = f"import sys; from {script.replace(':', ' import ')} as run; sys.exit(run())"
    done = subprocess.run(
        [sys.executable, *(["-m", "packager"] if way == "module" else ["-c", start]), "--help"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


WAITS = """
import os, sys
from pathlib import Path
pids = Path(os.environ["PIDS"])
(pids / "new").write_text(" ".join(sys.argv))
(pids / "new").rename(pids / str(os.getpid()))
os.execvp("sleep", ["sleep", "600"])
"""
"""What stands for pip: it tells that it was started, and does not end by itself."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_a_command_has_started_ends_with_it(tmp_path, number):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/__init__.py").touch()
    (tmp_path / "pip/__main__.py").write_text(WAITS)
    (tmp_path / "pids").mkdir()
    shutil.copy(ROOT / "examples/echo/packager.yaml", tmp_path)
    env = {**environment(tmp_path / "cache"), "PYTHONPATH": f"{tmp_path}:{ROOT}", "PIDS": str(tmp_path / "pids")}
    with subprocess.Popen(
        [sys.executable, "-m", "packager", "lock", str(tmp_path)],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: process.poll() is not None or [*tmp_path.glob("pids/[0-9]*")], "pip was started")
        (child,) = [psutil.Process(int(path.name)) for path in tmp_path.glob("pids/[0-9]*")]
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert not child.is_running()
    assert "Traceback" not in said
    assert not (tmp_path / "packager.lock").exists()


def test_a_reader_that_leaves_is_no_failure():
    # 64 schemas do not fit into a pipe that nobody reads.
    code = "import sys; from packager.cli.app import main; sys.exit([main(['schema']) for _ in range(64)][-1])"
    process = subprocess.Popen(
        [*PYTHON, code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    with contextlib.closing(process.stdout) as out:
        out.read(1)
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() in {0, 141}


@pytest.mark.parametrize("command", [["init", "x"], ["schema"]])  # one that fits into a buffer, one that does not
def test_a_full_disk_behind_the_output_is_told_once(tmp_path, command):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "packager", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**BUFFERED, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 1
    assert done.stderr.count("error: the ") == 1
    assert "no space left on device" in done.stderr
    assert "OSError" not in done.stderr


@pytest.mark.parametrize(
    ("shell", "status"),
    [("biuld 2>/dev/full", 1), ("schema >/dev/full 2>&1", 1), ("schema --check echo 2>/dev/full", 1)],
)
def test_a_full_disk_behind_everything_is_an_exit_status(tmp_path, shell, status):
    command = ["sh", "-c", f'exec "$0" -m packager {shell}', sys.executable]
    done = subprocess.run(command, check=False, cwd=tmp_path, env={**BUFFERED, "PYTHONPATH": str(ROOT)})
    assert done.returncode == status


def test_a_reader_of_the_talk_that_leaves_ends_the_command(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "packager", "init", "x"],
        stdout=subprocess.PIPE,
        stderr=write,
        check=False,
        cwd=tmp_path,
        env={**BUFFERED, "PYTHONPATH": str(ROOT)},
    )
    os.close(write)
    assert done.returncode == 141


@pytest.mark.parametrize(("shell", "status"), [("catalog >&-", 0), ("schema >&-", 0), ("biuld 2>&-", 2), ("-V <&-", 0)])
def test_a_stream_that_is_closed_takes_nothing(shell, status):
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m packager {shell}', sys.executable], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, "")
    if "2>&-" in shell:
        assert done.stdout == ""


@pytest.mark.parametrize("folder", [b"mod\xc3\xa8le/x", b"\xff/x"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_path_that_cannot_be_printed_is_escaped(tmp_path, folder, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "packager", "init", folder],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"x/packager.yaml\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding):
    value = {"é": "模型 😀 \udcff"}
    code = "import json, sys; from packager.cli.console import Console; Console().data(json.loads(sys.argv[1]))"
    done = subprocess.run(
        [*PYTHON, code, json.dumps(value)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )
    assert json.loads(done.stdout.decode(encoding)) == value


def test_colours_are_for_terminals_that_want_them():
    pty = pytest.importorskip("pty", reason="needs a pseudo terminal")

    def said(**extra: str) -> bytes:
        parent, child = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **extra}
        subprocess.run([sys.executable, "-m", "packager", "biuld"], stderr=child, check=False, env=environment)
        os.close(child)
        text = os.read(parent, 10_000)
        os.close(parent)
        return text

    assert said(NO_COLOR="").startswith(b"\x1b[1;31merror\x1b[0m: there is no command")
    assert said(NO_COLOR="1").startswith(b"error: there is no command")
    assert said(NO_COLOR="", TERM="dumb").startswith(b"error: there is no command")
