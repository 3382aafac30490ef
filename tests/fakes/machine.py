"""What this machine has, and ports on it."""

import os
import random
import socket
import subprocess
import time
from contextlib import suppress
from typing import NoReturn

import pytest

STRICT = os.environ.get("PACKAGER_TEST_STRICT") == "1"


def missing(reason: str) -> NoReturn:
    """Skip, or fail where nothing may be skipped."""
    if STRICT:
        pytest.fail(f"not available, and PACKAGER_TEST_STRICT=1 forbids skipping: {reason}")
    pytest.skip(reason)


_PORTS = range(10_000, 16_000)
"""Below those that a kernel gives by itself, to clients too: nobody gets one of these between its choice and its use."""
_given: set[int] = set()


def free_port() -> int:
    """A port on loopback for a server that is told its port: nobody listens there, and no one else was given it."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            if port in _given:
                continue
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    pytest.fail("no port is free")


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    """Until something listens on loopback `port`; fails when the process ends first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server on port {port} ended with {process.returncode} before it listened")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"nothing listens on port {port} after {seconds} s")
