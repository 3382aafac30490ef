"""The record of an engine (packager/recipes/records) says what the engine's own registry says, in its environment."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from packager.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
ENGINE = os.environ.get("PACKAGER_TEST_ENGINE") or "llama_cpp"
LIBRARY = {"llama_cpp": "xllamacpp"}.get(ENGINE, ENGINE)


@pytest.mark.skipif(find_spec(LIBRARY) is None, reason=f"{LIBRARY} is not installed here")
@pytest.mark.skipif(RECIPES[ENGINE].record is None, reason=f"{ENGINE} has no registry")
def test_the_record_is_what_the_registry_says():
    argv = [sys.executable, str(ROOT / ".ci" / "record.py"), "--read", ENGINE]
    finished = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    read, recorded = json.loads(finished.stdout.splitlines()[-1]), asdict(RECIPES[ENGINE].record)
    moved = [line for key in recorded for line in _moves(key, recorded[key], read.get(key))]
    assert not moved, f"{'; '.join(moved)}: run `python .ci/record.py {ENGINE}` and read the diff"


def _moves(key, recorded, read) -> list[str]:
    """What differs, by name: a mapping's items, a list's names, or the value itself."""
    if isinstance(recorded, str):
        return [] if recorded == read else [f"{key}: recorded {recorded}, is {read}"]
    old, new = (set(one.items()) if isinstance(one, dict) else set(one or ()) for one in (recorded, read))
    gone, come = sorted(map(str, old - new)), sorted(map(str, new - old))
    return [f"{key}: gone {gone}, come {come}"] if old != new else []
