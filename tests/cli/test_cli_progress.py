"""Progress: plain lines that do not flood, bars on a terminal, silence when asked."""

import io

import pytest

from packager.cli.progress import Bars, Plain, Progress, size


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_name_stages_and_speak_every_few_seconds():
    stream, clock = io.StringIO(), Clock()
    with Plain(stream, clock) as progress:
        progress.stage("fetch wheels", 50_000_000)
        for second in range(13):
            clock.now = float(second)
            progress.on_bytes("vllm.whl", second * 2_000_000, 50_000_000)
        progress.stage("image")
        progress.say("done")
    assert stream.getvalue().splitlines() == [
        "fetch wheels (50.0 MB)",
        "  vllm.whl: 10.0 MB of 50.0 MB, 2.0 MB/s, 20 s left",
        "  vllm.whl: 20.0 MB of 50.0 MB, 2.0 MB/s, 15 s left",
        "image",
        "done",
    ]


def test_plain_lines_without_a_known_size():
    stream, clock = io.StringIO(), Clock()
    progress = Plain(stream, clock)
    progress.on_bytes("stream", 0, 0)
    clock.now = 10.0
    progress.on_bytes("stream", 5000, 0)
    assert stream.getvalue() == "  stream: 5.0 kB, 500 B/s\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_the_display_suits_the_stream(terminal, monkeypatch):
    assert type(Progress.start(stream=io.StringIO())) is Plain
    assert type(Progress.start(stream=terminal)) is Bars
    assert type(Progress.start(stream=terminal, quiet=True)) is Progress
    monkeypatch.setenv("NO_COLOR", "1")
    assert type(Progress.start(stream=terminal)) is Plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert type(Progress.start(stream=terminal)) is Plain


def test_quiet_says_nothing(capsys):
    with Progress.start(quiet=True) as progress:
        progress.stage("a", 1)
        progress.on_bytes("b", 1, 2)
        progress.say("c")
    assert capsys.readouterr() == ("", "")


def test_bars_leave_the_finished_stages(terminal):
    with Bars(terminal) as progress:
        progress.stage("[fetch] wheels", 2000)
        for number in range(20):  # more transfers than are shown
            progress.on_bytes(f"wheel {number}", 50, 100)
        for number in range(20):
            progress.on_bytes(f"wheel {number}", 100, 100)
        progress.say("a word [between]")
        progress.stage("image")
    kept = terminal.getvalue()
    assert "[fetch] wheels: 0." in kept
    assert "a word [between]" in kept
    assert "image: 0." in kept


def fails_half_way(progress: Progress) -> None:
    with progress:
        progress.stage("image")
        raise KeyError


def test_bars_end_cleanly_when_the_work_fails(terminal):
    with pytest.raises(KeyError):
        fails_half_way(Bars(terminal))
    assert "image: " not in terminal.getvalue()
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is back


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_999, "1.0 MB"),
        (8_500_000_000, "8.5 GB"),
        (10**18, "1000.0 PB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text
