"""vLLM's errors as one line, and the one that matters among them."""

import json
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from packager.runtime.engines.vllm_logs import Folder, one_line


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "folder", "ERROR")
    folder.path.mkdir(mode=0o700)
    folder.write()
    return folder


@contextmanager
def vllms_log(folder: Folder) -> Iterator[logging.Logger]:
    """The logger as vLLM's processes have it."""
    logging.config.dictConfig(json.loads(folder.settings.read_text()))
    log = logging.getLogger("vllm")
    yield log
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.NOTSET)
    log.propagate = True


def fail(log: logging.Logger, message: str, error: Exception) -> None:
    try:
        raise error
    except type(error):
        log.exception(message)


def test_errors_are_json_lines_on_standard_error_and_no_more_is_said(folder, capsys):
    with vllms_log(folder) as log:
        log.info("a thousand details")
        log.warning("a warning")
        fail(log, "EngineCore failed to start.", ValueError("no room"))
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], said["event"]) == ("error", "EngineCore failed to start.")
    assert said["trace"].endswith("ValueError: no room")


def test_the_cause_is_the_last_error_that_points_at_no_other(folder):
    with vllms_log(folder) as log:
        fail(log, "WorkerProc failed to start.", ValueError("no room\nfor the cache"))
        fail(log, "EngineCore failed to start.", RuntimeError("initialization failed. See stack trace for root cause."))
    assert folder.root_cause(0) == "ValueError: no room"


def test_what_was_before_does_not_count(folder):
    assert folder.causes() == 0
    assert folder.root_cause(0) == ""
    with vllms_log(folder) as log:
        log.error("an old error")
        since = folder.causes()
        assert folder.root_cause(since) == ""
        log.error("a new one\nwith details")
    assert folder.root_cause(since) == "a new one"


def test_an_exception_in_one_line():
    assert one_line(RuntimeError("first\nsecond")) == "RuntimeError: first"
    assert one_line(RuntimeError("\n  \nfirst")) == "RuntimeError: first"
    assert one_line(MemoryError()) == "MemoryError"


def test_a_validation_error_in_one_line():
    class Model(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def check(cls, name: str) -> str:
            raise ValueError(f"{name} is no model\n(see the list)")

    with pytest.raises(ValidationError) as caught:
        Model(name="x")
    assert one_line(caught.value) == "x is no model"


def test_the_folder_is_there_while_an_engine_uses_it(folder):
    """A server's end does not wait for `atexit`, and a second engine needs it again."""
    for _ in range(2):
        folder.enter()
        folder.enter()
        assert json.loads(folder.settings.read_text())["version"] == 1
        assert folder.path.stat().st_mode & 0o777 == 0o700
        folder.leave()
        assert folder.path.exists()
        folder.leave()
        assert not folder.path.exists()
    folder.path.mkdir()  # by somebody else
    with pytest.raises(FileExistsError):
        folder.enter()
