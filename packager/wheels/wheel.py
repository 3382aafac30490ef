"""One exact wheel."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel as the lock records it: no address and no host.

    `name` is the canonical name of the distribution, `file` the file name, `size` is in bytes,
    `sha256` is hex.
    """

    name: str
    version: str
    file: str
    size: int
    sha256: str
