"""The stand-in that the adapter's tests run on has the signatures of the published wheel.

`python .ci/signatures.py lmdeploy` records those (tests/signatures/lmdeploy.json): a version that has dropped or changed
what the adapter uses fails here, with its name.
"""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
from fakes import models

from packager.recipes import RECIPES
from packager.runtime import engines

ROOT = Path(__file__).resolve().parents[4]
VENDOR = Path(models.__file__).parent / "vendor"
RECORD = json.loads((ROOT / "tests/signatures/lmdeploy.json").read_text())
WHEEL = f"lmdeploy {RECORD['version']}"
ADAPTER = sorted(Path(engines.__file__).parent.glob("lmdeploy*.py"))
USED_OF = {
    "AsyncEngine": {"backend", "engine", "session_len", "session_mgr", "tokenizer"},
    "HuggingFaceTokenizer": {"model"},
    "RequestError": {"code", "message"},
    "Tokenizer": {"model"},
}
"""Attributes that the adapter reads."""


def _script():
    spec = importlib.util.spec_from_file_location("signatures", ROOT / ".ci/signatures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def test_the_record_is_of_the_version_that_is_packaged():
    assert RECORD["version"] == RECIPES["lmdeploy"].default_version
    assert RECORD["sha256"] in (ROOT / "packager/recipes/records/lmdeploy.py").read_text()


@pytest.mark.parametrize("module", sorted(RECORD["modules"]))
def test_the_stand_in_is_what_the_wheel_has(module):
    recorded = RECORD["modules"][module]
    tree = ast.parse((VENDOR / module).read_text())
    ours = SCRIPT.described(tree, tuple(recorded))
    assert not [line for name in recorded for line in _differences(f"{module} {name}", ours[name], recorded[name])]


def _differences(name: str, ours, theirs) -> list[str]:
    if isinstance(ours, str):
        return [] if ours == theirs else [f"{WHEEL} has {name}{theirs}, the stand-in {ours}"]
    found = []
    for kind in ("fields", "methods"):
        for one, what in ours[kind].items():
            if one not in theirs[kind]:
                found.append(f"{WHEEL} has no {name}.{one}")
            elif theirs[kind][one] != what:
                found.append(f"{WHEEL} has {name}.{one} {theirs[kind][one]}, the stand-in {what}")
    return found


def test_what_the_adapter_reads_of_lmdeploys_objects_is_there():
    found = {
        name: set(said["attributes"])
        for names in RECORD["modules"].values()
        for name, said in names.items()
        if isinstance(said, dict)
    }
    lacks = [f"{name}.{one}" for name, used in USED_OF.items() for one in sorted(used - found[name])]
    assert not lacks, f"{WHEEL} sets no {', '.join(lacks)}"


def test_what_the_adapter_imports_is_recorded():
    for path in ADAPTER:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level or (node.module or "").split(".")[0] != "lmdeploy":
                continue
            place = node.module.replace(".", "/")
            names = RECORD["modules"].get(f"{place}.py") or RECORD["modules"].get(f"{place}/__init__.py") or {}
            assert {one.name for one in node.names} <= set(names), f"{path.name}: {ast.unparse(node)}"


def test_every_keyword_of_the_configurations_is_the_wheels():
    """The adapter passes them as a mapping, which no signature of ours holds."""
    from fakes.engines import make_setup

    from packager.runtime.engines.lmdeploy_options import LmdeployOptions, config_words

    for backend, name in (("turbomind", "TurbomindEngineConfig"), ("pytorch", "PytorchEngineConfig")):
        fields = RECORD["modules"]["lmdeploy/messages.py"][name]["fields"]
        lacks = config_words(make_setup(), LmdeployOptions(backend=backend)).keys() - fields.keys()
        assert not lacks, f"{WHEEL} has no {name}({', '.join(sorted(lacks))})"


@pytest.mark.parametrize("gone", ["AsyncEngine.preprocess", "GenerationConfig.random_seed", "Session.async_abort"])
def test_what_a_version_drops_is_named(gone):
    name, _, part = gone.partition(".")
    theirs = next(json.loads(json.dumps(names[name])) for names in RECORD["modules"].values() if name in names)
    ours = json.loads(json.dumps(theirs))
    for kind in ("fields", "methods"):
        theirs[kind].pop(part, None)
    assert _differences(name, ours, theirs) == [f"{WHEEL} has no {gone}"]
