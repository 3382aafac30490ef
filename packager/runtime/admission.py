"""How many requests run and wait.

A request holds a Ticket from the moment it is taken until its stream has ended, however it ends.
"""

import asyncio
from collections import deque

from ..errors import OverloadedError


class Ticket:
    """One request's place: waiting, then running, then released."""

    __slots__ = ("_admission", "_granted", "_released")

    def __init__(self, admission: "Admission", granted: "asyncio.Future[None]") -> None:
        self._admission = admission
        self._granted = granted
        self._released = False

    async def granted(self) -> None:
        """Wait for a slot. Cancelling the wait does not give the place up: `release` does."""
        await asyncio.shield(self._granted)

    def release(self) -> None:
        """Give the place up, whichever it is. Idempotent."""
        if not self._released:
            self._released = True
            self._admission.leave(self)

    def grant(self) -> None:
        """Let the request run."""
        self._granted.set_result(None)

    @property
    def running(self) -> bool:
        """Whether the request has a slot."""
        return self._granted.done()


class Admission:
    """At most `slots` requests run, at most `queue` wait, first come first served; more are refused."""

    def __init__(self, slots: int, queue: int) -> None:
        self.slots = slots
        self.queue = queue
        self.running = 0
        self._waiting: deque[Ticket] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    def enter(self) -> Ticket:
        """A place for one request. Raises OverloadedError when there is none."""
        ticket = Ticket(self, asyncio.get_running_loop().create_future())
        if self.running < self.slots:
            self.running += 1
            ticket.grant()
        elif len(self._waiting) < self.queue:
            self._waiting.append(ticket)
        else:
            raise OverloadedError(
                f"{self.running} requests run and {len(self._waiting)} wait: no more are taken now",
                mend=f"try again in {OverloadedError.retry_after} s",
            )
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a released ticket's place back and let the next request run."""
        if not ticket.running:
            self._waiting.remove(ticket)
        elif self._waiting:
            self._waiting.popleft().grant()
        else:
            self.running -= 1
