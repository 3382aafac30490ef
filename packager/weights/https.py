"""`https://`: weights behind any web server: one file, or a folder with the list that `sha256sum` writes."""

import base64
import ipaddress
import netrc
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ..environ import NETRC, home
from ..errors import LoadError, TransferError
from .http import HttpReader, HttpSettings, Place
from .http_connection import origin_of, shown
from .source import SourceFile, is_hidden

LISTING = "SHA256SUMS"
"""The file of a folder that lists the others, as `sha256sum` writes it."""
_MAKE = f"sha256sum * > {LISTING}"
_MOST_LISTING = 16 << 20
_ASKERS = 8
"""Sizes asked for at a time."""
_SECRETS = frozenset({
    "access_token", "api_key", "apikey", "auth", "awsaccesskeyid", "password", "sas", "secret", "sig", "signature",
    "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-credential", "x-goog-signature",
})  # fmt: skip
"""Names, in lower case, of what a query string signs or opens an address with."""
_LINE = re.compile(r"(?P<sha256>[0-9a-fA-F]{64}) [ *](?P<path>.+)")


class HttpsSource:
    """The file at `address`, or with a slash at its end the folder; credentials come from ~/.netrc.

    Files and folders of a listing whose names begin with a dot are left out, as `file://` does.

    The digests of a folder are those of its SHA256SUMS; a single file has none. Raises LoadError for an address that
    holds a secret, and for plain http but to this machine itself.
    """

    revision = ""

    def __init__(self, address: str, settings: HttpSettings | None = None) -> None:
        _check(address)
        self._address, self._settings = address, settings
        parts = urlsplit(address)
        self._below, self._query = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/')}", parts.query
        self._folder = parts.path.endswith("/")
        self._name = "" if self._folder else unquote(parts.path.rpartition("/")[2])
        if not self._folder and ("/" in self._name or self._name in ("", ".", "..")):
            raise LoadError(
                "this address names no file", where=address, mend="end it with a file's name, or a folder's and a slash"
            )

    @property
    def uri(self) -> str:
        return self._address

    def inventory(self) -> tuple[SourceFile, ...]:
        if not self._folder:
            with closing(self.connect()) as reader:
                return (SourceFile(self._name, reader.head(self._name).size),)
        digests = self._listed()
        paths = sorted(digests)
        with ThreadPoolExecutor(_ASKERS) as pool:
            shares = pool.map(self._sizes, [paths[number::_ASKERS] for number in range(min(_ASKERS, len(paths)))])
            sizes = {path: size for share in shares for path, size in share.items()}
        return tuple(SourceFile(path, sizes[path], digests[path]) for path in paths)

    def connect(self) -> HttpReader:
        return HttpReader(self._place, self._settings)

    def _place(self, path: str) -> Place:
        """Where `path` is: also below an address without a slash, as a mirror of a folder may have."""
        url = self._address
        if path != self._name:
            url = f"{self._below}/{quote(path)}" + (f"?{self._query}" if self._query else "")
        return Place(url, _login(url))

    def _listed(self) -> dict[str, str]:
        """The sha256 of each file of the folder."""
        try:
            with closing(self.connect()) as reader:
                data = reader.get(LISTING, _MOST_LISTING)
        except TransferError:
            raise
        except LoadError as error:
            (problem,) = error.problems
            what = f"the folder cannot be listed by its {LISTING}: {problem.what}"
            mend = f"{problem.mend}; `{_MAKE}` in the folder makes the list"
            raise LoadError(what, where=problem.where, mend=mend) from error
        return _parse(data, shown(self._place(LISTING).url))

    def _sizes(self, paths: Sequence[str]) -> dict[str, int]:
        with closing(self.connect()) as reader:
            return {path: reader.head(path).size for path in paths}


def _check(address: str) -> None:
    """Raise LoadError unless weights may be named by `address` in a spec that others read."""
    scheme, host, _ = origin_of(address)
    parts = urlsplit(address)
    where = shown(address)
    if scheme == "http" and not _is_this_machine(host):
        what = "plain http is for this machine alone: on the way anyone can read and change it"
        raise LoadError(what, where=where, mend=f"write https{where.removeprefix('http')}")
    if "@" in parts.netloc:
        mend = "remove it from the address: credentials for the host stand in ~/.netrc"
        raise LoadError("a user or password stands in the address, which is no secret", where=where, mend=mend)
    if secrets := sorted(_SECRETS & {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}):
        what = f"this address is signed ({', '.join(secrets)}): it is a secret, and it expires"
        raise LoadError(what, where=where, mend="give the stable address that redirects to it")
    if parts.fragment:
        raise LoadError("the address has a fragment (#), which no server sees", where=where, mend="remove it")


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(data: bytes, where: str) -> dict[str, str]:
    """Path to sha256, of what `sha256sum` wrote, in text or binary mode."""
    try:
        lines = data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise LoadError("it is not text in UTF-8", where=where, mend=f"make it with `{_MAKE}`") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        path = match["path"].removeprefix("./") if match else ""
        if match is None or any(part in ("", ".", "..") for part in path.split("/")):
            mend = f"make it with `{_MAKE}` in the folder itself; names are relative to it"
            raise LoadError("this is no checksum with the name of a file", where=f"{where}:{number}", mend=mend)
        sha256 = match["sha256"].lower()
        if found.setdefault(path, sha256) != sha256:
            what = f"{path!r} has another checksum above"
            raise LoadError(what, where=f"{where}:{number}", mend=f"make it again with `{_MAKE}`")
    found.pop(LISTING, None)  # of itself it cannot know
    found = {path: sha256 for path, sha256 in found.items() if not is_hidden(path)}
    if not found:
        raise LoadError("it lists no file", where=where, mend=f"make it again with `{_MAKE}`")
    return found


def _login(url: str) -> Mapping[str, str]:
    """The Authorization of `url`'s host, as ~/.netrc has it; nothing where it has none."""
    chosen = NETRC.get()
    path = chosen or "~/.netrc"
    if path.startswith("~/") and (folder := home()) is not None:
        path = f"{folder}{path[1:]}"
    if not chosen and not os.path.isfile(path):  # noqa: PTH113 -- asked for each of thousands of files
        return {}
    try:
        entry = netrc.netrc(path).authenticators(origin_of(url)[1])
    except netrc.NetrcParseError as error:  # its message quotes what may be a password
        mend = "write `machine HOST login USER password PASSWORD`"
        raise LoadError("the credentials cannot be read", where=f"{path}:{error.lineno}", mend=mend) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "they are not text"
        raise LoadError(f"the credentials cannot be read: {why}", where=path, mend="mend that file") from error
    if entry is None:
        return {}
    login = base64.b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()
    return {"Authorization": f"Basic {login}"}
