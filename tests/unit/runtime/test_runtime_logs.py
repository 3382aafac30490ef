import json
import logging
from io import StringIO

import pytest

from packager.runtime.logs import LOG, JsonLines, event


def heard(formatter):
    """What a handler with this formatter writes of a retry."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    LOG.addHandler(handler)
    try:
        event("retry", logging.WARNING, file="fetch a.bin", why="it broke; again in 0.5 s")
    finally:
        LOG.removeHandler(handler)
    return stream.getvalue()


def test_a_json_line():
    line = json.loads(heard(JsonLines()))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "event": "retry", "file": "fetch a.bin", "why": "it broke; again in 0.5 s"}


def test_a_program_that_set_up_no_logs_of_ours_is_told_what_happened():
    assert heard(None) == "retry; file fetch a.bin; why it broke; again in 0.5 s\n"


@pytest.mark.parametrize("text", ["plain", "with %s"])
def test_records_of_others(text):
    record = logging.LogRecord("other", logging.INFO, "", 0, text, ("x",) if "%" in text else (), None)
    line = json.loads(JsonLines().format(record))
    assert (line["event"], line["logger"]) == (record.getMessage(), "other")
