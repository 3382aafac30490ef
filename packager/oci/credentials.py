"""Registry credentials, from where `docker login` keeps them. Read only, and never shown."""

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..environ import DOCKER_CONFIG, home
from ..errors import RegistryError
from .reference import DEFAULT_REGISTRY

_TIMEOUT = 30.0
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers answer as user name when the secret is an identity token
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name with its secret, or an identity token alone."""

    username: str = ""
    secret: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find_credential(registry: str, environ: Mapping[str, str] | None = None) -> Credential | None:
    """What `docker login REGISTRY` has left, from `config.json` or the credential helper it names; None for nothing.

    Raises RegistryError when the configuration cannot be read or a helper fails: going on without would turn
    a broken login into a puzzling refusal. No message holds a secret.
    """
    values = os.environ if environ is None else environ
    user = home(values)
    folder = DOCKER_CONFIG.get(values) or (str(user / ".docker") if user else "")
    path = Path(folder) / "config.json"
    config = _read(path) if folder else {}
    keys = _keys(registry)
    helpers = config.get("credHelpers") or {}
    helper = next((helpers[key] for key in keys if helpers.get(key)), "") or config.get("credsStore") or ""
    if helper and (found := _ask_helper(str(helper), keys, environ)):
        return found
    auths = config.get("auths") or {}
    entry = next((auths[key] for key in _matching(auths, registry) if auths[key]), None)
    return None if entry is None else _decode(entry, str(path))


def _keys(registry: str) -> tuple[str, ...]:
    """The names under which tools file a registry's credentials, most usual first."""
    return (_DOCKER_HUB_KEY, registry) if registry == DEFAULT_REGISTRY else (registry, f"https://{registry}")


def _matching(auths: Mapping[str, Any], registry: str) -> list[str]:
    wanted = {"index.docker.io", "registry-1.docker.io", registry} if registry == DEFAULT_REGISTRY else {registry}
    return [
        key for key in auths if key.partition("://")[2].partition("/")[0] in wanted or key.partition("/")[0] in wanted
    ]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"Docker's configuration cannot be read ({type(error).__name__})",
            where=str(path),
            mend="repair or remove the file, then run `docker login` again",
        ) from None
    return value if isinstance(value, dict) else {}


def _ask_helper(helper: str, keys: tuple[str, ...], environ: Mapping[str, str] | None) -> Credential | None:
    """`docker-credential-HELPER get` for each key until one answers. What it prints is never shown: it may be a secret."""
    program = f"docker-credential-{helper}"
    for key in keys:
        try:
            done = subprocess.run(
                [program, "get"],
                input=key.encode(),
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
                env=None if environ is None else dict(environ),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RegistryError(
                f"the credential helper cannot be run ({type(error).__name__})",
                where=program,
                mend="install it, or remove it from Docker's config.json",
            ) from None
        if done.returncode != 0:
            if b"credentials not found" in done.stdout.lower() + done.stderr.lower():
                continue
            raise RegistryError(
                f"the credential helper failed with status {done.returncode}",
                where=f"{program} get ({key})",
                mend="run `docker login` again",
            )
        try:
            answer = json.loads(done.stdout)
            user, secret = str(answer["Username"]), str(answer["Secret"])
        except (ValueError, KeyError, TypeError):
            raise RegistryError("the credential helper's answer is no credential", where=program) from None
        return Credential(identity_token=secret) if user == _TOKEN_USER else Credential(user, secret)
    return None


def _decode(entry: Mapping[str, Any], where: str) -> Credential | None:
    """One entry of `auths`: base64 of USER:SECRET, or the parts, or an identity token."""
    if token := str(entry.get("identitytoken") or ""):
        return Credential(identity_token=token)
    user, secret = str(entry.get("username") or ""), str(entry.get("password") or "")
    if packed := str(entry.get("auth") or ""):
        try:
            user, _, secret = base64.b64decode(packed, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            mend = "run `docker login` again"
            raise RegistryError("an `auth` in Docker's configuration is not base64", where=where, mend=mend) from None
    return Credential(user, secret.strip("\0")) if user else None
