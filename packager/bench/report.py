"""What a run comes to: the statistics and keys of vLLM's `bench serve`, and a table for people. Pure.

Every key outside `packager` is vLLM 0.32's own, with vLLM's meaning and unit (times `*_ms` in milliseconds, all
others in seconds), so that what reads vLLM's results reads these. vLLM's keys for audio, speculative decoding and
diffusion are left out.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .outcome import Outcome

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
DEFINITIONS: Mapping[str, str] = {
    "source": "vLLM 0.32 `bench serve`: endpoint_request_func.py, serve.py calculate_metrics",
    "event": "one with `choices`, also when its text is empty; in /predict's stream, one with `text`",
    "ttft": "send to first event; connecting counts where no connection was open",
    "itl": "gaps between events, all of them together",
    "tpot": "(latency - ttft) / (output tokens - 1) of each request with more than one token",
    "e2el": "send to last event",
    "queue_times": "due to send: waiting in this client",
    "max_output_tokens_per_s": "most events, not tokens, in one second counted from the first send",
    "percentiles": "linear interpolation, as numpy's default; std is the population's",
    "failed": "neither times nor tokens of a failed request are in any statistic",
    "completed": "stricter than vLLM: 200, a finish reason, [DONE], and the transfer's own end",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run was made; None is no limit. `about` says more of it and of the machine, for the `packager` object."""

    date: str
    backend: str
    model: str | None
    requests: int
    rate: float | None
    burstiness: float
    concurrency: int | None
    about: Mapping[str, Any]


def result(setting: Setting, outcomes: Sequence[Outcome], duration: float) -> dict[str, Any]:
    """The run as JSON: vLLM's flat keys, and `packager` with what they mean here.

    `outcomes` are those that ended within `duration` seconds; what was asked and is not among them is `unfinished`.
    """
    ordered = sorted(outcomes, key=lambda each: each.number)
    failures = Counter(each.failure.kind for each in ordered if each.failure)
    return {
        "date": setting.date,
        "endpoint_type": setting.backend,
        "backend": setting.backend,
        "label": None,
        "model_id": setting.model,
        "tokenizer_id": None,
        "num_prompts": setting.requests,
        "request_rate": "inf" if setting.rate is None else setting.rate,
        "burstiness": setting.burstiness,
        "max_concurrency": setting.concurrency,
        **statistics(ordered, duration),
        "packager": {
            **setting.about,
            "definitions": dict(DEFINITIONS),
            "output_tokens_from": _token_source(ordered),
            "failures": dict(sorted(failures.items())),
            "unfinished": setting.requests - len(ordered),
        },
    }


def statistics(outcomes: Sequence[Outcome], duration: float) -> dict[str, Any]:
    """What vLLM's `calculate_metrics` computes, and the lists it is made from, where a failed request has zeros."""
    good = [each for each in outcomes if each.failure is None]
    lengths = [0 if each.failure else output_length(each) for each in outcomes]
    read, written = sum(each.prompt_tokens or 0 for each in good), sum(lengths)
    per_second, at_once = _busiest(good)
    found: dict[str, Any] = {
        "duration": duration,
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "total_input_tokens": read,
        "total_output_tokens": written,
        "request_throughput": len(good) / duration,
        "request_goodput": None,
        "output_throughput": written / duration,
        "total_token_throughput": (read + written) / duration,
        "input_lens": [each.prompt_tokens or 0 for each in outcomes],
        "output_lens": lengths,
        "ttfts": [each.ttft for each in outcomes],
        "itls": [list(each.itl) for each in outcomes],
        "latencies": [each.latency for each in outcomes],
        "start_times": [each.started for each in outcomes],
        "queue_times": [each.started - each.arrived for each in outcomes],
        "generated_texts": [each.text for each in outcomes],
        "errors": [each.failure.text if each.failure else "" for each in outcomes],
        "max_output_tokens_per_s": per_second,
        "max_concurrent_requests": at_once,
    }
    for name, values in _measures(good).items():
        found |= _spread(name, values)
    return found


def output_length(outcome: Outcome) -> int:
    """Tokens of an answer: the server's count, else its events with text, which may hold several tokens each."""
    return outcome.output_tokens or outcome.texts or 1


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in order, between the two nearest as numpy's `linear` method has it; 0 of none."""
    if not ordered:
        return 0.0
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The result for people."""
    about = found["packager"]
    counts = f"{found['completed']} done, {found['failed']} failed"
    if about["failures"]:
        counts += f" ({', '.join(f'{count} {kind}' for kind, count in about['failures'].items())})"
    if about["unfinished"]:
        counts += f", {about['unfinished']} not finished"
    tokens = f"{found['total_input_tokens']} in, {found['total_output_tokens']} out"
    if about["output_tokens_from"] in ("events", "both"):
        tokens += " (without the server's usage: events with text are counted)"
    speed = f"{found['output_throughput']:.1f} tokens/s out, {found['total_token_throughput']:.1f} in and out"
    most = f"{found['max_concurrent_requests']} requests, {found['max_output_tokens_per_s']:.0f} events/s"
    rows = [
        ("requests", counts),
        ("seconds", f"{found['duration']:.2f}"),
        ("tokens", tokens),
        ("throughput", f"{found['request_throughput']:.2f} requests/s, {speed}"),
        ("most at once", most),
    ]
    listed = [f"{name:<14}{value}" for name, value in rows]
    return listed + _table(found) if found["completed"] else listed


def _table(found: Mapping[str, Any]) -> list[str]:
    head = ["mean", "std", *(f"p{percent:g}" for percent in PERCENTILES)]
    table = [f"{'milliseconds':<22}" + "".join(f"{name:>10}" for name in head)]
    for name, title in _TITLES.items():
        keys = [f"mean_{name}_ms", f"std_{name}_ms", *(f"p{percent:g}_{name}_ms" for percent in PERCENTILES)]
        table.append(f"{title:<22}" + "".join(f"{found[key]:>10.2f}" for key in keys))
    return table


_TITLES = {
    "ttft": "first token (TTFT)",
    "tpot": "per token (TPOT)",
    "itl": "between events (ITL)",
    "e2el": "whole answer (E2EL)",
}


def _measures(good: Sequence[Outcome]) -> dict[str, list[float]]:
    lengths = [(each, output_length(each)) for each in good]
    return {
        "ttft": [each.ttft for each in good],
        "tpot": [(each.latency - each.ttft) / (length - 1) for each, length in lengths if length > 1],
        "itl": [gap for each in good for gap in each.itl],
        "e2el": [each.latency for each in good],
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    mean = math.fsum(ordered) / len(ordered) if ordered else 0.0
    variance = math.fsum((each - mean) ** 2 for each in ordered) / len(ordered) if ordered else 0.0
    found = {f"mean_{name}_ms": mean * 1000, f"median_{name}_ms": percentile(ordered, 50) * 1000}
    found[f"std_{name}_ms"] = math.sqrt(variance) * 1000
    return found | {f"p{percent:g}_{name}_ms": percentile(ordered, percent) * 1000 for percent in PERCENTILES}


def _busiest(good: Sequence[Outcome]) -> tuple[float, int]:
    """The most events in one second, and the most requests that were open within one."""
    begun = min((each.started for each in good), default=0.0)
    events: Counter[int] = Counter()
    open_requests: Counter[int] = Counter()
    for each in good:
        at = each.started + each.ttft
        events[int(at - begun)] += 1
        for gap in each.itl:
            at += gap
            events[int(at - begun)] += 1
        first, last = int(each.started - begun), int(each.started + each.latency - begun)
        open_requests.update(range(first, last + 1))
    return float(max(events.values(), default=0)), max(open_requests.values(), default=0)


def _token_source(outcomes: Sequence[Outcome]) -> str:
    """Where output tokens were counted: `usage`, `events`, `both`, or nowhere."""
    found = {"usage" if each.output_tokens else "events" for each in outcomes if each.failure is None}
    return "both" if len(found) > 1 else "".join(found) or "none"
