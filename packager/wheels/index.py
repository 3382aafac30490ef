"""Where wheels come from: the indexes the user configured, for uv (which resolves) and pip (which fetches) alike.

People configure one of the two. What is set for one and not for the other is handed over, setting by
setting; where both have their own, both keep it. Secrets in index URLs travel in environment variables,
never on a command line, and are cut from everything quoted in an error.
"""

import ast
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import environ as variables
from ..command import Runner
from ..errors import ResolveError

PIP = (sys.executable, "-P", "-m", "pip")
"""pip of this interpreter; `-P` keeps a `pip` folder in the current directory from posing as it."""

_DEFAULT_INDEX = re.compile(r"--index-url <url>.*?\(default (\S+)\)", re.DOTALL)
_SECRET = re.compile(r"(?<=//)[^/@\s`'\"]+@")


@dataclass(frozen=True, slots=True)
class Clients:
    """How to call both clients: whole environments, and options that uv has no mergeable variable for."""

    uv_env: Mapping[str, str]
    uv_options: tuple[str, ...]
    pip_env: Mapping[str, str]


def hide_secrets(text: str) -> str:
    """`text` without the user names and passwords of its URLs."""
    return _SECRET.sub("***@", text)


def configured_clients(run: Runner, environ: Mapping[str, str] | None = None) -> Clients:
    """Read pip's configuration (by asking pip) and uv's variables, and make them agree.

    uv's own configuration files are left to uv. Raises ResolveError when pip cannot read its own.
    """
    values = dict(os.environ if environ is None else environ)
    pip = _pip_settings(run, values)
    uv_env, pip_env, options = dict(values), dict(values), []
    default = variables.UV_DEFAULT_INDEX.get(values) or variables.UV_INDEX_URL.get(values)
    if default and "index-url" not in pip:
        pip_env["PIP_INDEX_URL"] = default
    elif not default and "index-url" in pip:
        uv_env[variables.UV_DEFAULT_INDEX.name] = pip["index-url"]
    further = f"{variables.UV_INDEX.get(values)} {variables.UV_EXTRA_INDEX_URL.get(values)}".split()
    if further and "extra-index-url" not in pip:
        pip_env["PIP_EXTRA_INDEX_URL"] = " ".join(re.sub(r"^[\w.-]+=", "", url) for url in further)
    elif not further and "extra-index-url" in pip:
        # uv knows a version by the first index that has it. The main one, else asked last, comes before the further
        # ones as in pip: those often hold some files of a version only, and a lock needs the sha256 of all.
        main = default or pip.get("index-url") or _pip_default(run, values)
        uv_env[variables.UV_INDEX.name] = " ".join([main, *pip["extra-index-url"].split()]).strip()
        options += ["--index-strategy", "unsafe-best-match"]  # pip takes the best of all indexes
    links = [link for link in variables.UV_FIND_LINKS.get(values).split(",") if link]
    if links and "find-links" not in pip:
        pip_env["PIP_FIND_LINKS"] = " ".join(links)
    for link in links or pip.get("find-links", "").split():
        # uv lets the option replace its variable, so both kinds are passed as options
        options += ["--find-links", link if "://" in link else str(Path(link).absolute())]
    if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        options.append("--no-index")
    if "trusted-host" in pip:
        uv_env.setdefault("UV_INSECURE_HOST", " ".join(pip["trusted-host"].split()))
    if "cert" in pip and not variables.SSL_CERT_FILE.get(values):
        uv_env[variables.SSL_CERT_FILE.name] = pip["cert"]
    return Clients(uv_env, tuple(options), pip_env)


def _pip_default(run: Runner, environ: Mapping[str, str]) -> str:
    """The index pip asks when none is configured, as its help tells it; empty when it does not."""
    done = run([*PIP, "download", "--help"], env={**environ, "COLUMNS": "500"})
    found = _DEFAULT_INDEX.search(done.stdout)
    return found[1] if found else ""


def _pip_settings(run: Runner, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that `pip download` would obey, by option name."""
    done = run([*PIP, "config", "list"], env=environ)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ResolveError(
            f"pip cannot read its configuration: {hide_secrets(reason)}",
            mend="`python -m pip config debug` shows every file pip reads",
        )
    found: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in done.stdout.splitlines():
        key, separator, text = line.partition("=")
        section, _, option = key.strip().rpartition(".")
        if separator and section in found:
            found[section][option] = str(ast.literal_eval(text.strip()))
    return found["global"] | found["download"] | found[":env:"]
