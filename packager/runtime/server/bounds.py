"""What a client may send, and how long it may take over it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes in bytes, times in seconds.

    `url` is path and query, `head` all of a request's head. A body must have come after `body_seconds`, and a second
    more for each `body_rate` bytes of it (as Apache's MinRate counts). `idle_seconds` is how long a connection may
    wait for its next request: more than the 60 that load balancers keep theirs, which else would send a request into
    a connection that is being closed. `stall_seconds` is how long a client may read nothing of an answer.
    """

    body: int = 2 * 1024 * 1024
    url: int = 8 * 1024
    headers: int = 100
    head: int = 32 * 1024
    head_seconds: float = 5
    body_seconds: float = 10
    body_rate: int = 1024
    idle_seconds: float = 75
    stall_seconds: float = 60
