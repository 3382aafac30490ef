"""A spec, its lock and what a package copies, small and without bytes behind them."""

from typing import Any

from packager.debian.resolve import DebianPackage, DebianRelease
from packager.facts import BaseFacts
from packager.lock.drift import LAYER_FORMAT, lock_inputs
from packager.lock.lockfile import DebianBaseLock, Lock, WeightsLock
from packager.manifest import WeightsFile
from packager.package.plan import Ingredients
from packager.spec.model import ModelSpec
from packager.wheels.contest import Contest
from packager.wheels.wheel import Wheel

FACTS = BaseFacts(
    architecture="amd64",
    interpreter="/usr/bin/python3.11",
    python="3.11.2",
    site="/usr/local/lib/python3.11/dist-packages",
    scripts="/usr/local/bin",
    glibc="2.36",
    installed={"numpy": "2.1.0", "absl-py": "2.1"},
)
BASE = DebianBaseLock(
    DebianRelease("debian", "bookworm", "amd64"),
    (DebianPackage("base-files", "12.4", "amd64", "base-files_12.4_amd64.deb", 70_000, "1" * 64),),
)
INGREDIENTS = Ingredients(
    templates={"service.py": b"# service\n", "model/model.py": b"# model\n"},
    runtime={"__init__.py": b"", "runtime/serve.py": b"# serve\n"},
    chat_template=None,
    version="1.2.3",
)


VLLM = {
    "engine": {"kind": "vllm"},
    "weights": {"source": "file://model", "adapters": [{"name": "tuned", "source": "file://lora"}]},
    "hardware": {"gpu": "l4"},
}
"""The fields of a spec with a folder of weights and a LoRA adapter."""


def make_spec(**fields: Any) -> ModelSpec:
    """A spec of the echo engine, or of llama.cpp when there are weights."""
    kind = "llama_cpp" if "weights" in fields else "echo"
    return ModelSpec.model_validate({"name": "hello", "engine": {"kind": kind}, **fields})


def make_wheels() -> tuple[Wheel, ...]:
    """Two that a layer shares at least, and one large enough for its own."""
    sizes = {"alpha": 1000, "beta": 2000, "torch": 900_000_000}
    return tuple(
        Wheel(name, "1.0", f"{name}-1.0-py3-none-any.whl", size, format(number, "064x"))
        for number, (name, size) in enumerate(sizes.items(), 10)
    )


def make_lock(spec: ModelSpec, **fields: Any) -> Lock:
    """The lock of `spec`; weights, tokenizer and adapters are two files each, one of the weights' large."""
    weights = None
    if spec.weights is not None:
        names = ("config.json", "model.safetensors") if spec.engine.kind == "vllm" else ("tokenizer.json", "model.gguf")
        small, large = WeightsFile(names[0], 12, "b" * 64), WeightsFile(names[1], 70_000_000, "a" * 64)
        files = tuple(sorted((small, large), key=lambda file: file.path))
        weights = WeightsLock(spec.weights.source, "", files)
    tokenizer = None
    if spec.weights is not None and spec.weights.tokenizer is not None:
        files = (WeightsFile("tokenizer.json", 20, "c" * 64), WeightsFile("tokenizer_config.json", 30, "d" * 64))
        tokenizer = WeightsLock(spec.weights.tokenizer, "c0ffee", files)
    adapter = (
        WeightsFile("adapter_config.json", 10, "e" * 64),
        WeightsFile("adapter_model.safetensors", 1_000_000, "f" * 64),
    )
    defaults: dict[str, Any] = {
        "layer_format": LAYER_FORMAT,
        "inputs": lock_inputs(spec),
        "base": BASE,
        "facts": FACTS,
        "wheels": make_wheels(),
        "contests": (Contest("etc/shared.txt", "beta", ("alpha",)),),
        "requirements": ("alpha==1.0 \\", "    --hash=sha256:" + "c" * 64),
        "weights": weights,
        "tokenizer": tokenizer,
        "adapters": {
            one.name: WeightsLock(one.source, "", adapter) for one in (spec.weights.adapters if spec.weights else ())
        },
    }
    return Lock(**{**defaults, **fields})
