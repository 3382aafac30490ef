"""Examples of the catalog as this machine can serve them: the same spec with a small model, no GPU and no base; and what
their READMEs say to ask them with.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from packager.command import run_command
from packager.lock.check import check
from packager.lock.drift import LAYER_FORMAT, lock_inputs
from packager.lock.lockfile import ImageBaseLock, Lock
from packager.lock.tools import Tools
from packager.lock.weights import lock_adapters, lock_weights
from packager.oci.inspect import read_base_facts
from packager.package.plan import plan_package
from packager.package.sources import read_ingredients
from packager.package.write import write_package
from packager.recipes import RECIPES
from packager.spec.load import SpecFile, load_spec
from packager.store import Store

from .bases import make_base
from .cli import ROOT, environment
from .installed import HUNG, run
from .machine import missing

EXAMPLES = ROOT / "examples"
CONTEXT = 512
"""Tokens that a small model has for prompt and answer: requests of READMEs have no other end."""
_OF_A_GPU = ("gpu_layers", "gpu_memory", "pipeline_parallel", "tensor_parallel")
_ON_CPU: Mapping[str, Mapping[str, Any]] = {
    "llama_cpp": {"threads": 1},
    "transformers": {"threads": 1},
    "vllm": {"eager": True, "kv_cache_gib": 0.125},  # to compile takes a minute
}


def small_package(example: str, folder: Path, weights: Path, **engine: Any) -> Path:
    """The package of `examples/EXAMPLE` with the small model in the folder `weights`, written into `folder`.

    Where the example takes its tokenizer from elsewhere, it lies in the folder `tokenizer` beside the weights.

    The rest of the spec stays: engine, number format, quantization, serving, chat template. The weights are locked
    from their folder by what locks them for users, and pass the gates; wheels are none, because an engine's
    environment has them (`make engines`). `engine` are options to run with instead.
    """
    spec = _small(yaml.safe_load((EXAMPLES / example / "packager.yaml").read_text()), weights, engine)
    folder.mkdir(parents=True)
    if template := spec["weights"].get("chat_template"):
        (folder / template).write_bytes((EXAMPLES / example / template).read_bytes())
    return package_of(spec, folder)


def package_of(spec: Mapping[str, Any], folder: Path) -> Path:
    """The package of a spec, written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "packager.yaml").write_text(yaml.safe_dump(dict(spec), sort_keys=False))
    file = load_spec(folder)
    check(file)
    tools = Tools(Store(folder / "store"), run_command, offline=True)
    package = folder / file.spec.name
    package.mkdir()
    write_package(plan_package(file.spec, _lock(file, tools), read_ingredients(file)), package, tools.store)
    return package


def _small(spec: dict[str, Any], weights: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    kind = spec["engine"]["kind"]
    engine = {name: value for name, value in spec["engine"].items() if name not in _OF_A_GPU}
    engine |= {"context_length": CONTEXT, **_ON_CPU.get(kind, {}), **options}
    asked = spec["weights"] | {"source": f"file://{weights}"}
    if "tokenizer" in asked:
        asked["tokenizer"] = f"file://{weights.with_name('tokenizer')}"
    small = spec | {"engine": engine, "weights": asked}
    small.pop("image", None)
    if spec.get("serving", {}).get("server") == "triton" or RECIPES[kind].vendor:
        small["image"] = {"base": {"kind": "layout", "path": "base.oci"}}
    if not RECIPES[kind].gpu_only:
        small.pop("hardware", None)
    return small


def _lock(file: SpecFile, tools: Tools) -> Lock:
    base = make_base()
    weights, tokenizer = lock_weights(file, tools)
    return Lock(
        layer_format=LAYER_FORMAT,
        inputs=lock_inputs(file.spec),
        base=ImageBaseLock("layout", base.manifest_digest),
        facts=read_base_facts(base),
        wheels=(),
        contests=(),
        requirements=(),
        weights=weights,
        tokenizer=tokenizer,
        adapters=lock_adapters(file, tools),
    )


def curl(*words: str) -> str:
    """What the real curl is answered; an error's status fails the test. Skips where there is none."""
    if shutil.which("curl") is None:
        missing("no curl (Debian's package of that name)")
    return run(["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "300", "--noproxy", "*", *words])


def ask_as_written(readme: Path, ports: Mapping[int, int], folder: Path) -> list[str]:
    """What is answered to a README's own lines: its Python, and what it types of curl, `packager chat` and `packager bench`.

    `ports` says where what it has on a port of localhost is found here. The lines run in `folder`.
    """
    text = re.sub(r"localhost:(\d+)", lambda found: f"127.0.0.1:{ports[int(found[1])]}", readme.read_text())
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines() if _TYPED.match(line)]
    asks = [partial(run, [sys.executable, "-W", "error", "-c", program], cwd=folder) for program in programs]
    asks += [partial(curl, *words[1:]) if words[0] == "curl" else partial(_packager, words, folder) for words in lines]
    assert asks, f"{readme} has no line to ask with"
    return [_answer(ask) for ask in asks]


def _answer(ask: Callable[[], str]) -> str:
    """The first of three answers with a letter in it: drawn from random weights, one in fifty ends before its first."""
    return next((said for _ in range(3) if (said := ask()).strip()), "")


_TYPED = re.compile(r" *(curl|packager (chat|bench)) .*127\.0\.0\.1:")


def _packager(words: list[str], folder: Path) -> str:
    """The command's own output; `chat` is told one thing."""
    argv = [sys.executable, "-m", "packager", *words[1:]]
    env = environment(folder / "cache")
    done = subprocess.run(
        argv, cwd=folder, env=env, input="Hello\n", capture_output=True, text=True, check=False, timeout=HUNG
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout
