"""Record the signatures of what an adapter uses of an engine that cannot be installed where the tests run.

    python .ci/signatures.py ENGINE [VERSION]    write tests/signatures/ENGINE.json anew from the published wheel

Read from the wheel's source, which nothing imports. The stand-ins in tests/fakes have these signatures (a test compares
them), and the adapters' tests run on those: a call or a keyword that a new version drops fails with its name.
"""

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "signatures"

LMDEPLOY = {
    "lmdeploy/messages.py": ("GenerationConfig", "TurbomindEngineConfig", "PytorchEngineConfig", "QuantPolicy"),
    "lmdeploy/serve/core/async_engine.py": ("GenOut", "PreprocessedRequest", "AsyncEngine"),
    "lmdeploy/serve/core/exceptions.py": ("ErrorCode", "RequestError"),
    "lmdeploy/serve/managers/session_manager.py": ("Session", "SessionManager"),
    "lmdeploy/tokenizer.py": ("HuggingFaceTokenizer", "Tokenizer"),
    "lmdeploy/turbomind/__init__.py": ("is_available",),
    "lmdeploy/turbomind/supported_models.py": ("is_supported",),
    "lmdeploy/turbomind/turbomind.py": ("TurboMind",),
    "lmdeploy/pytorch/engine/engine.py": ("Engine",),
    "lmdeploy/utils.py": ("get_logger",),
}
USED: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {"lmdeploy": ("lmdeploy", LMDEPLOY)}
"""Engine -> its distribution, and the modules and names in them that its adapter reaches."""


def described(tree: ast.Module, names: tuple[str, ...]) -> dict[str, Any]:
    """Of each of `names` in the module: a function's parameters, or a class's fields, attributes and methods.

    Annotations and docstrings are left out. Raises KeyError for a name that the module lacks.
    """
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return {name: _described(nodes[name]) for name in names}


def _described(node: ast.ClassDef | ast.FunctionDef) -> Any:
    if isinstance(node, ast.FunctionDef):
        return _parameters(node)
    functions = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        "fields": dict(_fields(node)),
        "attributes": sorted({name for one in functions if one.name == "__init__" for name in _set(one)}),
        "methods": {
            one.name: _parameters(one) for one in functions if not one.name.startswith("_") or one.name == "__init__"
        },
    }


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """`async (self, a, b=1)`."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    for one in every:
        if one is not None:
            one.annotation = None
    return f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}({ast.unparse(node.args)})"


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str | None]]:
    """Each name that the class's body gives a value, or only announces."""
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            yield one.target.id, None if one.value is None else ast.unparse(one.value)
        elif isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            yield one.targets[0].id, ast.unparse(one.value)


def _set(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The attributes of `self` that the function sets."""
    for one in ast.walk(node):
        targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
        flat = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
        for target in flat:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                yield target.attr


def main(engine: str, version: str = "") -> int:
    from wheels import published

    sys.path.insert(0, str(ROOT))
    from packager.recipes import RECIPES

    distribution, modules = USED[engine]
    with published(distribution, version or RECIPES[engine].default_version) as wheel:
        said = {path: described(wheel.module(path), names) for path, names in modules.items()}
        record = {"version": wheel.version, "wheel": wheel.file, "sha256": wheel.sha256, "modules": said}
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{engine}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(f"tests/signatures/{engine}.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
