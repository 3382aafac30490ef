"""The region of shared memory that a model's process has with Triton."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from packager.runtime.server.triton_memory import SHARED

MODEL = """
import mmap, sys
maps = []
for path in sys.argv[1].split(":"):
    with open(path, "r+b") as file:
        maps.append(mmap.mmap(file.fileno(), 0))
from packager.runtime.server.triton_memory import unname_region
unname_region()
unname_region()
maps[0][:3] = b"new"
print(maps[0][:3].decode())
"""


@pytest.fixture
def regions() -> Iterator[list[Path]]:
    made = [SHARED / f"packager-test-{uuid4()}" for _ in range(3)]
    for path in made:
        path.write_bytes(b"old")
    yield made
    for path in made:
        path.unlink(missing_ok=True)


def test_the_name_of_its_own_region_goes(regions):
    """Not that of what it has mapped beside it, nor of what it only has the name of."""
    own, library, others = regions
    arguments = [f"{own}:{library}", own.name, others.name, "16777216", ""]
    done = subprocess.run([sys.executable, "-c", MODEL, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == "new\n"
    assert [path.exists() for path in regions] == [False, True, True]
