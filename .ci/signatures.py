"""Record the signatures of what an adapter uses of an engine that cannot be installed where the tests run.

    python .ci/signatures.py ENGINE              write tests/signatures/ENGINE.json anew from the published wheel
    python .ci/signatures.py ENGINE VERSION      the same of another version, as tests/signatures/ENGINE-VERSION.json
    python .ci/signatures.py ENGINE VERSION -n   write nothing: say what the adapter uses that this version does not have

Read from the wheel's source, which nothing imports. The stand-ins in tests/fakes have these signatures, and every call,
keyword and attribute of the adapters is looked up in every record: what a version drops fails with its name
(tests/unit/runtime/engines/test_engines_signatures.py).
"""

import ast
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
READ: Mapping[str, Mapping[str, str]] = {
    "lmdeploy": {
        "AsyncEngine": "backend engine session_len session_mgr tokenizer start_loop preprocess generate close",
        "Engine": "get_health_status",
        "GenOut": "response token_ids finish_reason logprobs",
        "HuggingFaceTokenizer": "model",
        "PreprocessedRequest": "gen_config",
        "RequestError": "code message",
        "Session": "async_abort",
        "SessionManager": "get remove",
        "Tokenizer": "model encode",
        "TurboMind": "get_health_status",
    },
    "tensorrt_llm": {
        "BaseLLM": "_executor generate_async shutdown",
        "CompletionOutput": "token_ids_diff finish_reason",
        "GenerationExecutorProxy": "mpi_futures",
        "GenerationResult": "abort __anext__",
        "GenerationResultBase": "outputs",
        "RequestError": "",
    },
}
"""Engine -> what its adapter reads and calls of objects that are the library's, by their class."""


@dataclass(frozen=True)
class Call:
    """A call of something of this name (a class's, a function's or a method's), with these keywords."""

    where: str
    name: str
    keywords: frozenset[str]


def calls(path: Path, library: str) -> Iterator[Call]:
    """Every call in the module at `path` that may be one of the library's, with the keywords that its source shows."""
    tree = ast.parse(path.read_text("utf-8"))
    theirs = {one.asname or one.name: one.name for _, one in imports(tree, library)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else theirs.get(node.func.id)
        if name is not None:
            yield Call(f"{path.name}:{node.lineno}", name, frozenset(one.arg for one in node.keywords if one.arg))


def used(engine: str) -> Iterator[Call]:
    """Every call that the engine's adapter makes, also those whose keywords it hands over as a mapping."""
    from packager.runtime.engine import EngineSetup, SamplingParams
    from packager.runtime.engines import lmdeploy_options as lmdeploy
    from packager.runtime.engines import tensorrt_llm_options as tensorrt
    from packager.weights.compiled import Limits

    for path in adapter(engine):
        yield from calls(path, engine)
    setup = EngineSetup("x", "1", {}, None, 1)
    if engine == "lmdeploy":
        for backend, name in ((lmdeploy.TURBOMIND, "TurbomindEngineConfig"), (lmdeploy.PYTORCH, "PytorchEngineConfig")):
            words = lmdeploy.config_words(setup, lmdeploy.LmdeployOptions(backend=backend))
            yield Call("lmdeploy_options.py", name, frozenset(words))
        return
    where, options = "tensorrt_llm_options.py", tensorrt.TensorrtOptions()
    both = tensorrt.llm_arguments(setup, options)
    yield Call(where, "_TrtLLM", frozenset(both | tensorrt.compiled_arguments(Limits(1, 1, 1, 1, 1))))
    yield Call(where, "LLM", frozenset(both | tensorrt.pytorch_arguments(64)))
    yield Call(where, "KvCacheConfig", frozenset(tensorrt.cache_arguments(options)))
    asked = SamplingParams(8, 0.5, 0.5, 5, 0.1, 3, 0.5, 0.5, 1.1)
    yield Call(
        where, "SamplingParams", frozenset(tensorrt.sampling_words(asked, 9, (1, 2), tensorrt.COMPILED_SAMPLING))
    )


def imports(tree: ast.Module, library: str) -> Iterator[tuple[str, ast.alias]]:
    """Each name of each `from LIBRARY.x import ...`, with its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == library:
            yield from ((node.module or "", one) for one in node.names)


def lacking(record: Mapping[str, Any], read: Mapping[str, str], called: Iterable[Call]) -> list[str]:
    """What is `read` and `called` that the recorded version does not have, each by its name."""
    every = {name: said for names in record["modules"].values() for name, said in names.items()}
    found = []
    for name, parts in read.items():
        if name not in every:
            found.append(f"no {name}")
            continue
        said = every[name]
        known = {*said["fields"], *said["attributes"], *said["methods"]}
        found += [f"no {name}.{one}" for one in parts.split() if one not in known]
    taken = _taken(record)
    for call in called:
        choices = taken.get(call.name, [])
        if choices and not any(call.keywords <= one for one in choices):
            most = max(choices, key=lambda one: len(call.keywords & one))
            found += [f"no {call.name}({one}=), which {call.where} says" for one in sorted(call.keywords - most)]
    return found


def _taken(record: Mapping[str, Any]) -> dict[str, list[set[str]]]:
    """The keywords that whatever has this name takes: named ones alone, for what goes into a `**kwargs` gets lost."""
    every = {name: said for names in record["modules"].values() for name, said in names.items()}
    taken: dict[str, list[set[str]]] = {}
    for name, said in every.items():
        if isinstance(said, str):
            taken.setdefault(name, []).append(_named(said))
            continue
        whole = set(said["fields"]) | (_named(said["methods"]["__init__"]) if "__init__" in said["methods"] else set())
        for other in record.get("keywords", {}).get(name, ()):
            whole |= set(every[other]["fields"])
        taken.setdefault(name, []).append(whole)
        for method, parameters in said["methods"].items():
            taken.setdefault(method, []).append(_named(parameters))
    return taken


def _named(parameters: str) -> set[str]:
    function = ast.parse(f"def f{parameters.removeprefix('async ')}: pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    return {one.arg for one in (*function.args.args, *function.args.kwonlyargs)}


def described(tree: ast.Module, names: tuple[str, ...]) -> dict[str, Any]:
    """Of each of `names` in the module: a function's parameters, or a class's fields, attributes and methods.

    Annotations and docstrings are left out, and a name that the module does not define.
    """
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return {name: _described(nodes[name]) for name in names if name in nodes}


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


def main(engine: str, version: str = "", only_say: str = "") -> int:
    from wheels import published

    sys.path.insert(0, str(ROOT))
    from packager.recipes import RECIPES

    distribution, modules = USED[engine]
    with published(distribution, version or RECIPES[engine].default_version) as wheel:
        said = {path: described(wheel.module(path), names) for path, names in modules.items()}
        record = {"version": wheel.version, "wheel": wheel.file, "sha256": wheel.sha256, "modules": said}
    if only_say:
        found = lacking(record, READ[engine], used(engine))
        print("\n".join(f"{engine} {version} has {one}" for one in found) or f"{engine} {version} has all that is used")
        return int(bool(found))
    target = FOLDER / (f"{engine}-{version}.json" if version else f"{engine}.json")
    target.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(f"tests/signatures/{target.name}", file=sys.stderr)
    return 0


def adapter(engine: str) -> list[Path]:
    """The modules of the engine's adapter."""
    return sorted((ROOT / "packager/runtime/engines").glob(f"{engine}*.py"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
