"""`packager chat` in processes of its own, against real servers."""

import os
import pty
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import psutil
import pytest
from fakes.cli import environment, packager
from fakes.packages import make_package
from fakes.serving import thread_server, wait_until


def chat(*argv: str | Path, folder: Path, said: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "packager", "chat", *map(str, argv)],
        input=said,
        cwd=folder,
        env=environment(folder / "cache"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_question(tmp_path: Path) -> None:
    with thread_server(tmp_path, delay_ms=5) as server:
        server.wait_ready()
        done = chat(server.url, "--prompt", "one two three", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "one two three\n")
    assert done.stderr.startswith("3 tokens · ")
    assert "first after" in done.stderr


def test_a_conversation_line_by_line(tmp_path: Path) -> None:
    with thread_server(tmp_path) as server:
        server.wait_ready()
        done = chat(
            server.url, "--max-tokens", "2", folder=tmp_path, said="a b c\n\n/nonsense\n/clear\nd\n/quit\nnever\n"
        )
    assert (done.returncode, done.stdout) == (0, "a b\nd\n")
    assert "ended at its limit" in done.stderr
    assert "/system TEXT" in done.stderr


@pytest.mark.parametrize(
    ("options", "argv", "why"),
    [
        ({"fail_after": 2}, (), "the answer is not complete"),
        ({"context_length": 2}, (), "the context holds 2"),
        ({}, ("--model", "other"), "the model 'other' does not exist here"),
    ],
)
def test_a_failure_is_said_and_is_the_exit_code(tmp_path: Path, options, argv, why) -> None:
    with thread_server(tmp_path, **options) as server:
        server.wait_ready()
        done = chat(server.url, "--prompt", "one two three", *argv, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert why in done.stderr


def test_nobody_there(tmp_path: Path) -> None:
    done = chat("http://127.0.0.1:9", "--prompt", "x", folder=tmp_path)
    assert done.returncode == 1
    assert "nobody answers" in done.stderr
    assert "mend: is the server up?" in done.stderr


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://", "must be http://HOST:PORT"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://a..b", "'a..b' is no name of a host"),
        ("http://127.0.0.1:99999", "Port out of range"),
        ("ftp://a", "must be http://HOST:PORT"),
        ("http://a/?key=b", "must have no query"),
        ("http://a/\x01", "must be printable ASCII"),
    ],
)
def test_what_is_no_address(tmp_path: Path, url, why) -> None:
    done = chat(url, "--prompt", "x", folder=tmp_path)
    assert done.returncode == 1
    shown = url.replace("\x01", "\\x01")
    assert done.stderr.startswith(f"error: {shown}: this is no address of a server: {why}")
    assert done.stderr.endswith("\n  mend: write http://HOST:PORT, or https\n")


def test_an_address_with_a_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    done = chat("http://ada:secret@127.0.0.1:9", "--prompt", "x", folder=tmp_path)
    assert done.returncode == 1
    assert "must have no query, fragment or user" in done.stderr
    assert "secret" not in done.stderr


def test_an_address_without_its_scheme(tmp_path: Path) -> None:
    done = chat("localhost:3000", "--prompt", "x", folder=tmp_path)
    assert done.returncode == 2
    assert "write http://localhost:3000 for a server" in done.stderr


def test_bytes_that_are_no_text_are_not_sent(tmp_path: Path) -> None:
    with thread_server(tmp_path) as server:
        server.wait_ready()
        command = [sys.executable, "-m", "packager", "chat", server.url]
        settings = {"cwd": tmp_path, "env": environment(tmp_path / "cache"), "capture_output": True}
        asked = subprocess.run([*command, "--prompt", b"caf\xe9"], check=False, **settings)
        ordered = subprocess.run([*command, "--prompt", "x", "--system", b"caf\xe9"], check=False, **settings)
        piped = subprocess.run(command, check=False, input=b"caf\xe9\n", **settings)
    for done in (asked, ordered):
        assert done.returncode == 1
        assert b"error: 'caf\\udce9': this is not text in UTF-8\n  mend: " in done.stderr
    assert piped.returncode == 1
    assert b" is not text in " in piped.stderr  # where the locale is C, it comes as an argument does
    assert b"  mend: " in piped.stderr


def test_a_key_that_no_header_holds(tmp_path: Path) -> None:
    environ = {"PACKAGER_API_KEY": "clé"}
    done = packager("chat", "http://127.0.0.1:9", "-p", "x", cwd=tmp_path, cache=tmp_path / "cache", env=environ)
    assert done.returncode == 1
    assert done.stderr.startswith("error: PACKAGER_API_KEY: this is no API key\n  mend: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_package_is_not_served_on_when_the_command_is_ended(tmp_path: Path, number) -> None:
    package = make_package(tmp_path / "package", vendored=False)
    with subprocess.Popen(
        [sys.executable, "-m", "packager", "chat", str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
    ) as process:
        process.stdin.write(b"here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"here\n"
        (server,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    wait_until(lambda: not server.is_running(), "the server has ended")


def test_controls_of_the_terminal_are_shown_not_obeyed(tmp_path: Path) -> None:
    with thread_server(tmp_path) as server:
        server.wait_ready()
        done = chat(server.url, "--prompt", "red \x1b[31mtext", folder=tmp_path)
    assert done.stdout == "red \\x1b[31mtext\n"


def test_a_package_is_served_for_as_long_as_it_takes(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", vendored=False)
    done = chat(package, "--prompt", "from a folder", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "from a folder\n")
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(package) in (one.info["cmdline"] or ())]


def test_a_package_that_cannot_be_served(tmp_path: Path) -> None:
    done = packager("chat", tmp_path, "--prompt", "x", cwd=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 1
    assert "this folder is not a package" in done.stderr
    broken = make_package(tmp_path / "package", options={"warp": 9}, vendored=False)
    done = packager("chat", broken, "--prompt", "x", cwd=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 1
    assert "does not know the option 'warp'" in done.stderr


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *argv: str, folder: Path) -> None:
        self._master, slave = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "packager", "chat", *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment(folder / "cache", {"TERM": "dumb", "NO_COLOR": "1"}),
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._master, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def wait_for_prompt(self, number: int) -> None:
        """Until it has asked for the next message this often: what is typed before may be lost."""
        wait_until(lambda: self._read().count("> ") >= number, f"prompt number {number}")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self._read(), f"{text!r} on the terminal")

    def _read(self) -> str:
        with suppress(OSError):  # nothing new, or the end
            self.text += os.read(self._master, 65536).decode(errors="replace")
        return self.text


def test_ctrl_c_ends_the_answer_and_not_the_conversation(tmp_path: Path) -> None:
    with ExitStack() as held:
        server = held.enter_context(thread_server(tmp_path, delay_ms=200)).wait_ready()
        terminal = held.enter_context(Terminal(server.url, folder=tmp_path))
        terminal.wait_for_prompt(1)
        terminal.type(f"one two {'and ' * 100}nine\n")  # twenty seconds in which to stop it
        terminal.wait_for("\none two")
        terminal.process.send_signal(2)
        terminal.wait_for("stopped")
        wait_until(lambda: server.supervisor.metrics.running == 0, "the slot is free")
        assert "nine" not in terminal.text.partition("nine")[2]
        terminal.wait_for_prompt(2)
        terminal.type("again\n")
        terminal.wait_for("\nagain")
        terminal.wait_for_prompt(3)
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
