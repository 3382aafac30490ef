"""The structure as tests: who may import whom, what is pure, how long things may get.

A new edge between floors is a line changed here, so that it is seen in review.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from packager.package.sources import runtime_files

PACKAGE = Path(__file__).resolve().parent.parent / "packager"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8"), name) for name, path in MODULES.items()}

WORDS = {"errors", "digest", "environ", "facts", "command", "web", "store", "manifest"}
# Floor by floor: what each unit may import of packager, beside itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "digest": {"errors"},
    "environ": {"errors"},
    "facts": {"errors"},
    "command": {"errors"},
    "web": {"errors"},
    "store": {"errors", "digest"},
    "manifest": {"errors", "digest"},
    "spec": WORDS,
    "oci": WORDS,
    "weights": WORDS,
    "wheels": WORDS,
    "debian": WORDS,
    "recipes": WORDS | {"spec", "oci", "weights", "wheels", "debian"},
    "runtime": WORDS | {"weights"},
    "fetch": WORDS | {"weights", "runtime"},
    "upkeep": WORDS | {"weights"},
    "catalog": WORDS | {"spec"},
    "bench": WORDS,
    "upload": WORDS | {"weights"},
    "lock": WORDS | {"spec", "oci", "weights", "wheels", "debian", "recipes"},
    "sizing": WORDS | {"spec", "recipes", "lock"},
    "package": WORDS | {"spec", "oci", "weights", "wheels", "debian", "recipes", "lock"},
    "convert": WORDS | {"spec", "weights", "recipes", "runtime", "lock", "package"},
    "image": WORDS | {"spec", "oci", "weights", "wheels", "debian", "recipes", "lock", "package"},
    "pipeline": WORDS | {"spec", "oci", "weights", "wheels", "debian", "recipes", "lock", "package", "image"},
}
TOP = {"cli", "__init__", "__main__"}

PURE = (
    "lock/check.py", "lock/drift.py", "lock/gates.py", "lock/hardware.py", "lock/lockfile.py", "lock/model.py",
    "convert/docker.py", "convert/plan.py", "package/plan.py", "package/text.py", "image/plan.py", "image/envelope.py",
    "wheels/contest.py", "wheels/group.py", "weights/compiled.py", "recipes/", "bench/report.py", "upload/plan.py", "sizing/",
)  # fmt: skip
EFFECTS = {
    "asyncio",
    "http",
    "httpx",
    "os",
    "random",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}

# Borders that hand on whatever comes, and may therefore catch it without raising.
BORDERS = {
    "cli/app.py": "turns every failure into words and an exit code",
    "runtime/engines/transformers_batching.py": "a failed forward, whatever it is, goes to the streams that wait for it",
    "runtime/engines/tensorrt_llm_streams.py": "what the library raises for a request goes to the stream that waits for it",
    "runtime/supervise.py": "an engine that fails to start, however, is a failed load: state, log, exit code",
    "weights/fetch.py": "carries a worker's failure to the thread that waits for the fetch",
    "runtime/threads.py": "carries a thread's failure to the event loop that awaits it",
}

STEPS = ("convert/merge.py", "convert/tensorrt_llm.py")
"""Programs that run in the Python of a vendor's image; nothing here imports them."""

LONGEST_FUNCTION, LONGEST_MODULE, MOST_PARAMETERS = 60, 400, 6
RECORDS = "recipes/records/"
"""What .ci/record.py writes, one name a line."""


def unit(name: str) -> str:
    """The floor unit of a module: its folder, or its own name at the top."""
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


def imports_of(name: str) -> set[str]:
    """Full dotted names, below packager, that the module imports anywhere in it."""
    here = name.removesuffix(".py").split("/")
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            target = [*base, *(node.module.split(".") if node.module else [])]
            found |= {"/".join(target)} if node.module else {"/".join([*target, alias.name]) for alias in node.names}
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name) not in TOP])
def test_imports_stay_on_their_floor(name: str) -> None:
    mine = unit(name)
    assert mine in ALLOWED, f"{mine} has no floor yet: give it one in ALLOWED and in docs/architecture/02-tree.md"
    reached = {target.split("/")[0] for target in imports_of(name)} - {mine, ""}
    assert reached <= ALLOWED[mine], f"packager/{name} reaches above its floor: {sorted(reached - ALLOWED[mine])}"


@pytest.mark.parametrize("name", list(MODULES))
def test_nothing_inside_imports_packager_by_name(name: str) -> None:
    for node in ast.walk(TREES[name]):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert not any(one.split(".")[0] == "packager" for one in names), f"packager/{name}:{node.lineno}"


def test_no_import_cycles() -> None:
    graph = {name: {target for target in _targets(name) if target in MODULES} for name in MODULES}
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        assert name not in path, f"import cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for target in sorted(graph[name]):
            visit(target)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def _targets(name: str) -> set[str]:
    """Files that the module imports when it is loaded (not inside functions)."""
    here = name.removesuffix(".py").split("/")
    found = set()
    for node in TREES[name].body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = "/".join(here[: len(here) - node.level] + (node.module.split(".") if node.module else []))
            for candidate in (base, *(f"{base}/{alias.name}" for alias in node.names)):
                found |= {f"{candidate}.py".lstrip("/"), f"{candidate}/__init__.py".lstrip("/")}
    return found - {name}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(PURE)])
def test_plans_are_pure(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            reached = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            reached = {(node.module or "").split(".")[0]}
        else:
            called = isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", ""))
            assert called not in {"open", "read_bytes", "read_text", "write_bytes", "write_text"}, (
                f"{name}:{node.lineno}"
            )
            continue
        assert not reached & EFFECTS, f"packager/{name} imports {sorted(reached & EFFECTS)}: a plan has no effects"


def test_engines_are_imported_by_their_adapters_only() -> None:
    engines = {"xllamacpp", "vllm", "transformers", "ctranslate2", "torch", "tensorrt_llm", "lmdeploy", "bentoml"}
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            reached = {one.split(".")[0] for one in names} & engines
            at_home = name.startswith("runtime/engines/") or name in ("runtime/server/bento.py", *STEPS)
            assert at_home or not reached, f"packager/{name} imports {sorted(reached)}"


def test_the_tail_of_the_code_is_held() -> None:
    found = []
    for name, path in MODULES.items():
        lines = path.read_text("utf-8").count("\n")
        if lines > LONGEST_MODULE and not name.startswith(RECORDS):
            found.append(f"packager/{name} has {lines} lines")
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [f"packager/{name}:{node.lineno} {node.name} {why}" for why in _excess(node)]
            if isinstance(node, ast.ExceptHandler) and _swallows(node) and name not in BORDERS:
                found.append(f"packager/{name}:{node.lineno} a broad handler that does not raise")
    assert not found, "\n".join(found)


def _excess(node: "ast.FunctionDef | ast.AsyncFunctionDef") -> list[str]:
    size = (node.end_lineno or node.lineno) - node.lineno + 1
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = len([one for one in arguments if one.arg not in ("self", "cls")])
    why = [f"has {size} lines"] if size > LONGEST_FUNCTION else []
    return why + ([f"takes {count} parameters"] if count > MOST_PARAMETERS else [])


def _swallows(node: ast.ExceptHandler) -> bool:
    broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
    return broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))


def test_the_container_side_stands_alone_under_another_name(tmp_path: Path) -> None:
    """Copied away, with no packager in reach, every module of the container side but the optional ones imports."""
    for path, data in runtime_files().items():
        target = tmp_path / "elsewhere" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    adapters = ("engines/llama_cpp.py", "engines/ctranslate2.py", "engines/converted.py", "engines/chat_template.py")
    adapters += tuple(
        f"engines/vllm{part}.py" for part in ("", "_executors", "_family", "_native", "_process", "_requests")
    )
    optional = (*adapters, "server/bento.py", "__main__.py")
    modules = [path for path in runtime_files() if path.endswith(".py") and not path.endswith(optional)]
    modules = [
        path
        for path in modules
        if not any(f"engines/{one}" in path for one in ("transformers", "lmdeploy", "tensorrt_llm"))
    ]
    names = [f"elsewhere.{path.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__") for path in modules]
    code = (
        "import importlib, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'packager': raise ImportError('packager is not in the container')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"for name in {sorted(names)!r}: importlib.import_module(name)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_container_side_needs_only_what_its_packages_require() -> None:
    """`recipes/servers.py` names every distribution that the container side imports."""
    from packager.recipes.servers import LOADING, REQUIREMENTS

    distribution = {"prometheus_client": "prometheus-client"}
    # And their recipes' companions.
    engines = {"xllamacpp", "bentoml", "vllm", "psutil", "transformers", "torch", "lmdeploy", "tensorrt_llm"}
    engines |= {"ctranslate2", "numpy", "tokenizers", "jinja2", "pynvml"}
    engines |= {"huggingface_hub"}  # weights/hub.py, where weights are locked: on the host
    required = [*REQUIREMENTS["standalone"], *(one for more in LOADING.values() for one in more)]
    named = {requirement.split(">")[0] for requirement in required}
    for name in [name for name in MODULES if name.startswith(("runtime/", "weights/"))]:
        for node in ast.walk(TREES[name]):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            foreign = {one.split(".")[0] for one in names} - sys.stdlib_module_names - engines
            missing = {distribution.get(one, one) for one in foreign} - named
            assert not missing, f"packager/{name} imports {sorted(missing)}, which no package requires"
