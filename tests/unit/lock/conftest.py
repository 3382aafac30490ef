"""Places that weights are locked from, on loopback: this process finds them as users' do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub import Hub
from fakes.s3 import FakeS3

from packager.command import run_command
from packager.lock.tools import Tools
from packager.store import Store


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """Tools with an empty store, and nobody to tell."""
    return Tools(store=Store(tmp_path / "cache"), run=run_command)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """A store with the bucket `models`."""
    with FakeS3() as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.bucket("models")
        yield server
