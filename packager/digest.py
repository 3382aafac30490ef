"""Digests and the canonical bytes they are taken of."""

import hashlib
import json
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
"""Bytes read at a time: large enough that hashing, not the loop, is the cost."""


def sha256_hex(data: bytes) -> str:
    """Lower-case hex sha256 of `data` (64 characters)."""
    return hashlib.sha256(data).hexdigest()


def oci_digest(data: bytes) -> str:
    """`sha256:` and the hex digest, the form OCI descriptors use."""
    return "sha256:" + sha256_hex(data)


def hash_file(path: Path) -> tuple[str, int]:
    """Hex sha256 and size in bytes of the file at `path`, read once."""
    hasher = hashlib.sha256()
    size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
            size += len(chunk)
    return hasher.hexdigest(), size


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and UTF-8, for values whose digest is an identity.

    Only strings, integers, booleans, None, lists and string-keyed dicts are allowed:
    floats have no canonical text that all JSON writers share.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def readable_json(value: Any) -> bytes:
    """JSON for files that people read and diff: keys in the order given, two spaces, a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError(f"{value!r} is a float: canonical JSON holds none")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
