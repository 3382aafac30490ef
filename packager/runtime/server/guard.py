"""What every request must pass before a route sees it: its size, its page's origin, its key.

Under our own runner protocol.py bounds what is buffered of a head that is still coming; here a head is bounded
that is there, under every host.
"""

import re
from collections.abc import Iterator

from .bounds import Bounds
from .http import Exchange, HttpError
from .keys import ApiKeys

OPEN = frozenset(("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/chat"))
"""What needs no key: probes and metrics, which tell nothing of a request, and the chat page, which is a file."""

_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)
_ASKED = b"authorization, content-type, x-api-key, x-request-id"
_TOLD = b"retry-after, x-request-id"


class KeyRefusedError(HttpError):
    """A request without a key, or with a wrong one."""

    code = "invalid_api_key"

    def __init__(self, what: str) -> None:
        mend = "send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        super().__init__(401, what, mend=mend, headers=[(b"www-authenticate", b"Bearer")])


class Guard:
    """One for the app. `keys` None lets everybody ask; `origins` are those whose pages may (`*`: any)."""

    def __init__(self, bounds: Bounds, keys: ApiKeys | None, origins: tuple[str, ...]) -> None:
        self._bounds = bounds
        self.locked = keys is not None
        self._keys = keys
        self._origins = frozenset(origin.encode() for origin in origins)

    def admit(self, exchange: Exchange) -> None:
        """Let the request pass, with the CORS headers that its answers need. Raises HttpError (401, 414, 431)."""
        exchange.headers += self._cors(exchange)
        if exchange.url_size > self._bounds.url:
            raise HttpError(414, f"the URL is longer than {self._bounds.url} bytes")
        size = sum(len(name) + len(value) + 4 for name, value in exchange.head)
        if len(exchange.head) > self._bounds.headers or size > self._bounds.head:
            limits = f"{self._bounds.headers} headers or {self._bounds.head} bytes of them"
            raise HttpError(431, f"the request has more than {limits}")
        if self._keys is not None and exchange.path not in OPEN and exchange.method != "OPTIONS":
            _check(self._keys, exchange)

    def _cors(self, exchange: Exchange) -> Iterator[tuple[bytes, bytes]]:
        if not self._origins:
            return
        yield b"vary", b"origin"
        origin = exchange.header(b"origin")
        if origin is None or not {b"*", origin} & self._origins:
            return
        yield b"access-control-allow-origin", b"*" if b"*" in self._origins else origin
        yield b"access-control-expose-headers", _TOLD
        if exchange.method == "OPTIONS":
            yield b"access-control-allow-methods", b"GET, POST"
            yield b"access-control-allow-headers", _ASKED
            yield b"access-control-max-age", b"600"


def _check(keys: ApiKeys, exchange: Exchange) -> None:
    given = list(_given(exchange))
    if not given:
        raise KeyRefusedError("this server wants an API key")
    if not any(keys.allow(key) for key in given):
        raise KeyRefusedError("the API key is not one of this server's")


def _given(exchange: Exchange) -> Iterator[bytes]:
    for name, value in exchange.head:
        if name == b"x-api-key":
            yield value
        elif name == b"authorization" and (bearer := _BEARER.fullmatch(value)):
            yield bearer[1]
