"""What this machine has, and ports on it."""

import os
import socket
import subprocess
import time
from typing import NoReturn

import pytest

STRICT = os.environ.get("PACKAGER_TEST_STRICT") == "1"


def missing(reason: str) -> NoReturn:
    """Skip, or fail where nothing may be skipped."""
    if STRICT:
        pytest.fail(f"not available, and PACKAGER_TEST_STRICT=1 forbids skipping: {reason}")
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 30) -> None:
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
