"""API keys: read from the environment, kept as hashes, compared in constant time."""

import logging
import os
import re
from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from ...environ import API_KEY_FILE, API_KEYS
from ...errors import LoadError
from ..logs import event

SHORTEST = 16
_PLAIN = re.compile(r"[\x21-\x7e]+")
_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
_MEND = "`openssl rand -hex 32` makes a key"


class ApiKeys:
    """The keys that may ask. The file's are read again when it changes; what cannot be read changes nothing."""

    def __init__(self, fixed: frozenset[bytes], file: Path | None) -> None:
        self._fixed = fixed
        self._file = file
        self._seen = None if file is None else _state(file)
        self._from_file = frozenset[bytes]() if file is None else _read_file(file)

    def allow(self, key: bytes) -> bool:
        """Whether `key` is one of them."""
        self._refresh()
        given, found = sha256(key).digest(), False
        for known in self._fixed | self._from_file:
            found |= compare_digest(known, given)
        return found

    def _refresh(self) -> None:
        """So that a key can be taken back without loading the model again."""
        if self._file is None or (state := _state(self._file)) == self._seen:
            return
        self._seen = state
        try:
            self._from_file = _read_file(self._file)
        except LoadError as error:
            event("API keys not read again", logging.ERROR, reason=str(error))
        else:
            event("API keys read again", keys=len(self._from_file))


def read_api_keys(environ: Mapping[str, str] | None = None) -> ApiKeys | None:
    """The keys that the environment names; None when it names none, and everybody may ask.

    A variable that is set but holds no key is an error: a secret that was not filled in must not open the server.
    Raises LoadError, which never holds a key.
    """
    values = os.environ if environ is None else environ
    if API_KEYS.name not in values and API_KEY_FILE.name not in values:
        return None
    fixed = frozenset[bytes]()
    if API_KEYS.name in values:
        fixed = _hashes(values[API_KEYS.name].split(","), API_KEYS.name, "entry")
    file = values.get(API_KEY_FILE.name)
    if file == "":
        raise LoadError("the variable is set and empty", where=API_KEY_FILE.name, mend="name a file, or unset it")
    return ApiKeys(fixed, None if file is None else Path(file))


def refuse_api_keys(server: str) -> None:
    """Raise LoadError where the environment has API keys, and `server` would let everybody ask all the same."""
    for variable in (API_KEYS, API_KEY_FILE):
        if variable.get():
            what = f"{variable.name} is set, and {server} checks no API keys"
            raise LoadError(what, mend="put a proxy in front that does, and unset it")


def _read_file(path: Path) -> frozenset[bytes]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise LoadError(f"the API keys cannot be read: {reason}", where=str(path), mend=_MEND) from None
    return _hashes(["" if line.startswith("#") else line for line in lines], str(path), "line")


def _hashes(entries: list[str], where: str, unit: str) -> frozenset[bytes]:
    """What is kept of each key. Errors count the entries, and never show one."""
    found = set[bytes]()
    for number, entry in enumerate((one.strip() for one in entries), 1):
        if not entry:
            continue
        if hashed := _HASHED.fullmatch(entry):
            found.add(bytes.fromhex(hashed[1]))
        elif entry.startswith("sha256:"):
            raise LoadError(f"{unit} {number} is no sha256 in hex: 64 digits must follow sha256:", where=where)
        elif len(entry) < SHORTEST or not _PLAIN.fullmatch(entry):
            what = f"the API key in {unit} {number} must be {SHORTEST} printable ASCII characters or more"
            raise LoadError(what, where=where, mend=_MEND)
        else:
            found.add(sha256(entry.encode()).digest())
    if not found:
        raise LoadError("there is no API key in it", where=where, mend=_MEND)
    return frozenset(found)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
