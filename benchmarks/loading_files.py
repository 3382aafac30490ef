"""The files that loading.py loads: sets of them, written once, with their digests."""

import hashlib
import json
import math
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import ROOT

sys.path.insert(0, str(ROOT))

from packager.manifest import WeightsFile
from packager.weights.chunks import PIECE, PieceHasher, encode_chunks, file_chunks

_MB = 1_000_000
_LEAST_SMALL, _MOST_SMALL = 1_000, 100_000


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files that are loaded together, with all digests that a manifest can hold."""

    name: str
    files: tuple[WeightsFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def make_sets(folder: Path, names: Sequence[str], scale: float) -> dict[str, FileSet]:
    """Write these sets, each into a folder of its name; `scale` makes them smaller."""
    kinds: Mapping[str, Mapping[str, int]] = {
        "one": {"model.safetensors": int(2000 * _MB * scale)},
        "shards": {f"model-{n + 1:05d}-of-00008.safetensors": int(512 * _MB * scale) for n in range(8)},
        "small": _small(int(2000 * min(1, scale * 10))),
        "part": {"model.safetensors": int(256 * _MB * scale)},
        "tiny": {"a.json": 1000, "b.json": 2000},
    }
    return {name: FileSet(name, tuple(_write(folder / name, kinds[name]))) for name in names}


def write_listing(path: Path, sets: Mapping[str, FileSet]) -> None:
    """What loading_server.py must know of the sets."""
    value = {
        name: [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in each.files]
        for name, each in sets.items()
    }
    path.write_text(json.dumps(value))


def _small(count: int) -> dict[str, int]:
    """Sizes whose logarithms are spread evenly, in folders of 100; the same each time."""
    chance = random.Random(4)
    low, high = math.log(_LEAST_SMALL), math.log(_MOST_SMALL)
    return {f"part-{n // 100:02d}/{n:04d}.json": int(math.exp(chance.uniform(low, high))) for n in range(count)}


def _write(folder: Path, sizes: Mapping[str, int]) -> list[WeightsFile]:
    """Files of random bytes. The pieces of a file share one random block and differ in their first bytes."""
    block = os.urandom(PIECE)
    files = []
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole, pieces = hashlib.sha256(), PieceHasher()
        with path.open("wb") as file:
            for number in range(-(-size // PIECE)):
                piece = (f"{name} {number} ".encode() + block)[: min(PIECE, size - number * PIECE)]
                whole.update(piece)
                pieces.update(piece)
                file.write(piece)
        files.append(WeightsFile(name, size, whole.hexdigest(), encode_chunks(file_chunks(pieces.finish()))))
    return files
