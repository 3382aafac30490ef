"""Connections of the standard library's HTTP client: kept, through proxies, broken off when they stall; typed errors."""

import base64
import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from ..environ import SSL_CERT_FILE
from ..errors import LoadError, TransferError

SHORT = 1 << 16
"""Bytes of a body that nobody wants which are read away to keep the connection."""
_IDLE = 8
"""Connections kept by one reader: those of files asked for together, to a hub and to the store it redirects to."""
_PORTS = {"http": 80, "https": 443}
_LONGEST = 120
SAFE = "%/:?@!$&'()*+,;=~[]"
"""What stays as it is in an address: it is escaped already, but for what cannot stand in a request at all."""
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

Origin = tuple[str, str, int]
"""Scheme, host and port."""


@lru_cache(64)
def origin_of(url: str) -> Origin:
    """Where an http or https address leads. Raises LoadError for any other."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _no_address(url) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise _no_address(url)
    return parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port


def shown(url: str) -> str:
    """`url` as anyone may read it: without query, user and password, which may be secrets."""
    scheme, separator, rest = url.partition("#")[0].partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


@dataclass(frozen=True, slots=True)
class _Link:
    """A connection, and what a proxy wants of requests over it: an absolute target and its own headers."""

    connection: http.client.HTTPConnection
    root: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that is on its way; `kept` is whether over a connection that the other side may have closed meanwhile."""

    link: _Link
    method: str
    url: str
    headers: Mapping[str, str]
    kept: bool = False


class Exchange:
    """One request and its answer. It has its connection to itself until it is settled or dropped."""

    def __init__(self, connections: "Connections", link: _Link, url: str) -> None:
        self.where = shown(url)
        self._connections, self._link, self._origin = connections, link, origin_of(url)
        self._response, self._over = link.connection.getresponse(), False
        self.status = self._response.status
        self.headers = _joined(self._response.getheaders())
        """By name in lower case; a name that came several times has all its values, with commas between."""

    def read(self, most: int) -> bytes:
        """The next bytes of the body: that many, fewer or none at its end. Raises TransferError."""
        try:
            return self._response.read(most)
        except (OSError, http.client.HTTPException) as error:
            self.drop()
            raise _broken(error, self.where) from error

    def settle(self) -> None:
        """Read away what is left where it is little, and keep the connection for the next request."""
        left = SHORT
        with suppress(TransferError):
            while left > 0 and (data := self.read(left)):
                left -= len(data)
            if left > 0 and self._link.connection.sock is not None and not self._over:
                self._over = True
                self._response.close()
                self._connections.keep(self._origin, self._link)
                return
        self.drop()

    def drop(self) -> None:
        """Close the connection, whatever is still to come; nothing after `settle`."""
        if self._over:
            return
        self._over = True
        self._response.close()
        self._link.connection.close()


class Connections:
    """The connections of one thread.

    Connecting may take `connect` seconds. A connection that gives fewer than `least` bytes in `stall` seconds of
    waiting is broken off, whether nothing comes or a drop now and then.
    """

    def __init__(self, *, connect: float, stall: float, least: int) -> None:
        self._connect, self._stall = connect, stall
        self._response_class = _watched(least, stall)
        self._idle: list[tuple[Origin, _Link]] = []  # the one used last at the end
        self._asked: list[_Link] = []  # those whose answers nobody reads yet

    def ask(self, method: str, url: str, headers: Mapping[str, str]) -> Exchange:
        """Send a request without a body, and read the head of the answer. Raises as `send` and `receive` do."""
        return self.receive(self.send(method, url, headers))

    def send(self, method: str, url: str, headers: Mapping[str, str]) -> Sent:
        """Send a request without a body; several may be on their way, each has a connection of its own.

        Raises TransferError when the place cannot be reached or breaks off, LoadError where trying again is no use.
        """
        try:
            if (link := self._take(origin_of(url))) is not None:
                with suppress(*_CLOSED):
                    return self._send(Sent(link, method, url, headers, kept=True))
            return self._send_afresh(method, url, headers)
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error, shown(url)) from error
        except ValueError:  # it quotes the header that cannot be sent, which may be a secret
            what, mend = "this request cannot be sent", "check the credentials for line breaks and odd characters"
            raise LoadError(what, where=shown(url), mend=mend) from None

    def receive(self, sent: Sent) -> Exchange:
        """Read the head of the answer.

        Where the other side had closed the connection before the request came, it is sent again over a fresh one.
        Raises as `send` does.
        """
        try:
            if sent.kept:
                with suppress(*_CLOSED):
                    return self._receive(sent)
                sent = self._send_afresh(sent.method, sent.url, sent.headers)
            return self._receive(sent)
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error, shown(sent.url)) from error

    def keep(self, origin: Origin, link: _Link) -> None:
        """Hold an idle connection for the next request to `origin`."""
        self._idle.append((origin, link))
        if len(self._idle) > _IDLE:
            self._idle.pop(0)[1].connection.close()

    def close(self) -> None:
        """Close all connections but those whose answers are being read."""
        while self._idle:
            self._idle.pop()[1].connection.close()
        while self._asked:
            self._asked.pop().connection.close()

    def _take(self, origin: Origin) -> _Link | None:
        """An idle connection to `origin`."""
        for number in reversed(range(len(self._idle))):
            if self._idle[number][0] == origin:
                return self._idle.pop(number)[1]
        return None

    def _send_afresh(self, method: str, url: str, headers: Mapping[str, str]) -> Sent:
        return self._send(Sent(self._open(origin_of(url), url), method, url, headers))

    def _send(self, sent: Sent) -> Sent:
        link, parts = sent.link, urlsplit(sent.url)
        target = quote(f"{parts.path or '/'}?{parts.query}".removesuffix("?"), safe=SAFE)
        try:
            link.connection.request(sent.method, link.root + target, headers={**sent.headers, **link.headers})
        except BaseException:
            link.connection.close()
            raise
        self._asked.append(link)
        return sent

    def _receive(self, sent: Sent) -> Exchange:
        self._asked.remove(sent.link)
        try:
            return Exchange(self, sent.link, sent.url)
        except BaseException:
            sent.link.connection.close()
            raise

    def _open(self, origin: Origin, url: str) -> _Link:
        """A fresh connection to `origin`, through a proxy where the environment names one for it."""
        link = self._link(origin, url)
        connection = link.connection
        try:
            connection.connect()
            connection.sock.settimeout(self._stall)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            # Without its frames: where a proxy refused, they hold the socket open.
            raise _not_connected(error, origin, url) from error.with_traceback(None)
        except ValueError as error:  # a host name that cannot be one
            raise _no_address(url) from error
        return link

    def _link(self, origin: Origin, url: str) -> _Link:
        scheme, host, port = origin
        proxy = _proxy_of(origin)
        via, at, headers = proxy or (host, port, {})
        if scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                via, at, timeout=self._connect, context=_context(ssl.get_default_verify_paths())
            )
            if proxy:
                connection.set_tunnel(host, port, headers=headers)
                headers = {}
        else:
            connection = http.client.HTTPConnection(via, at, timeout=self._connect)
        connection.response_class = self._response_class
        root = f"http://{urlsplit(url).netloc.rpartition('@')[2]}" if proxy and scheme == "http" else ""
        return _Link(connection, root, headers)


class _Watched(io.RawIOBase):
    """The bytes of a socket; raises TimeoutError when fewer than `least` come in `seconds` of waiting for them."""

    def __init__(self, raw: io.RawIOBase, least: int, seconds: float) -> None:
        self._raw, self._least, self._seconds = raw, least, seconds
        self._got, self._waited = 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._got += count or 0
        if self._waited >= self._seconds:
            if count and self._got < self._least:
                raise TimeoutError
            self._got, self._waited = 0, 0.0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _watched(least: int, seconds: float) -> type[http.client.HTTPResponse]:
    """Answers whose bytes, heads and bodies, are watched as they come."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp = io.BufferedReader(_Watched(self.fp.detach(), least, seconds))

    return Response


@cache
def _context(_: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    """Made once for the certificates that the environment names: it takes tens of milliseconds."""
    return ssl.create_default_context()


def _proxy_of(origin: Origin) -> tuple[str, int, dict[str, str]] | None:
    """Host, port and headers of the proxy that the environment names for `origin`, as urllib reads it."""
    scheme, host, port = origin
    proxies = getproxies()
    address = proxies.get(scheme) or proxies.get("all")
    if not address or proxy_bypass(f"{host}:{port}"):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme != "http" or not parts.hostname:
        where = shown(urlunsplit(parts))
        raise LoadError("this proxy cannot be used", where=where, mend="name one as http://HOST:PORT, or use NO_PROXY")
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    headers = {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login != ":" else {}
    return parts.hostname, parts.port or _PORTS["http"], headers


def _not_connected(error: Exception, origin: Origin, url: str) -> LoadError:
    """Why there is no connection to `origin`."""
    where, host = shown(url), origin[1]
    proxy = _proxy_of(origin)
    via = f" through the proxy {proxy[0]}:{proxy[1]}" if proxy else ""
    refused = re.fullmatch(r"Tunnel connection failed: (\d+).*", str(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        named = SSL_CERT_FILE.get()
        lacks = f": there is none at {named}" if named and not Path(named).is_file() else ""
        mend = f"name the file of the certificates to trust in SSL_CERT_FILE, if this is the right place{lacks}"
        return LoadError(f"the certificate of {host} is not trusted: {error.verify_message}", where=where, mend=mend)
    if isinstance(error, ssl.SSLError) and not isinstance(error, _CLOSED):
        what = f"{host} does not speak TLS as this machine does: {error.reason}"
        return LoadError(what, where=where, mend="check the address, its port, and the proxy in between")
    if refused and refused[1] in ("401", "403", "407"):
        mend = "give its credentials in the variable that names it: http://USER:PASSWORD@HOST:PORT"
        return LoadError(f"no way{via}: it answers {refused[1]}", where=where, mend=mend)
    why = "it took too long" if isinstance(error, TimeoutError) else _reason(error)
    return TransferError(f"no connection to {host}{via}: {why}", where=where, mend="check the address and the network")


def _broken(error: Exception, where: str) -> LoadError:
    """Why an exchange did not come to its end."""
    if isinstance(error, http.client.UnknownProtocol):
        return LoadError(f"the answer is not HTTP/1.1 but {_reason(error)}", where=where, mend="check the address")
    mend = "try again; what has come is kept"
    if isinstance(error, TimeoutError):
        return TransferError("the connection stalled: too few bytes came in too long a time", where=where, mend=mend)
    return TransferError(f"the connection broke off: {_reason(error)}", where=where, mend=mend)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:_LONGEST] or type(error).__name__


def _no_address(url: str) -> LoadError:
    return LoadError("this is no http or https address", where=shown(url), mend="check the address")


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found
