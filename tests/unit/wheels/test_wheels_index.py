from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from packager.command import Completed, run_command
from packager.errors import ResolveError
from packager.wheels.index import configured_clients, hide_secrets


def pip_says(stdout: str, returncode: int = 0, stderr: str = "", help_text: str = ""):
    def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Completed:
        if argv[-1] == "--help":
            return Completed(0, help_text, "")
        assert list(argv[-2:]) == ["config", "list"]
        return Completed(returncode, stdout, stderr)

    return run


def test_pips_settings_reach_uv(tmp_path: Path) -> None:
    text = (
        "global.cert='/etc/ca.pem'\n"
        "global.index-url='https://one.example/simple'\n"
        "download.index-url='https://two.example/simple'\n"
        "install.index-url='https://install.example/simple'\n"
        ":env:.extra-index-url='https://a.example https://b.example'\n"
        f"global.find-links='\\n{tmp_path}\\nhttps://links.example/'\n"
        "global.no-index='true'\n"
        "global.trusted-host='c.example'\n"
    )
    clients = configured_clients(pip_says(text), {})
    assert clients.uv_env == {
        "UV_DEFAULT_INDEX": "https://two.example/simple",
        "UV_INDEX": "https://two.example/simple https://a.example https://b.example",
        "UV_INSECURE_HOST": "c.example",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    assert clients.uv_options == (
        *("--index-strategy", "unsafe-best-match"),
        *("--find-links", str(tmp_path), "--find-links", "https://links.example/"),
        "--no-index",
    )
    assert clients.pip_env == {}


def test_the_main_index_comes_before_the_further_ones() -> None:
    further = ":env:.extra-index-url='https://a.example'"
    text = "  -i, --index-url <url>   Base URL (default https://main.example/simple). More.\n  --other (default x)"
    assert configured_clients(pip_says(further, help_text=text), {}).uv_env == {
        "UV_INDEX": "https://main.example/simple https://a.example"
    }
    assert configured_clients(pip_says(further), {}).uv_env == {"UV_INDEX": "https://a.example"}
    environ = {"UV_DEFAULT_INDEX": "https://uv.example"}
    assert configured_clients(pip_says(further), environ).uv_env == environ | {
        "UV_INDEX": "https://uv.example https://a.example"
    }


def test_this_pip_tells_its_default_index(clients: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example")
    main, further = configured_clients(run_command).uv_env["UV_INDEX"].split()
    assert main.startswith("https://")
    assert further == "https://a.example"


def test_uvs_settings_reach_pip() -> None:
    environ = {
        "UV_INDEX_URL": "https://one.example/simple",
        "UV_INDEX": "named=https://a.example https://b.example",
        "UV_FIND_LINKS": "/wheels,/more",
    }
    clients = configured_clients(pip_says(""), environ)
    assert clients.pip_env == environ | {
        "PIP_INDEX_URL": "https://one.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://a.example https://b.example",
        "PIP_FIND_LINKS": "/wheels /more",
    }
    assert clients.uv_env == environ
    assert clients.uv_options == ("--find-links", "/wheels", "--find-links", "/more")


def test_each_keeps_its_own() -> None:
    environ = {"UV_DEFAULT_INDEX": "https://uv.example", "SSL_CERT_FILE": "/mine.pem"}
    clients = configured_clients(pip_says("global.index-url='https://pip.example'\nglobal.cert='/x'"), environ)
    assert clients.uv_env == environ
    assert clients.pip_env == environ


def test_pips_own_complaint_is_passed_on() -> None:
    with pytest.raises(ResolveError, match="pip cannot read its configuration: ERROR: bad file"):
        configured_clients(pip_says("", 1, "x\nERROR: bad file\n"), {})


def test_secrets_are_hidden() -> None:
    text = "at https://user:pa%40ss@host.example/simple/x@2 and `http://tok@h/`"
    assert hide_secrets(text) == "at https://***@host.example/simple/x@2 and `http://***@h/`"
