"""API keys: where they come from, what is refused, and that no error shows one."""

from hashlib import sha256

import pytest

from packager.errors import LoadError
from packager.runtime.server.keys import read_api_keys

KEY, OTHER = "k" * 32, "another-key-of-decent-length"


def allows(environ, *keys):
    known = read_api_keys(environ)
    return [known.allow(key.encode()) for key in keys]


def test_no_variable_no_keys():
    assert read_api_keys({}) is None


def test_keys_of_the_environment():
    environ = {"PACKAGER_API_KEYS": f"{KEY}, sha256:{sha256(OTHER.encode()).hexdigest()}"}
    assert allows(environ, KEY, OTHER, KEY + "k", KEY[:-1], "") == [True, True, False, False, False]


def test_keys_of_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# the batch job\n{KEY}\n\n# the team\nsha256:{sha256(OTHER.encode()).hexdigest().upper()}\n")
    environ = {"PACKAGER_API_KEY_FILE": str(path)}
    assert allows(environ, KEY, OTHER, "# the batch job") == [True, True, False]
    assert allows(environ | {"PACKAGER_API_KEYS": "x" * 16}, KEY, "x" * 16) == [True, True]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "there is no API key in it"),
        ("# none\n\n", "there is no API key in it"),
        (f"{KEY}\n# second\nsecret-short\n", "the API key in line 3 must be 16 printable ASCII characters or more"),
        (f"{KEY}\nsecret key with spaces\n", "line 2"),
        ("sécret" * 8, "line 1"),
        (f"sha256:{KEY}", "line 1 is no sha256 in hex"),
        (f"sha256:{'g' * 64}", "line 1 is no sha256 in hex"),
    ],
)
def test_a_file_that_is_off_fails_the_load(tmp_path, text, what):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(LoadError, match=what) as caught:
        read_api_keys({"PACKAGER_API_KEY_FILE": str(path)})
    assert caught.value.problems[0].where == str(path)
    shown = repr(caught.value) + str(caught.value.problems) + str(caught.value.__context__)
    assert not any(secret in shown for secret in (KEY, "secret", "sécret"))


@pytest.mark.parametrize(
    ("environ", "what"),
    [
        ({"PACKAGER_API_KEYS": ""}, "there is no API key in it"),
        ({"PACKAGER_API_KEYS": f"{KEY},short"}, "entry 2"),
        ({"PACKAGER_API_KEY_FILE": ""}, "set and empty"),
        ({"PACKAGER_API_KEY_FILE": "/nowhere/at/all"}, "No such file or directory"),
    ],
)
def test_a_variable_that_is_off_fails_the_load(environ, what):
    """A secret that was not filled in must not open the server."""
    with pytest.raises(LoadError, match=what):
        read_api_keys(environ)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(LoadError, match="it is not text"):
        read_api_keys({"PACKAGER_API_KEY_FILE": str(path)})


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "keys"
    path.write_text(KEY)
    keys = read_api_keys({"PACKAGER_API_KEY_FILE": str(path)})
    fresh = tmp_path / "fresh"
    fresh.write_text(OTHER)
    fresh.replace(path)
    assert [keys.allow(KEY.encode()), keys.allow(OTHER.encode())] == [False, True]


def test_a_change_that_cannot_be_read_changes_nothing(tmp_path, caplog):
    path = tmp_path / "keys"
    path.write_text(KEY)
    keys = read_api_keys({"PACKAGER_API_KEY_FILE": str(path)})
    path.write_text("secret-short")
    assert keys.allow(KEY.encode())
    path.unlink()
    assert keys.allow(KEY.encode())
    assert "secret" not in caplog.text


def test_plain_keys_are_not_kept(tmp_path):
    path = tmp_path / "keys"
    path.write_text(KEY)
    keys = read_api_keys({"PACKAGER_API_KEY_FILE": str(path), "PACKAGER_API_KEYS": OTHER})
    held = str(vars(keys))
    assert KEY not in held
    assert OTHER not in held
