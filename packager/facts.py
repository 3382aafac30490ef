"""What an image's base is like, as far as the layers above it must know.

Read once, when the spec is locked, from the base's own bytes; never from the machine that builds.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The facts of one base.

    `architecture` is in OCI's words (`amd64`, `arm64`). `interpreter`, `site` and `scripts` are
    absolute paths in the image: the Python that runs the package, the folder where wheels install
    so that `.pth` files count, and the folder for console scripts. `python` and `glibc` are full
    versions (`3.11.2`, `2.36`). `installed` maps canonical names of the Python distributions
    that the base brings to their versions.
    """

    architecture: str
    interpreter: str
    python: str
    site: str
    scripts: str
    glibc: str
    installed: Mapping[str, str]

    @property
    def python_minor(self) -> str:
        """`3.11` of `3.11.2`."""
        return ".".join(self.python.split(".")[:2])
