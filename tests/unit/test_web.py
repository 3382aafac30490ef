"""httpx's client: what the environment says and cannot be used is named with its variable."""

import httpx
import pytest

from packager.errors import SettingError
from packager.web import open_client


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("socks5://127.0.0.1:9", "SOCKS is not spoken here"),
        ("ftp://127.0.0.1", "Unknown scheme"),
        ("http://[::1", "Invalid port"),
    ],
)
@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTPS_PROXY", "http_proxy"])
def test_a_proxy_that_cannot_be_used(monkeypatch, name, value, match):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=match) as caught:
        open_client()
    (problem,) = caught.value.problems
    assert name.upper() in problem.where
    assert "http://HOST:PORT" in problem.mend


@pytest.mark.parametrize(("content", "match"), [(None, "No such file"), ("no certificate", "no certificate")])
def test_certificates_that_cannot_be_read(monkeypatch, tmp_path, content, match):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(SettingError, match=f"(?i){match}") as caught:
        open_client()
    assert caught.value.problems[0].where == "SSL_CERT_FILE"


def test_where_the_environment_does_not_count(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with open_client(trust_env=False) as client:
        assert isinstance(client, httpx.Client)
