"""What became of one measured request. All times are seconds of one monotonic clock."""

from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["connection", "overloaded", "status", "broken", "timeout"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no measurement.

    `connection`: nothing of an answer came. `overloaded`: 429, the server takes no more now. `status`: another
    status than 200. `broken`: the stream said an error, or ended without saying why. `timeout`: it took too long.
    """

    kind: FailureKind
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, measured by the definitions of vLLM's `bench serve` (endpoint_request_func.py in vLLM 0.32).

    An *event* is one with `choices`, also when its text is empty (a chat's opening, the finish reason); in the
    stream of `/predict`, one with `text`.
    `arrived` is when it was due, `started` when it was sent: what lies between is this client's own queue.
    `ttft` goes from `started` to the first event, connecting included where no connection was open.
    `itl` are the gaps between events: not between tokens, which may share an event. `latency` goes from `started`
    to the last event, and not to the end of the transfer.
    `prompt_tokens` and `output_tokens` are the server's own usage, None where it gave none; `texts` counts the
    events with text. With `failure` set, times are what was seen until then, and no statistic counts them.
    """

    number: int
    arrived: float
    started: float
    ttft: float = 0.0
    itl: tuple[float, ...] = ()
    latency: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    texts: int = 0
    text: str = ""
    failure: Failure | None = None
