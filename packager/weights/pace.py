"""How many connections to use: more while more bring more, fewer when the other side asks for rest. Pure."""

FIRST, MOST = 4, 32
WINDOW = 0.5
"""Seconds over which a rate is taken."""
_GAIN = 1.15
"""What a step up must bring to be kept: below it the wire, the disk or the processors are the limit."""
_PATIENCE = 20
"""Windows until a step up is tried again."""


class Pace:
    """The number of connections, from the bytes that came in each window."""

    def __init__(self, first: int = FIRST, most: int = MOST) -> None:
        self.limit = min(first, most)
        self._most = most
        self._before: tuple[int, float] | None = None  # the limit and the rate from which the last step up was made
        self._rest = 0

    def observe(self, rate: float) -> None:
        """A window ended in which every connection was busy, at `rate` bytes a second."""
        if self._before is not None:
            limit, then = self._before
            self._before = None
            if rate < then * _GAIN:
                self.limit, self._rest = min(self.limit, limit), _PATIENCE
                return
        if self._rest:
            self._rest -= 1
        elif self.limit < self._most:
            self._before = (self.limit, rate)
            self.limit = min(self._most, self.limit * 2)

    def refused(self) -> None:
        """The other side asked for less."""
        self.limit, self._before, self._rest = max(1, self.limit // 2), None, _PATIENCE
