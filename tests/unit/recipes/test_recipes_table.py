"""The table of recipes is whole, and a recipe is plain facts."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from fakes.locks import make_spec
from packaging.requirements import Requirement
from packaging.version import Version

from packager import recipes
from packager.lock.drift import engine_version, python_requirements, system_packages
from packager.recipes import RECIPES
from packager.recipes.servers import REQUIREMENTS, SYSTEM_PACKAGES
from packager.spec.engine import EngineSpec
from packager.spec.model import NO_WEIGHTS, Quantization
from packager.spec.serving import ServingSpec
from packager.spec.shape import models_in, tag_of

FOLDER = Path(recipes.__file__).parent
ENGINES = tuple(tag_of(model) for model in models_in(EngineSpec))


def test_table_and_spec_and_files_name_the_same_engines():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "recipe", "servers"}
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
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in recipe.system_packages)


@pytest.mark.parametrize("engine", ENGINES)
def test_requirements_pin_the_engine(engine):
    recipe = RECIPES[engine]
    for asked, expected in ((None, recipe.default_version), ("1.2.3", "1.2.3")):
        found = [Requirement(line) for line in recipe.requirements(asked, "none")]
        if recipe.distribution is not None:
            assert str(found[0]) == f"{recipe.distribution}=={expected}"
        assert all(one.url is None for one in found)


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


def test_the_engines_version():
    pinned = make_spec(weights={"source": "file://m"}, engine={"kind": "llama_cpp", "version": "2026.1.1"})
    assert engine_version(pinned) == "2026.1.1"
    assert engine_version(make_spec()) == RECIPES["echo"].default_version


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_recipes_open_run_and_ask_nothing(path):
    allowed = {"collections.abc", "dataclasses", "recipe", ""}
    tree = ast.parse(path.read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= allowed
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
