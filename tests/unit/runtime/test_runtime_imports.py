"""What the container side may import: the standard library, a few light distributions, and itself, relatively."""

import ast
import sys
from pathlib import Path

import pytest
from fakes.packages import ROOT

RUNTIME = ROOT / "packager/runtime"
LIGHT = {"orjson", "prometheus_client", "uvicorn", "uvloop"}
ONLY_IN: dict[str, str | tuple[str, ...]] = {
    "bentoml": "server/bento.py",
    "ctranslate2": "engines/ctranslate2",
    "jinja2": ("engines/chat_template", "engines/vllm"),
    "lmdeploy": "engines/lmdeploy",
    "numpy": ("engines/ctranslate2", "server/triton_"),
    "psutil": "engines/vllm",
    "pynvml": "machine.py",
    "tensorrt_llm": "engines/tensorrt_llm",
    "tokenizers": "engines/",
    "torch": "engines/transformers",
    "transformers": "engines/transformers",
    "vllm": "engines/vllm",
    "xllamacpp": "engines/llama_cpp",
}
"""Where an optional library may be imported: files whose path begins so."""
OURS = {"digest", "environ", "errors", "manifest", "store", "weights", "runtime"}


def imports(path: Path):
    """Each import of the file as (levels up from packager, module): level 0 is absolute."""
    depth = len(path.relative_to(ROOT / "packager").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = depth - node.level
            level = 1 if node.level and above == 0 else 2 if node.level else 0
            yield from ((level, node.module or alias.name) for alias in node.names)


def test_the_container_side_stands_alone():
    strangers = set()
    for path in sorted(RUNTIME.rglob("*.py")):
        name = path.relative_to(RUNTIME).as_posix()
        for level, module in imports(path):
            top = module.split(".")[0]
            allowed = {
                0: top in sys.stdlib_module_names or top in LIGHT or name.startswith(ONLY_IN.get(top, "-")),
                1: top in OURS,
                2: True,
            }[level]
            if not allowed:
                strangers.add((name, module))
    assert strangers == set()


@pytest.mark.parametrize("library", ["lmdeploy", "vllm"])
def test_what_a_library_reads_when_it_is_imported_is_set_before(library):
    """huggingface_hub, for one, never looks at HF_HUB_OFFLINE again."""
    setting = f"{library}_environment"
    seen = 0
    for path in sorted((RUNTIME / "engines").glob(f"{library}*.py")):
        if path.name == "vllm_executors.py":  # which vLLM imports
            continue
        modules = [module for _, module in imports(path)]
        theirs = [place for place, module in enumerate(modules) if module.split(".")[0] == library]
        if theirs:
            assert setting in modules[: theirs[0]], path.name
            seen += 1
    assert seen > 1
