"""Letting a busy event loop go round before what it made is sent.

A token costs less than the system call that sends it. Where many streams compete, a reader that looks a
few turns of the loop later finds several tokens, and sends them at once; where there is nothing else to do
these turns take microseconds. So the load sets the size of a write, and no clock does.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Calls back after `count` turns of the running event loop; one of these serves all streams of the loop."""

    __slots__ = ("_going", "_rounds")

    def __init__(self, count: int) -> None:
        self._rounds: deque[list[Callable[[], None]]] = deque([] for _ in range(count))
        self._going = False

    def after(self, call: Callable[[], None]) -> None:
        """Make this call `count` turns from now."""
        self._rounds[-1].append(call)
        if not self._going:
            self._going = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        due = self._rounds.popleft()
        self._rounds.append([])
        self._going = any(self._rounds)
        if self._going:
            asyncio.get_running_loop().call_soon(self._turn)
        for call in due:
            call()
