"""What the adapters use of libraries that no test can import stands in the records of those libraries' signatures.

`python .ci/signatures.py lmdeploy` records them (tests/signatures): a version that has dropped or changed what an adapter
uses fails here, with its name. The stand-ins that the adapters' tests run on have the recorded signatures.
"""

import ast
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fakes.engines import make_setup
from fakes.standins import VENDOR

from packager.recipes import RECIPES
from packager.runtime.engines.lmdeploy_options import LmdeployOptions, config_words

ROOT = Path(__file__).resolve().parents[4]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("signatures", ROOT / ".ci/signatures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()
RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests/signatures").glob("*.json"))}
NEWEST = RECORDS["lmdeploy"]


def lacking(name: str, record: Any) -> list[str]:
    engine = name.partition("-")[0]
    return SCRIPT.lacking(record, SCRIPT.READ[engine], SCRIPT.used(engine))


@pytest.mark.parametrize("name", [name for name in sorted(RECORDS) if name.startswith("lmdeploy")])
@pytest.mark.parametrize("word", ["int4", "int8", "fp8", "fp8_e5m2", "turbo_quant"])
def test_the_words_of_the_cache_mean_to_lmdeploy_what_they_say(name, word):
    """Its numbers are no bits: 42 is a format by name, 16 is FP8."""
    numbers = RECORDS[name]["modules"]["lmdeploy/messages.py"]["QuantPolicy"]["fields"]
    assert config_words(make_setup(), LmdeployOptions(kv_cache=word))["quant_policy"] == int(numbers[word.upper()])


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_version_that_is_packaged_has_what_the_adapter_uses(name):
    assert not lacking(name, RECORDS[name])


def test_the_records_are_of_the_versions_that_are_packaged():
    recipe = RECIPES["lmdeploy"]
    assert NEWEST["version"] == recipe.default_version
    assert NEWEST["sha256"] in (ROOT / "packager/recipes/records/lmdeploy.py").read_text()
    assert RECORDS[f"lmdeploy-{recipe.oldest}"]["version"] == recipe.oldest
    assert all(len(record["sha256"]) == 64 for name, record in RECORDS.items() if name.startswith("lmdeploy"))
    theirs = RECORDS["tensorrt_llm"]
    assert RECIPES["tensorrt_llm"].default_version.startswith(f"{theirs['version']}.")
    assert theirs["commits"].keys() == theirs["modules"].keys()
    assert all(len(commit) == 40 for commit in theirs["commits"].values())


@pytest.mark.parametrize(
    ("record", "module", "gone", "said"),
    [
        ("lmdeploy", "serve/core/async_engine.py", "AsyncEngine.preprocess", "no AsyncEngine.preprocess"),
        ("lmdeploy", "serve/core/async_engine.py", "AsyncEngine.session_len", "no AsyncEngine.session_len"),
        ("lmdeploy", "serve/core/async_engine.py", "AsyncEngine.__init__(model_name=)", "no AsyncEngine(model_name=), which lmdeploy_open.py"),
        ("lmdeploy", "serve/core/async_engine.py", "AsyncEngine.preprocess(input_ids=)", "no preprocess(input_ids=), which lmdeploy.py:"),
        ("lmdeploy", "serve/managers/session_manager.py", "Session.async_abort", "no Session.async_abort"),
        ("lmdeploy", "messages.py", "GenerationConfig.random_seed", "no GenerationConfig(random_seed=), which lmdeploy_requests.py"),
        ("lmdeploy", "messages.py", "TurbomindEngineConfig.quant_policy", "no TurbomindEngineConfig(quant_policy=), which lmdeploy_options.py"),
        ("tensorrt_llm", "llmapi/llm.py", "BaseLLM.generate_async", "no BaseLLM.generate_async"),
        ("tensorrt_llm", "llmapi/llm.py", "BaseLLM.generate_async(streaming=)", "no generate_async(streaming=), which tensorrt_llm_streams.py"),
        ("tensorrt_llm", "llmapi/llm_args.py", "BaseLlmArgs.enable_chunked_prefill", "no LLM(enable_chunked_prefill=), which tensorrt_llm_options.py"),
        ("tensorrt_llm", "llmapi/llm_args.py", "KvCacheConfig.free_gpu_memory_fraction", "no KvCacheConfig(free_gpu_memory_fraction=)"),
        ("tensorrt_llm", "sampling_params.py", "SamplingParams.min_p", "no SamplingParams(min_p=), which tensorrt_llm_options.py"),
        ("tensorrt_llm", "executor/result.py", "CompletionOutput.token_ids_diff", "no CompletionOutput.token_ids_diff"),
        ("tensorrt_llm", "executor/result.py", "GenerationResult.abort", "no GenerationResult.abort"),
    ],
    ids=lambda value: value if "." in value and "/" not in value else "",
)  # fmt: skip
def test_what_a_version_drops_is_named(record, module, gone, said):
    changed = json.loads(json.dumps(RECORDS[record]))
    name, _, part = gone.partition(".")
    part, _, keyword = part.partition("(")
    theirs = changed["modules"][f"{record}/{module}"][name]
    if keyword:
        parameters = theirs["methods"][part].split(", ")
        left = [one for one in parameters if not one.startswith(keyword.rstrip("=)"))]
        assert len(left) == len(parameters) - 1
        theirs["methods"][part] = ", ".join(left)
    else:
        theirs["fields"].pop(part, None)
        theirs["methods"].pop(part, None)
        theirs["attributes"] = [one for one in theirs["attributes"] if one != part]
    found = lacking(record, changed)
    assert found
    assert all(one.startswith(said) for one in found), found


BELOW = ("turbomind",)
"""Packages that are imported as such: what is read of them is asked for there (lmdeploy_open.py)."""


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_what_the_adapter_imports_is_recorded(name):
    engine, modules = name.partition("-")[0], RECORDS[name]["modules"]
    everything = {one for names in modules.values() for one in names}
    for path in SCRIPT.adapter(engine):
        for module, imported in SCRIPT.imports(ast.parse(path.read_text()), engine):
            place = module.replace(".", "/")
            # What a package hands on stands in the record of the module that defines it.
            names = modules.get(f"{place}.py") or modules.get(f"{place}/__init__.py") or everything
            assert imported.name in names or imported.name in BELOW, (
                f"{path.name}: from {module} import {imported.name}"
            )


@pytest.mark.parametrize("module", sorted(NEWEST["modules"]))
def test_lmdeploys_stand_in_is_what_the_wheel_has(module):
    recorded = NEWEST["modules"][module]
    ours = SCRIPT.described(ast.parse((VENDOR / module).read_text()), tuple(recorded))
    assert ours.keys() == recorded.keys()
    assert not [line for name in recorded for line in differences(f"{module} {name}", ours[name], recorded[name])]


STANDS_FOR = {
    "BaseLLM": "BaseLLM",
    "CompletionOutput": "CompletionOutput",
    "GenerationExecutorProxy": "GenerationExecutorProxy",
    "KvCacheConfig": "KvCacheConfig",
    "RequestError": "RequestError",
    "RequestOutput": "GenerationResult",
    "SamplingParams": "SamplingParams",
}
"""Classes of TensorRT-LLM's stand-in, and what they are in the record."""
OWN = {
    "BaseLLM": "check draws enqueue step running_are",
    "GenerationExecutorProxy": "__init__",
    "RequestOutput": "__init__",
    "SamplingParams": "greedy",
}
"""What is the stand-in's alone: it is no part of what the adapters use."""


@pytest.mark.parametrize("name", sorted(STANDS_FOR))
def test_tensorrt_llms_stand_in_is_what_was_read(name):
    every = {one: said for names in RECORDS["tensorrt_llm"]["modules"].values() for one, said in names.items()}
    tree = ast.parse((VENDOR / "tensorrt_llm/llmapi.py").read_text())
    ours = SCRIPT.described(tree, (name,))[name]
    for own in OWN.get(name, "").split():
        del ours["methods"][own]
    if name == "BaseLLM":
        ours["fields"] = {}  # what tests turn
    if name == "CompletionOutput":
        ours["fields"]["token_ids"] = "[]"
    ours["fields"] = {one: default for one, default in ours["fields"].items() if not one.startswith("_")}
    assert not differences(name, ours, every[STANDS_FOR[name]])


def test_tensorrt_llms_stand_in_takes_only_arguments_that_there_are(monkeypatch):
    monkeypatch.syspath_prepend(str(VENDOR))
    from tensorrt_llm import llmapi

    every = {one: said for names in RECORDS["tensorrt_llm"]["modules"].values() for one, said in names.items()}
    for cls, known in RECORDS["tensorrt_llm"]["keywords"].items():
        fields = {field for name in known for field in every[name]["fields"]}
        assert getattr(llmapi, cls).valid <= fields, cls


def differences(name: str, ours: Any, theirs: Any) -> list[str]:
    """What the stand-in has otherwise, or has and the library has not."""
    if isinstance(ours, str):
        return [] if ours == theirs else [f"it has {name}{theirs}, the stand-in {ours}"]
    found = []
    for kind in ("fields", "methods"):
        for one, what in ours[kind].items():
            if one not in theirs[kind]:
                found.append(f"it has no {name}.{one}")
            elif theirs[kind][one] != what:
                found.append(f"it has {name}.{one} {theirs[kind][one]}, the stand-in {what}")
    return found
