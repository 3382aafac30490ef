"""What ends a command from outside, beside Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, raise SystemExit: what a command has started ends with it.

    Only the first one does: a shell and the system both send SIGHUP, and what is being ended must not be left half-way.
    """

    def leave(number: int, _: object) -> NoReturn:
        for one in heard:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    kept = {one: signal.getsignal(one) for one in _ENDING}
    heard = {one: handler for one, handler in kept.items() if handler is not signal.SIG_IGN}  # nohup
    for one in heard:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one, handler in heard.items():
            signal.signal(one, handler)
