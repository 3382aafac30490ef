"""The real command line in a process of its own, with an environment that the test chooses."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def packager(
    *argv: str | Path, cwd: Path, cache: Path, env: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run `packager ARGV` in `cwd`; `prefix` is put before the command (`taskset -c 0`, say)."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "packager", *map(str, argv)],
        cwd=cwd,
        env=environment(cache, env),
        capture_output=True,
        text=True,
        check=False,
    )


def environment(cache: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PACKAGER_CACHE": str(cache), "PYTHONPATH": str(ROOT), **(env or {})}


def build(spec: str | Path, *more: str | Path, cwd: Path, cache: Path, **options: Any) -> dict[str, Any]:
    """`packager build SPEC --json`, without Docker unless `more` says so; fails the test with what was said."""
    docker = () if "--docker" in more else ("--no-docker",)
    done = packager("build", spec, "--json", *docker, *more, cwd=cwd, cache=cache, **options)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
