"""The spec's words for vLLM, in the words of its AsyncEngineArgs. Pure: nothing of vLLM is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine import EngineSetup

MOST_LOGPROBS = 20
"""Alternatives a token, vLLM's own default; more makes every step of every request slower."""
_GIB = 2**30
_CPU_CACHE_GIB = 1.0
"""Without a size vLLM on CPU takes nearly all of the machine's memory."""
_ONLINE = {"fp8": "fp8", "nf4": "bitsandbytes"}
"""What vLLM can do to plain weights while it loads them; every other format stands in the weights' own config."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """The spec's words; see VllmSpec."""

    context_length: int | None = None
    dtype: str = "auto"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu_memory: float = 0.92
    kv_cache: str = "auto"
    kv_cache_gib: float | None = None
    prefix_caching: bool = True
    eager: bool = False
    max_lora_rank: int = 16
    tool_parser: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the engine runs, and on what: `cpu` without a GPU, `quantized` when the weights' config names a method.

    `gguf` is the file to open for `quantization: gguf`.
    """

    cpu: bool
    quantized: bool
    gguf: Path | None = None


def engine_arguments(setup: EngineSetup, options: VllmOptions, place: Place) -> dict[str, Any]:
    """The keywords for AsyncEngineArgs."""
    return {
        "model": str(setup.weights),
        "served_model_name": setup.model,
        "trust_remote_code": setup.own_code,
        "max_model_len": options.context_length,
        "dtype": options.dtype,
        "quantization": None if place.quantized else _ONLINE.get(setup.quantization),
        "tensor_parallel_size": options.tensor_parallel,
        "pipeline_parallel_size": options.pipeline_parallel,
        "gpu_memory_utilization": options.gpu_memory,
        "kv_cache_dtype": options.kv_cache,
        "kv_cache_memory_bytes": _cache_bytes(options, place),
        "enable_prefix_caching": options.prefix_caching,
        "enforce_eager": options.eager,
        "max_num_seqs": setup.slots,
        "max_logprobs": MOST_LOGPROBS,
        "use_tqdm_on_load": False,
        **_gguf(setup, place),
        **_executor(options, place),
        **_lora(setup, options),
    }


def _cache_bytes(options: VllmOptions, place: Place) -> int | None:
    gib = options.kv_cache_gib or (_CPU_CACHE_GIB if place.cpu else None)
    return None if gib is None else int(gib * _GIB)


def _gguf(setup: EngineSetup, place: Place) -> dict[str, Any]:
    """The file is the model; its plugin takes tokenizer and config from the folder (vllm-gguf-plugin 0.0.5, plugin.py).

    The plugin would choose `gguf` by the file's ending; said here, vLLM refuses it by name where no plugin is installed.
    """
    if place.gguf is None:
        return {}
    folder = str(setup.weights)
    said = dict.fromkeys(("quantization", "load_format", "config_format"), "gguf")
    return {"model": str(place.gguf), "tokenizer": folder, "hf_config_path": folder, **said}


def _lora(setup: EngineSetup, options: VllmOptions) -> dict[str, Any]:
    if not setup.adapters:
        return {}
    return {"enable_lora": True, "max_loras": len(setup.adapters), "max_lora_rank": options.max_lora_rank}


def _executor(options: VllmOptions, place: Place) -> dict[str, Any]:
    """On CPU, vLLM wants a second process for its worker, to bind that one's threads.

    Without it the engine starts in half the time and gives more tokens; OMP_NUM_THREADS bounds its threads. (Named
    by its path, because vLLM replaces the short word.)
    """
    if not place.cpu or options.tensor_parallel * options.pipeline_parallel > 1:
        return {}
    return {"distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor"}
