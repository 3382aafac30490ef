"""What a conversion passes to TensorRT-LLM, against the signatures that were read from its sources.

tests/signatures/tensorrt_llm.json has them, with the commits. The stand-in that the command's tests compile with has the
same, so that neither holds without the other.
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from types import ModuleType
from typing import Any

import pytest
from fakes.cli import ROOT

from packager.convert.plan import ALGORITHMS, CACHES, Build
from packager.spec.conversion import CalibrationSpec
from packager.weights.compiled import Limits

RECORD = json.loads((ROOT / "tests/signatures/tensorrt_llm.json").read_text())
CLASSES: Mapping[str, Any] = {name: said for module in RECORD["modules"].values() for name, said in module.items()}
PARAMETERS = {name: CLASSES["_TrtLLM"]["methods"][name] for name in ("__init__", "save")}
CONFIGS = ("BuildConfig", "CalibConfig", "QuantConfig")
LIMITS = Limits(16, 2048, 4096, 8192, 1)


def keywords_of_llm() -> set[str]:
    own = {one.partition("=")[0] for one in PARAMETERS["__init__"].strip("()").split(", ")}
    return own | {field for name in RECORD["keywords"]["_TrtLLM"] for field in CLASSES[name]["fields"]}


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in's module of what compiles."""
    monkeypatch.syspath_prepend(ROOT / "tests/fakes/vendor")
    before = set(sys.modules)
    from tensorrt_llm import building

    yield building
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(("word", "cache", "calibration"), [*product(ALGORITHMS, CACHES, (None, CalibrationSpec()))])
def test_every_keyword_is_one_of_theirs(word, cache, calibration):
    build = Build(2, 2, LIMITS, ALGORITHMS[word], CACHES[cache], calibration, own_code=True)
    calls = build.calls("MODEL", "WORKSPACE")
    assert calls.pop("LLM").keys() <= keywords_of_llm()
    assert calls.keys() <= set(CONFIGS)
    for name, keywords in calls.items():
        assert keywords
        assert keywords.keys() <= CLASSES[name]["fields"].keys()
    assert set(calls.get("QuantConfig", {}).values()) <= set(CLASSES["QuantAlgo"]["attributes"])


def test_what_the_step_passes_by_name():
    """Keywords that are not in the plan's calls stand in the step's own source."""
    tree = ast.parse((ROOT / "packager/convert/tensorrt_llm.py").read_text())
    passed = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    configs = {one for one in passed if one.endswith("_config")}
    assert configs == {"build_config", "quant_config", "calib_config"}
    assert configs <= keywords_of_llm()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_stand_ins_configs_are_what_was_read(building, name):
    parameters = inspect.signature(getattr(building, name)).parameters.values()
    assert {one.name: repr(one.default) for one in parameters} == CLASSES[name]["fields"]


def test_the_stand_ins_algorithms_and_calls_are_what_was_read(building):
    assert sorted(one.name for one in building.QuantAlgo) == CLASSES["QuantAlgo"]["attributes"]
    for name, recorded in PARAMETERS.items():
        parameters = inspect.signature(getattr(building._TrtLLM, name)).parameters.values()
        shown = [str(one.replace(annotation=one.empty)).replace(" = ", "=") for one in parameters]
        assert f"({', '.join(shown)})" == recorded


def test_the_merge_names_the_number_format_as_the_transformers_of_each_image_does():
    """`dtype` came with 4.56 (4.55.0, modeling_utils.py: it goes on to the model, which takes no such word), and images of
    TensorRT-LLM 1.0 have an older one; `torch_dtype` is taken by 4.55.0, by the 4.57.3 of 1.2.1 and by 5.23.0."""
    tree = ast.parse((ROOT / "packager/convert/merge.py").read_text())
    opened = [
        {one.arg for one in node.keywords}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "AutoModelForCausalLM.from_pretrained"
    ]
    assert opened == [{"torch_dtype", "trust_remote_code"}]
