"""The statistics are vLLM's own (vllm.json, which record_vllm.py writes), and the table says what happened."""

import json
from pathlib import Path

import pytest

from packager.bench.outcome import Failure, Outcome
from packager.bench.report import PERCENTILES, Setting, lines, percentile, result, statistics

RECORDED = json.loads(Path(__file__).with_name("vllm.json").read_text())["statistics"]
FAILED = Failure("broken", "it failed")


def outcomes() -> list[Outcome]:
    """The recorded trace as our client would have it."""
    return [
        Outcome(
            number,
            arrived=one["start_time"] - one["client_queue_time"],
            started=one["start_time"],
            ttft=one["ttft"],
            itl=tuple(one["itl"]),
            latency=one["latency"],
            prompt_tokens=one["prompt_len"],
            output_tokens=one["output_tokens"],
            failure=None if one["success"] else FAILED,
        )
        for number, one in enumerate(RECORDED["trace"])
    ]


NAMES = {"total_input": "total_input_tokens", "total_output": "total_output_tokens"}
LEFT_OUT = {"rtfx", "request_goodput"}  # of audio; of objectives that were not given


def test_every_statistic_is_what_vllm_computes():
    found = statistics(outcomes(), RECORDED["duration"])
    theirs = {NAMES.get(name, name): value for name, value in RECORDED["metrics"].items() if name not in LEFT_OUT}
    assert len(theirs) > 20
    assert {name: found[name] for name in theirs} == pytest.approx(theirs, rel=1e-12)
    assert found["output_lens"] == RECORDED["output_lens"]


@pytest.mark.parametrize("name", ["ttft", "tpot", "itl", "e2el"])
def test_percentiles_are_what_vllm_computes(name):
    found = statistics(outcomes(), RECORDED["duration"])
    theirs = dict(RECORDED["percentiles"][f"percentiles_{name}_ms"])
    assert tuple(theirs) == PERCENTILES
    assert {each: found[f"p{each:g}_{name}_ms"] for each in PERCENTILES} == pytest.approx(theirs, rel=1e-12)


def test_failed_requests_are_counted_and_in_no_statistic():
    slow = Outcome(1, 0.0, 0.0, ttft=90.0, latency=100.0, output_tokens=1000, failure=FAILED)
    good = Outcome(0, 0.0, 0.0, ttft=1.0, itl=(1.0,), latency=2.0, prompt_tokens=3, output_tokens=2)
    found = statistics([good, slow], 2.0)
    assert (found["completed"], found["failed"]) == (1, 1)
    assert (found["mean_ttft_ms"], found["p99_e2el_ms"]) == (1000.0, 2000.0)
    assert (found["total_output_tokens"], found["output_lens"]) == (2, [2, 0])
    assert found["errors"] == ["", "it failed"]


def test_percentiles_lie_between_the_nearest_two():
    assert percentile([], 99) == 0.0
    assert percentile([4.0], 50) == 4.0
    assert percentile([1.0, 2.0, 4.0], 75) == 3.0
    assert percentile([1.0, 2.0, 4.0], 100) == 4.0


def setting(requests: int) -> Setting:
    return Setting("20261120-120000", "openai", "m", requests, None, 1.0, 2, {"version": "0"})


def test_a_run_of_nothing_but_failures_has_no_table():
    found = result(setting(3), [Outcome(0, 0.0, 0.0, failure=FAILED)], 1.0)
    assert lines(found)[0] == "requests      0 done, 1 failed (1 broken), 2 not finished"
    assert not any("milliseconds" in line for line in lines(found))
    assert found["packager"]["output_tokens_from"] == "none"


def test_tokens_without_usage_are_said_to_be_events():
    told = Outcome(0, 0.0, 0.0, ttft=0.5, itl=(0.5,) * 3, latency=2.0, prompt_tokens=3, output_tokens=9, texts=4)
    untold = Outcome(1, 0.0, 0.0, ttft=0.5, itl=(0.5,) * 3, latency=2.0, texts=4)
    found = result(setting(2), [untold, told], 2.0)
    assert found["output_lens"] == [9, 4]
    assert found["packager"]["output_tokens_from"] == "both"
    assert "13 out (without the server's usage" in "\n".join(lines(found))
    assert result(setting(1), [told], 2.0)["packager"]["output_tokens_from"] == "usage"


def test_the_result_is_plain_json_with_vllms_keys_for_a_run():
    found = json.loads(json.dumps(result(setting(1), [Outcome(0, 0.0, 0.25, ttft=0.5, latency=0.5, texts=1)], 1.0)))
    assert (found["request_rate"], found["max_concurrency"], found["num_prompts"]) == ("inf", 2, 1)
    assert found["queue_times"] == [0.25]
    assert found["packager"]["version"] == "0"
    assert "ttft" in found["packager"]["definitions"]
