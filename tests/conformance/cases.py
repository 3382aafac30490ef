"""The engines under test. A new adapter is one Case here, and one function in direct.py.

An engine runs where its library can be imported: each has an environment of its own (`make engines`), in
which `make test` runs this folder. PACKAGER_TEST_ENGINE picks one of them. A library that needs a GPU to be imported
has a stand-in (tests/fakes/vendor), and runs with that beside the tests: what a stand-in cannot show is left out by
name, and the reasons are printed.
"""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fakes.engines import make_setup
from fakes.models import Size, write_model
from fakes.standins import VENDOR, importable, write_compiled, write_hello, write_letters

from packager.runtime.engine import Engine
from packager.runtime.engines import open_engine

CONTEXT = 256
ROOT = Path(__file__).resolve().parents[2]
SLOTS = 4


@dataclass(frozen=True)
class Case:
    """One engine with one model.

    `weights` names the model: empty for none, `tiny` and `hello` are GGUF files, else an architecture of
    fakes.models, which `ctranslate2` gets converted (`NAME-int8`: to int8); `prequantized` is a saved NF4 model. `slow` are options that make it slow
    enough to be caught in the middle. `starts` is how often it is started and stopped in a row. With `whole` false
    it only runs the tests of text: one model of an engine proves the rest. `process` says that the engine has a
    process of its own. `shows_not` are tests that a stand-in for the library says nothing of, each with the reason; it
    is None for the library itself.
    """

    kind: str
    library: str
    options: dict[str, Any] = field(default_factory=dict)
    slow: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    quantization: str = "none"
    whole: bool = True
    starts: int = 10
    process: bool = False
    shows_not: Mapping[str, str] | None = None

    @property
    def id(self) -> str:
        quantization = self.quantization if self.quantization != "none" else ""
        parts = (self.kind, self.options.get("backend"), self.weights, quantization)
        return "-".join(filter(None, parts))

    def open(self, root: Path, *, slow: bool = False) -> Engine:
        """The adapter, not started; `root` is where models are made, once a session."""
        weights = make_weights(self.weights, self.kind, root)
        options = self.options | (self.slow if slow else {})
        with nullcontext() if self.shows_not is None else importable():
            return open_engine(self.kind, make_setup(weights, SLOTS, quantization=self.quantization, **options))

    def environment(self, package: Path) -> dict[str, str]:
        """What a process that serves `package` needs to find the library."""
        return {} if self.shows_not is None else {"PYTHONPATH": f"{package / 'packages'}{os.pathsep}{VENDOR}"}


_LLAMA_CPP = {"context_length": CONTEXT, "threads": 1}
_CTRANSLATE2 = {"context_length": CONTEXT, "threads": 1}
_TRANSFORMERS = {"threads": 1}
_VLLM = {"context_length": CONTEXT, "dtype": "float32", "eager": True, "kv_cache_gib": 0.125}
_GRAMMARS = "the stand-in has no grammars: it hands the form on, and answers freely"
_FREELY = dict.fromkeys(
    (
        "test_a_json_object",
        "test_a_json_schema",
        "test_a_json_schema_that_cannot_be_kept_is_refused_before_the_first_token",
        "test_a_regular_expression",
    ),
    _GRAMMARS,
)
_TENSORRT_LLM = {"context_length": CONTEXT}


def _lmdeploy(backend: str) -> Case:
    """The library itself where it is installed, which is where a GPU is."""
    options = {"backend": backend, "context_length": CONTEXT, "cache_share": 0.05}
    if find_spec("lmdeploy"):
        options["dtype"] = "float16"  # in bfloat16 two tokens are equally likely too often
        return Case("lmdeploy", "lmdeploy", options, weights="wide", starts=3)
    return Case("lmdeploy", "packager", options, weights="letters", shows_not=_FREELY)


ALL = [
    Case("echo", "packager", {"context_length": CONTEXT}, {"delay_ms": 20}),
    Case("llama_cpp", "xllamacpp", _LLAMA_CPP, {"batch": 32}, "tiny"),
    Case("llama_cpp", "xllamacpp", _LLAMA_CPP, {"batch": 32}, "hello"),
    Case("ctranslate2", "ctranslate2", _CTRANSLATE2, weights="llama"),
    Case("ctranslate2", "ctranslate2", _CTRANSLATE2, weights="llama-int8", whole=False),
    Case("ctranslate2", "ctranslate2", _CTRANSLATE2, weights="mistral", whole=False),
    Case("ctranslate2", "ctranslate2", _CTRANSLATE2, weights="qwen2", whole=False),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="llama", starts=3),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="mistral", whole=False),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="qwen2", whole=False),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="phi", whole=False),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="llama", quantization="int8", whole=False),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="llama", quantization="int4", whole=False),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="llama", quantization="nf4", whole=False),
    Case("transformers", "bitsandbytes", _TRANSFORMERS, weights="prequantized", whole=False),
    Case("vllm", "vllm", _VLLM, weights="llama", starts=1, process=True),
    Case("vllm", "vllm", _VLLM, weights="mistral", whole=False),
    Case("vllm", "vllm", _VLLM, weights="qwen2", whole=False),
    Case("vllm", "vllm", _VLLM, weights="phi", whole=False),
    *(_lmdeploy(backend) for backend in ("turbomind", "pytorch")),
    Case("tensorrt_llm_engine", "tokenizers", _TENSORRT_LLM, weights="compiled", shows_not={}),
    Case("tensorrt_llm", "tokenizers", _TENSORRT_LLM, weights="checkpoint", shows_not={}),
]
_CHOSEN = os.environ.get("PACKAGER_TEST_ENGINE")
CASES = [case for case in ALL if _CHOSEN in (None, case.kind) and find_spec(case.library)]


_WIDE = Size(width=256, hidden=512, head=64)
"""Heads as wide as TurboMind's attention has at least."""
_STAND_INS = {
    "letters": write_letters,
    "compiled": lambda folder, _: write_compiled(folder),
    "checkpoint": write_hello,
}
"""Weights that the stand-ins open."""


def make_weights(name: str, kind: str, root: Path, context: int = CONTEXT) -> Path | None:
    """The model `name` as the engine `kind` opens it, for `context` tokens, made below `root` unless it is there."""
    if not name:
        return None
    if name == "hello":
        return ROOT / "examples/hello/hello.gguf"
    if name == "tiny":
        from fakes.gguf import write_tiny_gguf

        path = root / "tiny.gguf"
        return path if path.exists() else write_tiny_gguf(path, context_length=max(context, 2 * CONTEXT))
    if kind == "ctranslate2":
        from fakes.converted import convert

        folder, (shape, _, quantization) = root / f"converted-{name}", name.partition("-")
        source = make_weights(shape, "", root, context)
        return folder if folder.exists() else convert(source, folder, quantization or "float32")
    if name in _STAND_INS:
        folder = root / name
        return folder if folder.exists() else _STAND_INS[name](folder, context)
    if name == "prequantized":
        from fakes.quantized import quantize

        return quantize(make_weights("llama", "", root, context), root / name)
    folder = root / name
    if not (folder / "config.json").exists():
        shape, size = ("llama", _WIDE) if name == "wide" else (name, Size())
        write_model(folder, shape, size=size, context_length=context)
    return folder
