"""Folders as TensorRT-LLM 1.2 writes them (without an engine in them), and the software that is to have written them."""

import hashlib
import json
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TENSORRT, TENSORRT_LLM = "10.14.1.48", "1.2.1"


def config(world_size: int = 1, **changed: Any) -> dict[str, Any]:
    """config.json, with the keys of 1.2's EngineConfig.to_dict that we read and some that we do not."""
    value: dict[str, Any] = {
        "version": TENSORRT_LLM,
        "pretrained_config": {
            "architecture": "MistralForCausalLM",
            "dtype": "bfloat16",
            "vocab_size": 32000,
            "quantization": {"quant_algo": None, "kv_cache_quant_algo": None, "group_size": 128},
            "mapping": {
                "world_size": world_size,
                "gpus_per_node": 8,
                "cp_size": 1,
                "tp_size": world_size,
                "pp_size": 1,
                "moe_tp_size": world_size,
                "moe_ep_size": 1,
            },
        },
        "build_config": {
            "max_input_len": 2048,
            "max_seq_len": 4096,
            "opt_batch_size": 8,
            "max_batch_size": 16,
            "max_beam_width": 1,
            "max_num_tokens": 8192,
            "kv_cache_type": "PAGED",
            "strongly_typed": True,
            "plugin_config": {
                "gemm_plugin": "auto",
                "lora_plugin": None,
                "context_fmha": True,
                "remove_input_padding": True,
            },
            "lora_config": {"lora_dir": []},
        },
    }
    for place, one in changed.items():
        put(value, place.replace("__", "."), one)
    return value


def put(value: dict[str, Any], place: str, one: Any) -> None:
    """Set `a.b.c`; Ellipsis removes it."""
    *path, last = place.split(".")
    for key in path:
        value = value[key]
    if one is ...:
        del value[last]
    else:
        value[last] = one


def write_engine(folder: Path, world_size: int = 1, **changed: Any) -> Path:
    """A folder with config.json, an engine for each rank, and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(world_size, **changed), indent=4))
    for rank in range(world_size):
        (folder / f"rank{rank}.engine").write_bytes(b"plan of rank %d" % rank)
    (folder / "tokenizer.json").write_text("{}")
    return folder


SOFTWARE: Mapping[str, str] = {"tensorrt": TENSORRT, "tensorrt_llm": TENSORRT_LLM}


def install(site: Path, software: Mapping[str, str] = SOFTWARE) -> Path:
    """Metadata of distributions, as pip leaves it; there is nothing to import."""
    for name, version in software.items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    return site


def make_environment(folder: Path, software: Mapping[str, str] = SOFTWARE) -> Path:
    """The Python of a virtual environment that has this software, and imports whatever this process does."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "this_process.pth").write_text("".join(f"{path}\n" for path in sys.path if Path(path).is_dir()))
    install(site, software)
    return folder / "bin/python"


def description(world_size: int = 1) -> dict[str, Any]:
    """An engine.json, as engines of an A100 have it."""
    ranks = {f"rank{rank}.engine": {"sha256": f"{rank:064x}", "size": 100 + rank} for rank in range(world_size)}
    return {
        "schema": 1,
        "kind": "tensorrt_llm_engine",
        "tensorrt_llm": TENSORRT_LLM,
        "tensorrt": TENSORRT,
        "cuda": "13.1",
        "driver_build": "580.159.04",
        "gpu": {"name": "NVIDIA A100-SXM4-40GB", "sm": "8.0", "memory_mib": 40960, "count": world_size},
        "os": "linux-x86_64",
        "image": "registry.example.com/tensorrt-llm@sha256:" + "0" * 64,
        "mapping": {"world_size": world_size, "tp": world_size, "pp": 1, "cp": 1},
        "limits": {
            "max_batch_size": 16,
            "max_input_len": 2048,
            "max_seq_len": 4096,
            "max_num_tokens": 8192,
            "max_beam_width": 1,
        },
        "dtype": "bfloat16",
        "quant_algo": None,
        "kv_cache_quant_algo": None,
        "lora": False,
        "source_model": {"repo": "mistralai/Mistral-7B-Instruct-v0.2", "revision": "a" * 40},
        "tokenizer_sha256": "b" * 64,
        "files": {"config.json": {"sha256": "c" * 64, "size": 10}, **ranks},
    }


def describe_engine(folder: Path, **changed: Any) -> None:
    """Write the engine.json that fits the folder's files, but for what is `changed`."""
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in folder.iterdir()
        if path.name != "engine.json"
    }
    (folder / "engine.json").write_text(json.dumps({**description(), "files": files, **changed}))
