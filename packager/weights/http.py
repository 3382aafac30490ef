"""Files over HTTP/1.1: ranged reads that are exactly what was asked, or a typed error. Nothing is retried here."""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from ..errors import LoadError, TransferError
from .http_answer import check_part, check_plain, check_unchanged, length_of, refused, tag_of, total_of
from .http_connection import SAFE, Connections, Exchange, Sent, origin_of, shown

PORTION = 1 << 18
"""Bytes given at a time. The 16 KiB that TLS brings at once would cost whoever hashes and writes them; much more would
come in jerks from a slow place."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPIRED = frozenset({400, 401, 403, 410})
"""What stores answer to an address that is no longer signed well: most 403, Google's 400."""
_NO_HEAD = frozenset({400, 403, 405, 501})
"""What places answer that take no HEAD, or whose signed addresses are for GET alone."""
_PART = frozenset({200, 206, 416})
"""What places answer that have the file, whether or not it has the part."""
_REMEMBERED = 16
"""Files whose final address, and whose answers, one reader remembers."""
_HEADERS = {"User-Agent": "packager", "Accept": "*/*", "Accept-Encoding": "identity"}

Known = TypeVar("Known")

Refuse = Callable[[int, Mapping[str, str], str], LoadError]
"""The error of an answer that is no file, by its status, its headers (names in lower case) and where it came from."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file is asked for. `headers` (credentials) go to this address's scheme, host and port only."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How long a reader waits. A connection that gives under `stall_bytes` in `stall_seconds` of waiting is broken off."""

    connect_seconds: float = 20
    stall_seconds: float = 30
    stall_bytes: int = 1 << 15
    most_redirects: int = 10


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a file without reading it: its bytes, and the answer's headers by name in lower case."""

    size: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Answers:
    """The headers of the first and the last answer with bytes of a file."""

    first: Mapping[str, str]
    last: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for the file at `path`, on its way to `place`; `known` is whether an earlier answer came from there."""

    path: str
    place: Place
    headers: Mapping[str, str]
    sent: Sent
    known: bool = False


class HttpReader:
    """One thread's way to files over HTTP; it answers `Reader`.

    `locate` tells where the file at a path is asked for. It is asked again when an address that worked, or one that
    was redirected to, has expired. `refuse` makes the error of an answer that is no file: a hub's say more than others'.
    """

    def __init__(
        self, locate: Callable[[str], Place], settings: HttpSettings | None = None, refuse: Refuse = refused
    ) -> None:
        settings = settings or HttpSettings()
        self._locate, self._refuse, self._most_redirects = locate, refuse, settings.most_redirects
        self._connections = Connections(
            connect=settings.connect_seconds, stall=settings.stall_seconds, least=settings.stall_bytes
        )
        self._final: dict[str, Place] = {}  # by path, after redirects: not every range goes through them
        self._answers: dict[str, _Answers] = {}  # by path

    def read(self, path: str, start: int, stop: int, size: int) -> Generator[bytes]:
        whole = (start, stop) == (0, size)
        asked = self._send("GET", path, {} if whole else {"Range": f"bytes={start}-{stop - 1}"})
        return self._read(asked, (start, stop, size))

    def _read(self, asked: _Asked, part: tuple[int, int, int]) -> Generator[bytes]:
        (start, stop, _), path = part, asked.path
        exchange = self._answer(asked)
        self._require(exchange, _PART)
        try:
            check_part(exchange.status, exchange.headers, part, exchange.where)
            self._note(path, exchange, anew=start == 0)
            yield from _body(exchange, stop - start)
            exchange.settle()
        except BaseException:
            self._final.pop(path, None)
            exchange.drop()
            raise

    def tag(self, path: str) -> str:
        """What the file's bytes have at its place and no other bytes there: the last answer's ETag, if it is a strong one."""
        answers = self._answers.get(path)
        return tag_of(answers.last) if answers is not None else ""

    def head(self, path: str) -> Head:
        """Size and headers of the file at `path`: by HEAD, or by its first byte where HEAD does not tell.

        Raises LoadError when the file cannot be had or its size is not told, TransferError where trying again may help.
        """
        exchange = self._ask("HEAD", path, {})
        exchange.settle()
        if exchange.status != HTTPStatus.OK:
            self._require(exchange, _NO_HEAD)
        elif "content-encoding" not in exchange.headers:
            size = length_of(exchange.headers, exchange.where)
            if size:  # 0 is what a server that answers HEAD for form's sake says of any file
                return Head(size, exchange.headers)
        return self._head_by_byte(path)

    def get(self, path: str, most: int) -> bytes:
        """A small file of unknown size, whole. Raises LoadError when it has more than `most` bytes."""
        exchange = self._ask("GET", path, {})
        self._require(exchange, {HTTPStatus.OK})
        try:
            check_plain(exchange.headers, exchange.where)
            length = length_of(exchange.headers, exchange.where)
            found = bytearray()
            while len(found) <= most and (data := exchange.read(PORTION)):
                found += data
        finally:
            exchange.settle()
        if len(found) > most:
            raise LoadError(f"it has more than {most} bytes", where=exchange.where, mend="check the address")
        if length is not None and len(found) != length:
            raise _short(length - len(found), exchange.where)
        return bytes(found)

    def close(self) -> None:
        self._connections.close()

    def _note(self, path: str, exchange: Exchange, *, anew: bool) -> None:
        """Remember the answer, if the file was not written to since the first one; `anew` makes this one the first.

        Raises LoadError.
        """
        answers = self._answers.pop(path, None)
        first = exchange.headers if answers is None or anew else answers.first
        check_unchanged(first, exchange.headers, exchange.where)
        _keep(self._answers, path, _Answers(first, exchange.headers))

    def _require(self, exchange: Exchange, statuses: Collection[int]) -> None:
        if exchange.status not in statuses:
            exchange.drop()
            raise self._refuse(exchange.status, exchange.headers, exchange.where)

    def _head_by_byte(self, path: str) -> Head:
        exchange = self._ask("GET", path, {"Range": "bytes=0-0"})
        where, headers = exchange.where, exchange.headers
        exchange.settle()
        self._require(exchange, _PART)
        check_plain(headers, where)
        size = length_of(headers, where) if exchange.status == HTTPStatus.OK else total_of(headers)
        if size is None:
            raise LoadError("the place does not tell the file's size", where=where, mend="serve it from another place")
        return Head(size, headers)

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> Exchange:
        """The last answer after all redirects."""
        return self._answer(self._send(method, path, headers))

    def _send(self, method: str, path: str, headers: Mapping[str, str]) -> _Asked:
        """Ask for the file at `path`, where it was found last."""
        known = self._final.pop(path, None)
        place = known or self._locate(path)
        return _Asked(path, place, headers, self._send_to(place, method, headers), known is not None)

    def _send_to(self, place: Place, method: str, headers: Mapping[str, str]) -> Sent:
        return self._connections.send(method, place.url, {**_HEADERS, **place.headers, **headers})

    def _answer(self, asked: _Asked) -> Exchange:
        """The last answer after all redirects; an address that has expired meanwhile is renewed once."""
        exchange, final = self._follow(asked)
        if exchange.status in _EXPIRED and (asked.known or final is not asked.place):
            exchange.settle()
            place = self._locate(asked.path)
            sent = self._send_to(place, asked.sent.method, asked.headers)
            exchange, final = self._follow(_Asked(asked.path, place, asked.headers, sent))
        if exchange.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            _keep(self._final, asked.path, final)
        else:
            exchange.settle()
        return exchange

    def _follow(self, asked: _Asked) -> tuple[Exchange, Place]:
        place, sent, seen = asked.place, asked.sent, set[str]()
        while True:
            exchange = self._connections.receive(sent)
            if exchange.status not in _REDIRECTS:
                return exchange, place
            exchange.settle()
            seen.add(place.url)
            place = _redirected(place, exchange)
            if place.url in seen:
                raise LoadError("the place redirects in a circle", where=exchange.where, mend="check the address")
            if len(seen) > self._most_redirects:
                what = f"the place redirects more than {self._most_redirects} times"
                raise LoadError(what, where=exchange.where, mend="give the address that it leads to")
            sent = self._send_to(place, sent.method, asked.headers)


def _keep(known: dict[str, Known], path: str, value: Known) -> None:
    """Remember the value, and forget the one that has stood longest where there are too many."""
    known[path] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]


def _redirected(place: Place, exchange: Exchange) -> Place:
    """Where a redirect leads. Credentials stay with the scheme, host and port that they were given for."""
    location, mend = exchange.headers.get("location", ""), "give the address that it should lead to"
    if not location:
        raise LoadError("the place redirects to nowhere", where=exchange.where, mend=mend)
    try:
        # The header is bytes, which the library reads as Latin-1; what stands in an address unescaped is UTF-8.
        url, _ = urldefrag(urljoin(place.url, quote(location.encode("latin-1"), safe=f"{SAFE}#")))
    except ValueError:
        raise LoadError("the place redirects to what is no address", where=exchange.where, mend=mend) from None
    before, after = origin_of(place.url), origin_of(url)
    if before[0] == "https" != after[0]:
        what = f"the place redirects from https to plain {shown(url)}"
        raise LoadError(what, where=exchange.where, mend=mend)
    if "@" in urlsplit(url).netloc:
        what = f"the place redirects to an address with a password in it: {shown(url)}"
        raise LoadError(what, where=exchange.where, mend=mend)
    return Place(url, place.headers if before == after else {})


def _body(exchange: Exchange, count: int) -> Iterator[bytes]:
    """Exactly `count` bytes, as they come. Raises TransferError where there are fewer, or more."""
    left = count
    while left:
        data = exchange.read(min(PORTION, left))
        if not data:
            raise _short(left, exchange.where)
        left -= len(data)
        yield data
    if "content-length" not in exchange.headers and exchange.read(1):
        what, mend = f"the body is longer than the {count} bytes asked", "try again"
        raise TransferError(what, where=exchange.where, mend=mend)


def _short(missing: int, where: str) -> TransferError:
    what = f"the body ended {missing} bytes too early"
    return TransferError(what, where=where, mend="try again; what has come is kept")
