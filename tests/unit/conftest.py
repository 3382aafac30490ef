"""A package index in a folder: uv and pip are really run, and ask nobody else."""

import os
from pathlib import Path

import pytest

from packager.facts import BaseFacts


@pytest.fixture
def facts() -> BaseFacts:
    """Debian 12."""
    return BaseFacts(
        architecture="amd64",
        interpreter="/usr/bin/python3.11",
        python="3.11.2",
        site="/usr/local/lib/python3.11/dist-packages",
        scripts="/usr/local/bin",
        glibc="2.36",
        installed={},
    )


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches uv or pip, and neither asks an index."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def links(clients: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of wheels that pip is configured with; uv learns of it through us."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder
