"""A published wheel's own source, without installing it: for engines that cannot be imported where there is no GPU."""

import ast
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True)
class Wheel:
    """A wheel file. `file` is its name, `sha256` that of its bytes."""

    archive: zipfile.ZipFile
    version: str
    file: str
    sha256: str

    def module(self, path: str) -> ast.Module:
        """The syntax tree of the module at `path` in the wheel (`lmdeploy/messages.py`). Raises KeyError."""
        return ast.parse(self.archive.read(path))


@contextmanager
def published(distribution: str, version: str) -> Iterator[Wheel]:
    """The wheel of that version for Python 3.12 on Linux, from whatever index pip is configured with."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        argv += ["--python-version", "3.12", "--dest", folder]
        argv += [word for platform in PLATFORMS for word in ("--platform", platform)]
        subprocess.run([*argv, f"{distribution}=={version}"], check=True)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            yield Wheel(archive, version, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
