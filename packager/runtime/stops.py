"""Stop strings for engines that have none of their own."""

from collections import deque

from .engine import TokenLogprob


class StopText:
    """Passes text on, up to the first stop string, however the text is cut into pieces.

    Text that may be the beginning of a stop string is held back until it is known not to be.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, piece: str) -> tuple[str, bool]:
        """The text that is now known to be output, and whether a stop string was met."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        found = min((at for at in (text.find(stop) for stop in self._stops) if at >= 0), default=-1)
        if found >= 0:
            self._held = ""
            return text[:found], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def rest(self) -> str:
        """What was held back, when the text has ended."""
        held, self._held = self._held, ""
        return held


class HeldLogprobs:
    """Lets log probabilities go with the text that they belong to, while StopText holds text back.

    A token goes when its first character does, so what comes after a stop string never does.
    """

    def __init__(self) -> None:
        self._held: deque[tuple[int, TokenLogprob]] = deque()
        self._fed = 0
        self._given = 0

    def feed(self, tokens: tuple[TokenLogprob, ...], piece: str, given: str) -> tuple[TokenLogprob, ...]:
        """Take the tokens whose text `piece` went into StopText; those that go with the text `given` that came out."""
        self._held.extend((self._fed, token) for token in tokens)
        self._fed += len(piece)
        self._given += len(given)
        return self._before(self._given)

    def rest(self) -> tuple[TokenLogprob, ...]:
        """What was held back, when the text has ended without a stop string."""
        return self._before(self._fed + 1)

    def _before(self, end: int) -> tuple[TokenLogprob, ...]:
        going = []
        while self._held and self._held[0][0] < end:
            going.append(self._held.popleft()[1])
        return tuple(going)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are a beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
