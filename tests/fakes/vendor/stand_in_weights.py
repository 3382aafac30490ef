"""What the stand-ins read of weights: as much as tells a file from none."""

import struct
from pathlib import Path


def open_weights(folder):
    """Raises ValueError for a file that is no safetensors, as its library does, and RuntimeError for no engine."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size - 8:
            raise ValueError("Error while deserializing header: header too large")
    for path in sorted(Path(folder).glob("*.engine")):
        if not path.read_bytes().startswith(b"plan of rank"):
            raise RuntimeError("Assertion failed: Failed to deserialize cuda engine")
