"""Results appear whole and together, whenever the process dies."""

import errno
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from packager.errors import BusyError, OutputError
from packager.package.output import hold, settle

ROOT = Path(__file__).parents[3]
NAMES = ("hello", "hello.oci")

# Commits the version `new` over `old` again and again, killed at each step that audit events tell of: renames, removals,
# files that are opened to be written, and the look-up of renameat2 before each exchange. Each try has its own folder.
KILLED_BUILDS = """
import itertools, os, signal, sys
from pathlib import Path
from packager.package.output import hold

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "tempfile.mkdtemp", "os.chmod"}

def write(folder, version):
    with hold(folder, "hello") as output:
        for name in ("hello", "hello.oci"):
            staged = output.stage(name)
            (staged / "deep").mkdir()
            for part in ("a", "deep/b"):
                (staged / part).write_text(version)
        output.commit()

def watch(steps, exchange):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        symbol = event == "ctypes.dlsym" and arguments[1] == "renameat2"
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in STEPS or symbol or writes:
            if seen == steps:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        if symbol and not exchange:
            raise AttributeError("a C library without renameat2")
    sys.addaudithook(hook)

root, old, exchange = Path(sys.argv[1]), sys.argv[2] == "old", sys.argv[3] == "exchange"
for steps in itertools.count():
    folder = root / f"{steps:03}"
    folder.mkdir()
    if old:
        write(folder, "old")
    child = os.fork()
    if child == 0:
        watch(steps, exchange)
        write(folder, "new")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    assert steps < 500
"""


def version(folder: Path) -> str:
    """`old`, `new` or `nothing`; anything in between fails the test."""
    if not folder.exists():
        return "nothing"
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found.keys() == {"a", "deep/b"}, found
    (text,) = set(found.values())
    return text


@pytest.mark.parametrize("exchange", ["exchange", "no exchange"])
@pytest.mark.parametrize("before", ["old", "nothing"])
def test_killed_at_every_step(tmp_path, before, exchange):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", KILLED_BUILDS, str(tmp_path), before, exchange], env=env, check=True)
    folders = sorted(tmp_path.iterdir())
    outcomes = []
    for folder in folders:
        if exchange == "exchange":
            assert {version(folder / name) for name in NAMES} <= {before, "new"}
        settle(folder, "hello")
        settled = {version(folder / name) for name in NAMES}
        assert len(settled) == 1, "who reads without building sees package and image of one build"
        with hold(folder, "hello"):
            outcomes.append({version(folder / name) for name in NAMES})
            assert outcomes[-1] == settled
            assert {path.name for path in folder.iterdir()} - {*NAMES} == {".hello.lock"}
    assert len(folders) > 15
    assert outcomes[0] == {before}
    assert outcomes[-1] == {"new"}
    # Both results change at one step: there is no step after which one is old and the other is new.
    assert [key for key, _ in itertools.groupby(outcomes)] == [{before}, {"new"}]


def write(folder, text, name="hello"):
    with hold(folder, name) as output:
        (output.stage(name) / "a").write_text(text)
        output.commit()


def test_results_replace_each_other(tmp_path):
    out = tmp_path / "made/when/missing"
    write(out, "one")
    write(out, "two")
    assert (out / "hello/a").read_text() == "two"
    assert {path.name for path in out.iterdir()} == {"hello", ".hello.lock"}
    assert (out / "hello").stat().st_mode & 0o777 == 0o755


def test_what_is_not_committed_is_gone(tmp_path):
    def fail():
        with hold(tmp_path, "hello") as output:
            (output.stage("hello") / "a").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {path.name for path in tmp_path.iterdir()} == {".hello.lock"}


def test_scratch_is_gone_with_the_output_and_what_a_kill_left_of_it_when_it_is_held_again(tmp_path):
    with hold(tmp_path, "hello") as output:
        scratch = output.scratch()
        (scratch / "large").write_text("half")
        (output.stage("hello") / "a").write_text("whole")
        output.commit()
        assert (scratch / "large").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"hello", ".hello.lock"}
    scratch.mkdir()
    with hold(tmp_path, "hello"):
        assert not scratch.exists()


@pytest.mark.parametrize("name", ["*", "h?llo", "[h]ello"])
def test_a_name_is_no_pattern(tmp_path, name):
    with hold(tmp_path, "hello") as other:
        staged = other.stage("hello")
        with hold(tmp_path, name) as output:
            left = output.scratch()
            assert staged.exists()
        left.mkdir()
        with hold(tmp_path, name):
            assert staged.exists()
            assert not left.exists()


def test_a_name_with_a_tilde_would_meet_another_ones_leftovers(tmp_path):
    with pytest.raises(OutputError, match="the name of the result has a ~") as caught, hold(tmp_path, "hello~1"):
        pass
    assert caught.value.problems[0].mend == "choose another name"
    assert list(tmp_path.iterdir()) == []


def test_names_that_begin_alike_do_not_meet(tmp_path):
    """`hello` clears its own leftovers, not what `hello.new-2` is writing."""
    with hold(tmp_path, "hello.new-2") as other:
        (other.stage("hello.new-2") / "a").write_text("2")
        write(tmp_path, "1")
        other.commit()
    assert (tmp_path / "hello.new-2/a").read_text() == "2"


def test_one_at_a_time(tmp_path):
    with hold(tmp_path, "hello"):
        with pytest.raises(BusyError, match=f"process {os.getpid()}") as caught, hold(tmp_path, "hello"):
            pass
        assert caught.value.problems[0].where == str(tmp_path / "hello")
        write(tmp_path, "another name is free", name="other")
    write(tmp_path, "free again")


def test_waiting_is_told_once_and_ends(tmp_path):
    told, order = [], []
    inside, leave = threading.Event(), threading.Event()

    def first():
        with hold(tmp_path, "hello"):
            inside.set()
            leave.wait()
            order.append("first")

    def say(text):
        told.append(text)
        leave.set()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with hold(tmp_path, "hello", waiting=say):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert told == [f"waiting for another packager (process {os.getpid()}) that is writing {tmp_path / 'hello'}"]


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written: not a directory") as caught:
        write(tmp_path / "file/dist", "x")
    assert "--output" in caught.value.problems[0].mend


def test_what_is_refused_elsewhere_is_no_matter_of_the_output(tmp_path):
    """Weights that may not be read, say: another --output would not help."""
    elsewhere = str(tmp_path / "weights")
    with pytest.raises(PermissionError) as caught, hold(tmp_path / "dist", "hello"):
        raise PermissionError(errno.EACCES, "Permission denied", elsewhere)
    assert caught.value.filename == elsewhere
    with pytest.raises(OutputError, match="permission denied"), hold(tmp_path / "dist", "hello"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "dist/hello"))


def test_a_full_disk_is_an_output_error(tmp_path):
    def fill():
        with hold(tmp_path, "hello") as output:
            output.stage("hello")
            Path("/dev/full").write_text("x")

    with pytest.raises(OutputError, match="no space left"):
        fill()
    assert {path.name for path in tmp_path.iterdir()} == {".hello.lock"}
