"""The small pure pieces: errors, logs, metrics, events, the description."""

import io
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from packager.errors import (
    ContextLengthError,
    DeadlineError,
    EngineError,
    LoadError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from packager.runtime.logs import LOG, JsonLines, event
from packager.runtime.metrics import Metrics
from packager.runtime.server.describe import describe
from packager.runtime.server.http import HttpError, error_body
from packager.runtime.server.sse import token_template


@pytest.mark.parametrize(
    ("error", "kind", "param", "code"),
    [
        (RequestError("x", where="stop"), "invalid_request_error", "stop", "invalid_request"),
        (ContextLengthError("x", where="prompt"), "invalid_request_error", "prompt", "context_length_exceeded"),
        (HttpError(413, "x"), "invalid_request_error", None, "invalid_request"),
        (OverloadedError("x"), "rate_limit_error", None, "overloaded"),
        (UnavailableError("x"), "unavailable_error", None, "unavailable"),
        (DeadlineError("x"), "engine_error", None, "deadline"),
    ],
)
def test_errors_in_openais_shape(error, kind, param, code):
    assert error_body(error) == {"error": {"message": "x", "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize("error", [EngineError("secret path"), LoadError("secret path")])
def test_an_engines_own_words_stay_in_the_log(error):
    assert "secret" not in json.dumps(error_body(error))


def test_a_template_puts_any_text_in_its_place():
    before, after = token_template(lambda text: {"a": text, "b": 'x"\x01'})
    text = 'new\nline "quoted" \x00 é'
    event_bytes = before + json.dumps(text).encode() + after
    assert json.loads(event_bytes.removeprefix(b"data: ")) == {"a": text, "b": 'x"\x01'}
    assert event_bytes.endswith(b"\n\n")


def test_a_log_line_is_json():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    LOG.addHandler(handler)
    level = LOG.level
    LOG.setLevel(logging.INFO)
    try:
        event("ready", model="m", seconds=1.5)
        event("quiet", logging.DEBUG)
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {"level": "info", "event": "ready", "model": "m", "seconds": 1.5}


def test_another_librarys_record_says_whose_it_is():
    record = logging.LogRecord("asyncio", logging.WARNING, "", 0, "slow by %d s", (3,), None)
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["event"], line["logger"]) == ("warning", "slow by 3 s", "asyncio")


def test_metrics_are_prometheus_text():
    metrics = Metrics()
    metrics.running, metrics.ready = 2, True
    metrics.outcomes["abort"] = 3
    for seconds in (0.0005, 0.3, 100):
        metrics.first_token.observe(seconds)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }
    assert samples["packager_ready",] == 1
    assert samples["packager_requests_running",] == 2
    assert samples["packager_requests_total", "abort"] == 3
    assert samples["packager_first_token_seconds_bucket", "0.001"] == 1
    assert samples["packager_first_token_seconds_bucket", "0.5"] == 2
    assert samples["packager_first_token_seconds_bucket", "+Inf"] == 3
    assert samples["packager_first_token_seconds_count",] == 3


def test_the_description_names_every_sampling_parameter():
    document = json.dumps(describe("m", "1"))
    for name in ("temperature", "min_p", "repetition_penalty", "max_completion_tokens", "stream_options"):
        assert f'"{name}"' in document
