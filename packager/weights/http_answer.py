"""What an HTTP answer says of a file, and what is wrong with it. Pure but for the clock."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from ..errors import LoadError, RangeError, TransferError

BUSY = frozenset({429, 503})
_AGAIN = frozenset({408, 425, 429}) | frozenset(range(500, 600))
"""Statuses of a place that may answer otherwise in a while."""
_GRAIN = 1
"""Seconds: the dates of HTTP have no parts of them."""
_SPENT = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})\b")
"""A quota of which nothing is left, and the seconds until there is."""
_AS_THEY_ARE = frozenset({"", "identity", "aws-chunked"})
"""Codings that are none. The last is how an object was sent to its store: some keep it (Ceph, NooBaa, Versity), and give
the object's own bytes."""
_RESTORE = "restore the file, or lock and build again if the change is wanted"


def check_part(status: int, headers: Mapping[str, str], part: tuple[int, int, int], where: str) -> None:
    """Raise unless an answer of `status` 200, 206 or 416 is bytes `start` to `stop` of `size` bytes, as `part` says.

    RangeError where the whole file comes instead, TransferError where the answer contradicts itself, LoadError where
    the file is another.
    """
    start, stop, size = part
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise _another_size(where, size, total_of(headers))
    check_plain(headers, where)
    if status == HTTPStatus.PARTIAL_CONTENT:
        _check_range(headers, part, where)
    elif stop - start != size:
        what = "the place gives the whole file where a range was asked"
        raise RangeError(what, where=where, mend="serve the file from a place that answers ranges")
    length = length_of(headers, where)
    if length is None or length == stop - start:
        return
    if status == HTTPStatus.OK:
        raise _another_size(where, size, length)
    raise _contradiction(f"it announces {length} bytes where {stop - start} were asked", where)


def check_unchanged(first: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Raise LoadError when the file was written to after the answer with the headers `first`, of which `now` is a later one.

    The place's own clock says so. That its ETag or its date is another would not do: behind one address may stand
    several machines, each with its own of the same bytes. Nor does it where the ETag is the same, or the first date was
    that of the answer: some places date everything so.
    """
    text, before = now.get("last-modified", ""), first.get("last-modified", "")
    if text == before or (tag_of(now) and tag_of(now) == tag_of(first)):
        return
    modified, answered, dated = _moment(text), _moment(first.get("date", "")), _moment(before)
    if modified is None or answered is None or modified <= answered:
        return
    if dated is not None and answered - dated <= _GRAIN:
        return
    what = "the file changed at its source while it was fetched"
    raise LoadError(what, where=where, mend=f"{_RESTORE}; if its bytes are the same, try again")


def tag_of(headers: Mapping[str, str]) -> str:
    """The ETag that no other bytes of this address have; empty where there is none, or a weak one."""
    tag = headers.get("etag", "")
    return "" if tag.startswith("W/") else tag


def check_plain(headers: Mapping[str, str], where: str) -> None:
    """Raise TransferError when the body is not the file's bytes as they are: compressed, or in parts."""
    coding = headers.get("content-encoding", "")
    if not {one.strip() for one in coding.lower().split(",")} <= _AS_THEY_ARE:
        raise _contradiction(f"it is compressed ({coding}), which was not asked", where)
    if headers.get("content-type", "").lower().startswith("multipart/byteranges"):
        raise _contradiction("it comes in several parts, where one was asked", where)


def refused(status: int, headers: Mapping[str, str], where: str) -> LoadError:
    """The error for an answer that is no file."""
    try:
        what = f"the place answers {status} {HTTPStatus(status).phrase}"
    except ValueError:
        what = f"the place answers {status}"
    if status in _AGAIN:
        rest = retry_after(headers)
        if rest:
            what = f"{what}, and asks for {rest:,.0f} seconds of rest"
        return TransferError(what, where=where, mend="try again later", busy=status in BUSY, retry_after=rest)
    mends = {
        401: "give credentials that may read it: a token, or ~/.netrc for this host",
        403: "give credentials that may read it, or ask its owner for the right to",
        404: "check the address and the revision; the file is not there",
        407: "give the proxy's credentials in the variable that names it: http://USER:PASSWORD@HOST:PORT",
        410: "it is gone for good: lock another revision",
    }
    return LoadError(what, where=where, mend=mends.get(status, "check the address with curl -v"))


def length_of(headers: Mapping[str, str], where: str) -> int | None:
    """The Content-Length, None where there is none. Raises TransferError when it is no number."""
    text = headers.get("content-length")
    if text is None:
        return None
    if re.fullmatch(r"\d{1,18}", text) is None:
        raise _contradiction(f"its Content-Length is {text[:40]!r}", where)
    return int(text)


def total_of(headers: Mapping[str, str]) -> int | None:
    """The size of the whole file that a Content-Range names, None where it names none."""
    match = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d{1,18})", headers.get("content-range", ""))
    return int(match[1]) if match else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """For how many seconds the other side asks to rest, or None: Retry-After as seconds, or as a date by its clock.

    Where it says nothing so, its quotas may: `RateLimit: "resolvers";r=0;t=55` has nothing left for 55 seconds, which is
    all that Hugging Face's hub says (https://huggingface.co/docs/hub/rate-limits; draft-ietf-httpapi-ratelimit-headers).
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    until = _moment(text)
    if until is None:
        return max((float(rest) for rest in _SPENT.findall(headers.get("ratelimit", ""))), default=None)
    now = _moment(headers.get("date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _moment(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _check_range(headers: Mapping[str, str], part: tuple[int, int, int], where: str) -> None:
    start, stop, size = part
    found = headers.get("content-range", "")
    total = total_of(headers)
    if total is not None and total != size:
        raise _another_size(where, size, total)
    if found != f"bytes {start}-{stop - 1}/{size}":
        raise _contradiction(f"its range is {found[:60]!r} where bytes {start}-{stop - 1}/{size} were asked", where)


def _another_size(where: str, size: int, found: int | None) -> LoadError:
    seen = "" if found is None else f": {found} bytes"
    what = f"the file at the source has another size than the {size} bytes locked{seen}"
    return LoadError(what, where=where, mend=_RESTORE)


def _contradiction(why: str, where: str) -> TransferError:
    mend = "try again; if it stays, the server or a proxy in between does not serve ranges correctly"
    return TransferError(f"the answer is not what was asked: {why}", where=where, mend=mend)
