"""vLLM's errors as one line, and the one that matters among them."""

import json
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from packager.runtime.engines.vllm_logs import causes_so_far, one_line, root_cause, write_settings


@contextmanager
def vllms_log(folder: Path) -> Iterator[logging.Logger]:
    """The logger as vLLM's processes have it."""
    settings = json.loads(write_settings(folder, "ERROR").read_text())
    logging.config.dictConfig(settings)
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


def test_errors_are_json_lines_on_standard_error_and_no_more_is_said(tmp_path, capsys):
    with vllms_log(tmp_path) as log:
        log.info("a thousand details")
        log.warning("a warning")
        fail(log, "EngineCore failed to start.", ValueError("no room"))
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], said["event"]) == ("error", "EngineCore failed to start.")
    assert said["trace"].endswith("ValueError: no room")


def test_the_cause_is_the_last_error_that_points_at_no_other(tmp_path):
    with vllms_log(tmp_path) as log:
        fail(log, "WorkerProc failed to start.", ValueError("no room\nfor the cache"))
        fail(log, "EngineCore failed to start.", RuntimeError("initialization failed. See stack trace for root cause."))
    assert root_cause(tmp_path, 0) == "ValueError: no room"


def test_what_was_before_does_not_count(tmp_path):
    assert causes_so_far(tmp_path) == 0
    assert root_cause(tmp_path, 0) == ""
    with vllms_log(tmp_path) as log:
        log.error("an old error")
        since = causes_so_far(tmp_path)
        assert root_cause(tmp_path, since) == ""
        log.error("a new one\nwith details")
    assert root_cause(tmp_path, since) == "a new one"


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
