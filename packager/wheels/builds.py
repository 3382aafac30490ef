"""CPU and CUDA builds of one distribution: which of them the configured indexes have.

PyTorch publishes each version several times: on the common index with CUDA for Linux, elsewhere as `2.13.0+cpu`.
A version with a label counts as newer than the same one without, so what is in reach decides what is taken.
"""

import re

from packaging.version import Version

from ..command import Runner, run_command
from ..facts import BaseFacts
from .index import PIP, configured_clients
from .tags import platforms
from .wheel import Wheel

TWICE_BUILT = ("torch",)
"""Distributions whose wheels without a label bring gigabytes of CUDA on Linux, and that are built without it too."""

_AVAILABLE = re.compile(r"^Available versions: (.+)$", re.MULTILINE)


def is_cpu_build(wheel: Wheel) -> bool:
    """Whether the wheel's version says that it was built without CUDA (`2.13.0+cpu`)."""
    return Version(wheel.version).local == "cpu"


def cpu_builds(name: str, facts: BaseFacts, *, run: Runner = run_command) -> tuple[str, ...]:
    """The versions of `name` that were built without CUDA and fit the image, newest first.

    pip is asked: uv lists no versions. Empty when there are none, or when pip has no answer.
    """
    argv = [*PIP, "index", "versions", name, "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    argv += ["--implementation", "cp", "--python-version", facts.python]
    argv += ["--abi", "cp" + facts.python_minor.replace(".", "")]
    for platform in platforms(facts):
        argv += ["--platform", platform]
    found = _AVAILABLE.search(run(argv, env=configured_clients(run).pip_env).stdout)
    versions = found[1].split(", ") if found else []
    return tuple(version for version in versions if Version(version).local == "cpu")
