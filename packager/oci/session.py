"""HTTP with one registry: where it is, who we are to it, what is tried again, and what its refusals mean."""

import json
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from types import TracebackType
from typing import Self, TypeVar

import httpx

from ..errors import RegistryError
from ..web import open_client
from .credentials import Credential, find_credential
from .reference import DEFAULT_REGISTRY

T = TypeVar("T")

SMALL = 16 << 20
"""Most bytes of a manifest, config or token that are read into memory."""

_TIMEOUT = httpx.Timeout(60.0, connect=15.0, pool=None)
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECT_LIMIT = 5
_LONGEST_WAIT = 60.0
_PARAMETER = re.compile(r'([A-Za-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are talked to. Sizes are bytes, `sleep` takes seconds.

    Blobs up to `monolithic` go up in one request; larger ones in requests of `chunk`, which a broken
    connection can take up again where the registry has them.
    """

    credentials: Callable[[str], Credential | None] = find_credential
    sleep: Callable[[float], None] = time.sleep
    attempts: int = 5
    threads: int = 4
    monolithic: int = 1 << 30
    chunk: int = 128 << 20


class PassingError(RegistryError):
    """A failure that may pass: the same call may be made again, after `after` seconds when the registry said so."""

    def __init__(self, what: str, *, where: str, mend: str, after: float | None = None) -> None:
        super().__init__(what, where=where, mend=mend)
        self.after = after


class Session:
    """Requests to one registry host with the rights in `scopes` (`repository:NAME:pull,push`). Safe in threads.

    Plain HTTP is spoken with loopback addresses only. `where` names the image in errors.
    """

    def __init__(self, host: str, scopes: tuple[str, ...], access: Access, *, where: str) -> None:
        self.host = host
        self.access = access
        self.where = where
        api = "registry-1.docker.io" if host == DEFAULT_REGISTRY else host
        local = _is_loopback(self._url(f"http://{api}").host)
        self.root = self._url(f"{'http' if local else 'https'}://{api}/v2/")
        self._client = open_client(
            timeout=_TIMEOUT,
            follow_redirects=False,
            trust_env=not local,  # proxies lead away from this machine
            headers={"User-Agent": "packager"},
            limits=httpx.Limits(max_connections=None),
        )
        self._scopes = scopes
        self._reached = False
        self._authorization = ""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def persistent(self, call: Callable[[], T]) -> T:
        """`call()`, made again after a PassingError: up to `access.attempts` times, waiting longer each time."""
        for attempt in range(1, self.access.attempts):
            try:
                return call()
            except PassingError as error:
                wait = 0.5 * 2**attempt if error.after is None else error.after
                self.access.sleep(min(wait, _LONGEST_WAIT))
        return call()

    def fetch(
        self, method: str, path: str, *, ok: Collection[int], headers: Mapping[str, str] | None = None
    ) -> tuple[httpx.Response, bytes]:
        """A small exchange with its body (at most 16 MiB), tried again while its failure may pass."""

        def call() -> tuple[httpx.Response, bytes]:
            with self.exchange(method, self.root.join(path), ok=ok, headers=headers) as response:
                return response, self.read(response)

        return self.persistent(call)

    def read(self, response: httpx.Response) -> bytes:
        """The body of a small answer."""
        data = b""
        for chunk in self.guarded(response.iter_bytes()):
            data += chunk
            if len(data) > SMALL:
                raise RegistryError("the registry's answer is too large to be a manifest or config", where=self.where)
        return data

    def guarded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass a body through; a connection that breaks is a PassingError."""
        try:
            yield from chunks
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    @contextmanager
    def exchange(
        self,
        method: str,
        url: httpx.URL,
        *,
        ok: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Iterator[bytes]] | None = None,
    ) -> Iterator[httpx.Response]:
        """One exchange; the answer's body is still to be read. `body` is called anew when it is sent again.

        Raises PassingError when the same call may succeed later, RegistryError for a status not in `ok`.
        """
        try:
            response = self._send(method, url, headers or {}, body)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        try:
            if response.status_code not in ok:
                raise self._refusal(response)
            yield response
        finally:
            response.close()

    def follow(self, response: httpx.Response) -> httpx.URL:
        """Where the answer's `Location` leads; RegistryError when it is missing or would leave HTTPS."""
        location = response.headers.get("Location")
        if not location:
            raise RegistryError("the registry's answer names no location", where=self.where)
        url = self._url(location, response.request.url)
        if url.scheme == "http" and url.host == self.root.host and self.root.scheme == "https":
            url = url.copy_with(scheme="https", port=self.root.port)  # a registry that does not know of its TLS proxy
        return self._safe(url)

    def _send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], body: Callable[[], Iterator[bytes]] | None
    ) -> httpx.Response:
        """Send, answer one 401, and follow redirects (of requests without a body) without our credentials."""
        for _ in range(_REDIRECT_LIMIT):
            used = self._authorization
            response = self._send_once(method, url, headers, body, used)
            if response.status_code == httpx.codes.UNAUTHORIZED and self._own(url):
                challenge = response.headers.get("WWW-Authenticate", "")
                with self._lock:
                    if self._authorization == used:  # else another thread was faster
                        self._authorization = self._answer(challenge) or used
                    fresh = self._authorization
                if fresh != used:
                    response.close()
                    response = self._send_once(method, url, headers, body, fresh)
            if response.status_code not in _REDIRECTS or body is not None:
                return response
            url = self.follow(response)
            response.close()
        raise RegistryError("the registry redirects in circles", where=self.where)

    def _send_once(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        body: Callable[[], Iterator[bytes]] | None,
        authorization: str,
    ) -> httpx.Response:
        extra = {"Authorization": authorization} if authorization and self._own(url) else {}
        content = None if body is None else body()
        request = self._client.build_request(method, url, headers={**headers, **extra}, content=content)
        response = self._client.send(request, stream=True)
        self._reached = True
        return response

    def _own(self, url: httpx.URL) -> bool:
        """Whether `url` is the registry itself: only there do our credentials go."""
        return (url.scheme, url.host, url.port) == (self.root.scheme, self.root.host, self.root.port)

    def _safe(self, url: httpx.URL) -> httpx.URL:
        if url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host)):
            return url
        raise RegistryError(
            f"the registry leads to {url.scheme}://{url.host}, which is not HTTPS",
            where=self.where,
            mend="plain HTTP is spoken with registries on this machine only",
        )

    def _answer(self, challenge: str) -> str:
        """The `Authorization` that answers a 401, or nothing when we have none."""
        scheme, _, rest = challenge.partition(" ")
        values = {match[1].lower(): match[2] or match[3] or "" for match in _PARAMETER.finditer(rest)}
        credential = self.access.credentials(self.host)
        if scheme.lower() == "bearer" and values.get("realm"):
            return f"Bearer {self._token(values, credential)}"
        if scheme.lower() == "basic" and credential is not None and credential.username:
            return "Basic " + b64encode(f"{credential.username}:{credential.secret}".encode()).decode()
        return ""

    def _token(self, values: Mapping[str, str], credential: Credential | None) -> str:
        """A bearer token for our scopes from the server that the challenge names."""
        realm = self._safe(self._url(values["realm"]))
        service = values.get("service", "")
        auth = None
        if credential is not None and credential.identity_token:
            data = {"grant_type": "refresh_token", "service": service, "client_id": "packager"}
            data |= {"scope": " ".join(self._scopes), "refresh_token": credential.identity_token}
            request = self._client.build_request("POST", realm, data=data)
        else:
            if credential is not None:
                auth = httpx.BasicAuth(credential.username, credential.secret)
            query = httpx.QueryParams({"service": service, "scope": self._scopes})
            request = self._client.build_request("GET", realm.copy_merge_params(query))
        response = self._client.send(request, auth=auth)
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response)
        try:
            answer = response.json()
            token = answer.get("token") or answer["access_token"]
        except (ValueError, KeyError, AttributeError):
            raise RegistryError("the registry's token server gave no token", where=self.where) from None
        return str(token)

    def _unreachable(self, error: httpx.RequestError) -> RegistryError:
        """A registry that was never reached is a wrong name or network; one that was may come back."""
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError) and not self._reached:
            mend = "check its name, the network and the proxy settings"
            return RegistryError(f"the registry {self.host} cannot be reached: {reason}", where=self.where, mend=mend)
        mend = "run the command again: what it has taken in is not sent again"
        return PassingError(f"the connection to {self.host} broke: {reason}", where=self.where, mend=mend)

    def _url(self, text: str, base: httpx.URL | None = None) -> httpx.URL:
        try:
            return httpx.URL(text) if base is None else base.join(text)
        except httpx.InvalidURL as error:
            raise RegistryError(f"the registry's address is no URL: {error}", where=self.where) from error

    def _refusal(self, response: httpx.Response) -> RegistryError:
        """What a status that was not expected means, in our words and the registry's."""
        status = response.status_code
        said = self._said(response)
        if status in _RETRIED:
            what = "limits how often it is asked" if status == httpx.codes.TOO_MANY_REQUESTS else "is failing"
            after = _seconds(response.headers.get("Retry-After", ""))
            mend = "wait, then run the command again"
            return PassingError(f"the registry {what} ({status}{said})", where=self.where, mend=mend, after=after)
        what, mend = _MEANINGS.get(status, ("refused", "the registry's own log says more"))
        method = response.request.method
        return RegistryError(
            f"the registry {what} ({method}: {status}{said})", where=self.where, mend=mend.format(host=self.host)
        )

    def _said(self, response: httpx.Response) -> str:
        """The messages in an error body, shortened; nothing when it has none."""
        try:
            errors = json.loads(self.read(response)).get("errors") or ()
            said = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
        except (RegistryError, httpx.StreamError, ValueError, AttributeError):
            return ""  # the status alone has to do
        return f", {said[:300]}" if said else ""


_MEANINGS: Mapping[int, tuple[str, str]] = {
    400: ("takes this request for a bad one", "the registry's own log says more"),
    401: ("wants a login", "run `docker login {host}`, or mend the login that is there"),
    403: (
        "does not allow this",
        "ask for the right, or use a repository where this login may do it: `docker login {host}`",
    ),
    404: (
        "does not know this name",
        "check registry, repository and tag; some registries want a repository created first",
    ),
    405: ("does not offer this", "it may be read-only, as pull-through caches are: push to another one"),
    413: ("or a proxy before it finds this blob too large", "raise its limit for the size of a request"),
    416: ("lost track of an upload", "run the command again"),
    507: ("has no room left", "free space in the registry"),
}


def _seconds(retry_after: str) -> float | None:
    """Seconds to wait by a Retry-After header (a number or a date); None when it says nothing."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
