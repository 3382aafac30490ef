"""`s3://`: weights in an object store, Amazon's or one that speaks like it.

The library botocore finds endpoint, region and credentials in the usual places, lists, and signs addresses; the bytes
come through our own ranged reads. It is imported when the first s3:// address is read: few packages need it.
"""

import base64
import binascii
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from .. import environ
from ..errors import LoadError, Problem, TransferError
from .http import HttpReader, Place
from .http_answer import refused
from .http_connection import shown
from .source import Reader, SourceFile, is_hidden

LIFETIME = 600
"""Seconds that a signed address is good for; a request must begin within them."""
DIGEST_FIELD = "sha256"
"""The field of an object's metadata in which `packager upload` writes the file's hex sha256."""

_HEADS = 16
"""Objects asked about at a time."""
_CONNECT_SECONDS = 10
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_BUSY = frozenset({"429", "503", "SlowDown", "ServiceUnavailable", "Throttling", "TooManyRequests"})
_DENIED = frozenset({"403", "AccessDenied"})

_KEYS = (
    f"check {environ.AWS_ACCESS_KEY_ID.name} and {environ.AWS_SECRET_ACCESS_KEY.name}, or the profile they come from"
)
_RIGHTS: Mapping[str, tuple[str, str]] = {
    "ListObjectsV2": (
        "the bucket may not be listed",
        "s3:ListBucket on the bucket and s3:GetObject on what is below the prefix",
    ),
    "HeadObject": (
        "the object may not be read, or there is none and the bucket may not be listed either",
        "s3:GetObject on it and s3:ListBucket on the bucket",
    ),
}
"""By what was asked: what a store means that denies it, and the rights that are lacking.

Those who may not list are not told whether an object is there:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html
"""
_MAY_NOT_WRITE = ("nothing may be written there", "s3:PutObject on what is below the prefix")
_REGION = f"set {environ.AWS_DEFAULT_REGION.name} to the bucket's region"
_REFUSALS: Mapping[str, tuple[str, str]] = {
    "NoSuchBucket": (
        "there is no such bucket",
        f"check its name, and that {environ.AWS_ENDPOINT_URL_S3.name} names the store it is in",
    ),
    "NoSuchKey": ("there is no such object", "check the address: `s3://BUCKET/PREFIX`"),
    "InvalidAccessKeyId": ("the store does not know this access key", _KEYS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", _KEYS),
    "ExpiredToken": ("the credentials have expired", "get new ones (`aws sso login`, or a new session token)"),
    "InvalidToken": ("the session token is not valid", "get new credentials (`aws sso login`, or a new session token)"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set it: addresses are signed with the time"),
    "PermanentRedirect": ("the bucket lies in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket lies in another region", _REGION),
    "IllegalLocationConstraintException": ("the bucket lies in another region", _REGION),
    "InvalidBucketName": ("this is no bucket's name", "write the address as `s3://BUCKET/PREFIX`"),
    "400": ("the store refused the request", f"{_REGION}, and check that the credentials have not expired"),
}
"""Codes of refusals (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html): what it is, how to mend it."""
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Classes of storage out of which nothing is given before it was restored."""
_SAME = {"404": "NoSuchKey", "NotFound": "NoSuchKey", "301": "PermanentRedirect"}
"""Answers without a body (to HEAD) have a status instead of a code."""


class Bucket:
    """One bucket, asked through botocore. Nothing is asked before the first call; calls may come from any thread.

    Every call raises LoadError, or TransferError where trying again may help.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._client: Any = None
        self._region: str | None = None

    def where(self, key: str = "") -> str:
        """The address of `key`."""
        return f"s3://{self.name}/{key}"

    def client(self) -> Any:
        """The library's client: signs for the bucket's own region once that is known; unsigned without credentials."""
        _require_library()
        with self._lock:
            if self._client is None:
                with s3_errors(self.where()):
                    self._client = _connect(self._region)
                self._client.meta.events.register("needs-retry.s3", self._learn_region)
            return self._client

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of every object whose key begins with `prefix`, without the markers of folders."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        with s3_errors(self.where(prefix)):
            for page in pages:
                for one in page.get("Contents", ()):
                    if one["Size"] or not one["Key"].endswith("/"):
                        yield one["Key"], one["Size"]

    def head(self, key: str) -> Mapping[str, Any]:
        """What the store says of the object `key`."""
        client = self.client()
        with s3_errors(self.where(key)):
            found: Mapping[str, Any] = client.head_object(Bucket=self.name, Key=key, ChecksumMode="ENABLED")
            return found

    def digests(self, keys: Iterable[str]) -> dict[str, str | None]:
        """The sha256 of each of `keys`, where the store knows it."""
        listed = tuple(keys)
        with ThreadPoolExecutor(_HEADS, "packager-s3") as pool:
            return dict(zip(listed, pool.map(lambda key: object_sha256(self.head(key)), listed), strict=True))

    def sign(self, key: str) -> str:
        """An address that gives the object for LIFETIME seconds to anyone who has it."""
        params = {"Bucket": self.name, "Key": key}
        client = self.client()
        with s3_errors(self.where(key)):
            return str(client.generate_presigned_url("get_object", Params=params, ExpiresIn=LIFETIME))

    def _learn_region(self, response: Any, **_: Any) -> None:
        """The library follows a bucket to its region, but goes on to sign addresses for the one it was made with."""
        told = response[1].get("ResponseMetadata", {}) if response else {}
        region = told.get("HTTPHeaders", {}).get("x-amz-bucket-region")
        with self._lock:
            if region and told.get("HTTPStatusCode") != 200 and self._client is not None:
                self._region, self._client = region, None


class S3Source:
    """Every object below a prefix, or the one object that the address names.

    A bucket with versions is read as it is now: an address has no place for each object's version. The sha256 of the
    lock decides what is taken.
    """

    revision = ""

    def __init__(self, address: str) -> None:
        """`address` is `BUCKET/PREFIX`; a PREFIX that ends in `/` is never an object."""
        name, _, self._prefix = address.partition("/")
        self._bucket = Bucket(name)
        self._known = False
        self._whole: bool | None = None
        self._denied: tuple[Problem, ...] = ()  # what the store said where it did not let us look for the one object

    @property
    def uri(self) -> str:
        return self._bucket.where(self._prefix).rstrip("/")

    def inventory(self) -> tuple[SourceFile, ...]:
        if self._is_object():
            found = self._bucket.head(self._prefix)
            return (SourceFile(self._name, int(found["ContentLength"]), object_sha256(found)),)
        sizes = {key: size for key, size in self._bucket.keys(self._folder) if not is_hidden(key[len(self._folder) :])}
        if not sizes and self._denied:
            raise LoadError.collect(self._denied)
        if not sizes:
            mend = "check the address: `s3://BUCKET/PREFIX`"
            raise LoadError("there are no weights here", where=self.uri, mend=mend)
        digests = self._bucket.digests(sizes)
        files = (SourceFile(key[len(self._folder) :], size, digests[key]) for key, size in sizes.items())
        return tuple(sorted(files, key=lambda file: file.path))

    def connect(self) -> Reader:
        asked: dict[str, str] = {}
        return HttpReader(partial(self._locate, asked), refuse=partial(self._refusal, asked))

    def _locate(self, asked: dict[str, str], path: str) -> Place:
        """Where the file at `path` is to be read; `asked` are those that this reader wanted to know before, and where.

        The first file of all is asked about, for the bucket's region, and each that a reader wants to know again,
        because the store's answer to a signed address does not say what is wrong.
        """
        if path in asked or not self._known:
            self._ask(path)
            self._known = True
        place = Place(self._bucket.sign(self._key(path)), {})
        asked[path] = shown(place.url)
        return place

    def _refusal(self, asked: Mapping[str, str], status: int, headers: Mapping[str, str], where: str) -> LoadError:
        """What is wrong with the file that is read at `where`; its answer says so in words that are not read."""
        path = next((path for path, place in asked.items() if place == where), None)
        if path is not None and status == HTTPStatus.FORBIDDEN:
            try:
                self._ask(path)
            except LoadError as error:
                return error
        return refused(status, headers, where)

    def _ask(self, path: str) -> None:
        """Raise what is wrong with a file; where it is not there, what was wrong with the one object of its name."""
        key = self._key(path)
        try:
            found = self._bucket.head(key)
        except LoadError as error:
            if self._denied and path == self._name and _code(error) in _GONE:
                raise LoadError.collect(self._denied) from error
            raise
        storage = found.get("ArchiveStatus", found.get("StorageClass", ""))
        if ("ArchiveStatus" in found or storage in _ARCHIVES) and 'ongoing-request="false"' not in found.get(
            "Restore", ""
        ):
            mend = "restore it (`aws s3api restore-object`), or copy it to a class of storage that is read at once"
            raise LoadError(f"the object is archived ({storage})", where=self._bucket.where(key), mend=mend)

    def _key(self, path: str) -> str:
        return self._prefix if path == self._name and self._is_object() else f"{self._folder}{path}"

    @property
    def _name(self) -> str:
        return self._prefix.rpartition("/")[2]

    @property
    def _folder(self) -> str:
        return f"{self._prefix}/" if self._name else self._prefix

    def _is_object(self) -> bool:
        if self._whole is None:
            self._whole = bool(self._name) and self._has_object()
        return self._whole

    def _has_object(self) -> bool:
        """Whether the store says that the prefix is an object's key: those who may not read it are not told."""
        try:
            self._bucket.head(self._prefix)
        except LoadError as error:
            if (code := _code(error)) not in _GONE | _DENIED:
                raise
            self._denied = error.problems if code in _DENIED else ()
            return False
        return True


def object_sha256(head: Mapping[str, Any]) -> str | None:
    """The hex sha256 of an object's bytes, of what the store says of it; None where that is something else.

    The checksum of a multipart upload is one of its parts' checksums (COMPOSITE), not the file's.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """
    in_parts = "-" in str(head.get("ETag", ""))
    if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and not in_parts:
        try:
            digest = base64.b64decode(head.get("ChecksumSHA256", ""), validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) == 32:
            return digest.hex()
    claimed = str(head.get("Metadata", {}).get(DIGEST_FIELD, "")).lower()
    return claimed if re.fullmatch(r"[0-9a-f]{64}", claimed) else None


@contextmanager
def s3_errors(where: str) -> Iterator[None]:
    """The border to botocore: its errors as LoadError, or TransferError where trying again may help."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refused(error.response, error.operation_name, where) from error
    except BotoCoreError as error:
        raise _failed(error, where) from error


def _code(error: LoadError) -> str:
    """The store's own word for what became `error`; empty where the store said nothing."""
    answer: Mapping[str, Any] = getattr(error.__cause__, "response", {})  # a ClientError's
    return str(answer.get("Error", {}).get("Code", ""))


def _refused(answer: Mapping[str, Any], asked: str, where: str) -> LoadError:
    told = answer.get("Error", {})
    status, code = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), str(told.get("Code", ""))
    if code in _BUSY or status in (429, 503):
        return TransferError(f"the store asks for less: {code}", where=where, mend="try again later", busy=True)
    if status >= 500:
        return TransferError(f"the store failed: {status} {code}", where=where, mend="try again later")
    if code in _DENIED:
        what, rights = _RIGHTS.get(asked, _MAY_NOT_WRITE)
        mend = f"use credentials that have {rights} ({environ.AWS_PROFILE.name}, {environ.AWS_ACCESS_KEY_ID.name})"
        return LoadError(f"access is denied: {what}", where=where, mend=mend)
    unknown = (f"the store refused: {code}: {str(told.get('Message', '')).partition(chr(10))[0]}", "")
    what, mend = _REFUSALS.get(_SAME.get(code, code), unknown)
    return LoadError(what, where=where, mend=mend)


def _failed(error: Any, where: str) -> LoadError:
    """What the library itself says. Its text is left out where a credential process or an address may speak in it."""
    from botocore import exceptions as botocore

    if isinstance(error, botocore.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        mend = f"name the file of the certificates to trust in {environ.SSL_CERT_FILE.name}, if this is the right place"
        return LoadError("the store's certificate is not trusted", where=where, mend=mend)
    network = (botocore.HTTPClientError, botocore.ConnectionError)
    if isinstance(error, network):
        mend = f"check the network and {environ.AWS_ENDPOINT_URL_S3.name}"
        return TransferError(f"the store is not in reach: {type(error).__name__}", where=where, mend=mend)
    if isinstance(error, botocore.ParamValidationError):
        return LoadError("this is no bucket's name", where=where, mend="write the address as `s3://BUCKET/PREFIX`")
    told = isinstance(error, botocore.ProfileNotFound | botocore.PartialCredentialsError | botocore.ConfigParseError)
    reason = str(error) if told else type(error).__name__
    return LoadError(f"no client for this store: {reason}", where=where, mend=f"{_KEYS} ({environ.AWS_PROFILE.name})")


def _require_library() -> None:
    try:
        import botocore  # noqa: F401
    except ImportError as error:
        mend = "pip install 'llm-packager[s3]'"
        raise LoadError("s3:// needs the library botocore, which is not here", mend=mend) from error


def _connect(region: str | None) -> Any:
    """A client for S3 with the endpoint, region and credentials of the usual places."""
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    session = botocore.session.Session()
    signature = "s3v4" if session.get_credentials() is not None else UNSIGNED
    config = Config(
        signature_version=signature,
        connect_timeout=_CONNECT_SECONDS,
        max_pool_connections=_HEADS,
        user_agent_extra="packager",
    )
    region = region or session.get_config_variable("region") or "us-east-1"
    try:
        return session.create_client("s3", region_name=region, config=config, verify=_trusted(session))
    except ValueError as error:
        mend = f"correct {environ.AWS_ENDPOINT_URL_S3.name} or {environ.AWS_DEFAULT_REGION.name}"
        raise LoadError("the store's address or region is none", mend=mend) from error


def _trusted(session: Any) -> str | None:
    """The file of the certificates to trust, as the reader of the bytes has it; the library knows its own name alone."""
    return session.get_config_variable("ca_bundle") or environ.SSL_CERT_FILE.get() or None
