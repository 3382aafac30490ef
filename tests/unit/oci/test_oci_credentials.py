import base64
import json
import stat
from pathlib import Path

import pytest

from packager.errors import RegistryError
from packager.oci.credentials import Credential, find_credential


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    return tmp_path


def write(home: Path, config: object) -> dict[str, str]:
    (home / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return {"DOCKER_CONFIG": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "HOME": "/nonexistent"}


def helper(home: Path, name: str, script: str) -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("registry", "auths", "want"),
    [
        ("r.example.com", {"r.example.com": {"auth": packed("ada:s:e:c")}}, Credential("ada", "s:e:c")),
        ("r.example.com", {"https://r.example.com/v2/": {"auth": packed("ada:x")}}, Credential("ada", "x")),
        ("r.example.com:5000", {"r.example.com": {"auth": packed("ada:x")}}, None),
        ("r.example.com", {"r.example.com": {"username": "ada", "password": "x"}}, Credential("ada", "x")),
        ("r.example.com", {"r.example.com": {"identitytoken": "t"}}, Credential(identity_token="t")),
        ("docker.io", {"https://index.docker.io/v1/": {"auth": packed("ada:x")}}, Credential("ada", "x")),
        ("docker.io", {"docker.io": {"auth": packed("ada:x")}}, Credential("ada", "x")),
        ("r.example.com", {"r.example.com": {}}, None),
        ("r.example.com", {}, None),
    ],
)
def test_reads_auths(home, registry, auths, want):
    assert find_credential(registry, write(home, {"auths": auths})) == want


def test_no_configuration_is_no_credential(home):
    assert find_credential("r.example.com", {"HOME": str(home / "none")}) is None


def test_looks_in_the_home_folder(home):
    (home / ".docker").mkdir()
    write(home / ".docker", {"auths": {"r.example.com": {"auth": packed("ada:x")}}})
    assert find_credential("r.example.com", {"HOME": str(home)}) == Credential("ada", "x")


class TestHelpers:
    ECHO = 'read key; printf \'{"ServerURL":"%s","Username":"%s","Secret":"s3cret"}\' "$key" "$key"'

    def test_the_registrys_own_helper_comes_first(self, home):
        helper(home, "mine", self.ECHO)
        environ = write(home, {"credHelpers": {"r.example.com": "mine"}, "credsStore": "absent"})
        assert find_credential("r.example.com", environ) == Credential("r.example.com", "s3cret")

    def test_the_store_is_asked_under_dockers_own_key(self, home):
        helper(home, "store", self.ECHO)
        environ = write(home, {"credsStore": "store", "auths": {"https://index.docker.io/v1/": {}}})
        assert find_credential("docker.io", environ) == Credential("https://index.docker.io/v1/", "s3cret")

    def test_an_identity_token(self, home):
        helper(home, "store", 'cat >/dev/null; echo \'{"Username":"<token>","Secret":"t"}\'')
        assert find_credential("r.example.com", write(home, {"credsStore": "store"})) == Credential(identity_token="t")

    def test_not_found_falls_back_to_auths(self, home):
        helper(home, "store", "cat >/dev/null; echo 'credentials not found in native keychain'; exit 1")
        environ = write(home, {"credsStore": "store", "auths": {"r.example.com": {"auth": packed("ada:x")}}})
        assert find_credential("r.example.com", environ) == Credential("ada", "x")

    @pytest.mark.parametrize(
        ("script", "what"),
        [
            ("cat >/dev/null; echo hunter2 >&2; exit 3", "failed with status 3"),
            ("cat >/dev/null; echo hunter2", "is no credential"),
            ('cat >/dev/null; echo \'{"Secret":"hunter2"}\'', "is no credential"),
        ],
    )
    def test_a_helper_that_fails_is_an_error_without_its_output(self, home, script, what):
        helper(home, "store", script)
        with pytest.raises(RegistryError, match=what) as caught:
            find_credential("r.example.com", write(home, {"credsStore": "store"}))
        assert "hunter2" not in repr((caught.value.problems, caught.value.__cause__))

    def test_a_helper_that_is_not_there(self, home):
        with pytest.raises(RegistryError, match="cannot be run") as caught:
            find_credential("r.example.com", write(home, {"credsStore": "absent"}))
        assert caught.value.problems[0].where == "docker-credential-absent"


@pytest.mark.parametrize("config", ["{", '{"auths":{"r.example.com":{"auth":"%%"}}}'])
def test_a_broken_configuration_is_an_error(home, config):
    with pytest.raises(RegistryError) as caught:
        find_credential("r.example.com", write(home, config))
    assert "config.json" in caught.value.problems[0].where
    assert caught.value.problems[0].mend
