"""Fixtures that more than one folder of tests needs.

Outside services come from the environment (`.ci/run` starts them); without them a test is skipped
with the reason. With PACKAGER_TEST_STRICT=1, as in `.ci/run`, a missing service is a failure.
"""

import faulthandler
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `from fakes.x import y` from any test

from fakes.machine import STRICT, free_port, missing, wait_for_port

from packager.runtime.logs import JsonLines

if find_spec("hypothesis"):  # which the engines' environments lack
    from hypothesis import HealthCheck, settings

    # The same examples each time, and no test fails because a machine was slow.
    slowness = (HealthCheck.too_slow,)
    settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=slowness)
    settings.load_profile("tests")


def pytest_configure() -> None:
    # A shell has what it runs in the background ignore Ctrl-C, and nohup SIGHUP: so would every program that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # which no program inherits


def pytest_unconfigure() -> None:
    """What a failed test has left running keeps the process for five minutes at most, and is shown then."""
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the expected files from what is produced now"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test skips by itself fails as well where nothing may be skipped but what needs a GPU."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, and PACKAGER_TEST_STRICT=1 forbids that: {report.longrepr}"
    return report


def pytest_runtest_setup() -> None:
    """Engines' adapters forbid huggingface_hub to ask a hub, in the process that imports them: here tests ask one."""
    if "PACKAGER_TEST_ENGINE" not in os.environ:
        os.environ.pop("HF_HUB_OFFLINE", None)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test that had our log sent to its own standard error leaves no handler on a stream that is closed."""
    ours, root = logging.getLogger("packager.runtime"), logging.getLogger()
    before = [(one, one.handlers[:], one.level, one.propagate) for one in (ours, root)]
    yield
    for one, handlers, level, propagate in before:
        if any(isinstance(handler.formatter, JsonLines) for handler in one.handlers):
            one.handlers[:], one.level, one.propagate = handlers, level, propagate


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One PACKAGER_CACHE for all tests that fetch, so that nothing is fetched twice.

    `.ci/run` and `make test` name a folder that outlives the session; else it is temporary.
    """
    chosen = os.environ.get("PACKAGER_TEST_CACHE")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("cache")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def docker_socket() -> str:
    """Path of the socket of a Docker Engine that answers."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    path = host.removeprefix("unix://")
    if host == path or not Path(path).exists():
        missing("no Docker Engine: DOCKER_HOST names no Unix socket that exists (.ci/run starts one)")
    return path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of a real, empty container registry (Debian's docker-registry)."""
    program = shutil.which("docker-registry")
    if program is None:
        missing("no docker-registry on PATH (Debian package docker-registry; .ci/run installs it)")
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    log = (folder / "log").open("wb")
    process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_for_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()
