"""A running request between the thread that computes it and the event loop that reads it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Generic, TypeVar

from ...errors import PackagerError

Item = TypeVar("Item")


class Call(Generic[Item]):
    """Items from a worker thread to the event loop, and back whether they are still wanted.

    `cancelled` is set by whoever ends the request early; `failure` is raised when the worker has ended.
    """

    __slots__ = ("_items", "_loop", "_ready", "_woken", "cancelled", "failure")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Item | None] = deque()
        self._ready = asyncio.Event()
        self._woken = False
        self.cancelled = False
        self.failure: PackagerError | None = None

    def put(self, item: Item | None) -> bool:
        """In the worker thread: hand an item over (None: the worker has ended); True says to stop.

        The loop is woken once for all items that wait, not once an item.
        """
        self._items.append(item)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._wake)
        return self.cancelled

    def _wake(self) -> None:
        self._woken = False  # before the items are read: what comes from now on wakes again
        self._ready.set()

    async def items(self) -> AsyncIterator[Item]:
        """What the worker hands over, until it has ended."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._items:
                item = self._items.popleft()
                if self.failure is not None and item is None:
                    raise self.failure
                if item is None:
                    return
                yield item
