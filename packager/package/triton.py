"""What a package for Triton has more: a model repository, and the command that serves it. Pure.

`serving.triton` chooses: `runtime` is one decoupled model of Triton's Python backend over packager's runtime, named as the
package is; `llmapi` the same under the names of TensorRT-LLM's `llmapi` model; `ensemble` are TensorRT-LLM's five
(triton_ensemble.py), which a step of ours gives the weights' paths before Triton starts (runtime/server/triton_start.py).
"""

import json
from collections.abc import Mapping
from typing import Any

from ..manifest import Manifest
from .pbtxt import Word, tensors, text_format
from .triton_ensemble import configs

REPOSITORY = "triton"
"""The folder of a package that `tritonserver --model-repository` takes."""

SHARED_MEMORY = 1024 * 1024
"""Bytes that Triton and each process of a model share at first, and grow by: a container has 64 MiB unless told otherwise,
and the ensemble's BLS model alone is a process for each request. Older releases of Triton took 64 MiB each."""

STOP_SECONDS = 10
"""Seconds to stop the engine in, after the drain: Triton has one limit for both, and exits without a word to the model
when it has passed."""

_OPTIONAL = {"optional": True}
_RUNTIME_INPUTS = [
    *tensors("STRING", [1], "text_input"),
    *tensors("BOOL", [1], "stream", **_OPTIONAL),
    *tensors("STRING", [1], "sampling_parameters", **_OPTIONAL),
    *tensors("BOOL", [1], "exclude_input_in_output return_finish_reason", **_OPTIONAL),
    *tensors("BOOL", [1], "return_num_input_tokens return_num_output_tokens", **_OPTIONAL),
]
_RUNTIME_OUTPUTS = [
    *tensors("STRING", [1], "text_output finish_reason"),
    *tensors("UINT32", [1], "num_input_tokens num_output_tokens"),
]
# NVIDIA/TensorRT-LLM at c8c6df0 (1.2's time): triton_backend/all_models/llmapi/tensorrt_llm/config.pbtxt.
_LLMAPI_INPUTS = [
    *tensors("STRING", [-1], "text_input"),
    *tensors("BOOL", [1], "streaming", **_OPTIONAL),
    *tensors("INT32", [1], "sampling_param_best_of", **_OPTIONAL),
    *tensors("FP32", [1], "sampling_param_temperature", **_OPTIONAL),
    *tensors("INT32", [1], "sampling_param_top_k", **_OPTIONAL),
    *tensors("FP32", [1], "sampling_param_top_p", **_OPTIONAL),
    *tensors("FP32", [1], "sampling_param_frequency_penalty sampling_param_presence_penalty", **_OPTIONAL),
    *tensors("INT32", [1], "sampling_param_max_tokens", **_OPTIONAL),
    *tensors("STRING", [-1], "sampling_param_stop", **_OPTIONAL),
    *tensors("UINT64", [1], "sampling_param_seed", **_OPTIONAL),
    *tensors("BOOL", [1], "sampling_param_exclude_input_from_output sampling_param_return_perf_metrics", **_OPTIONAL),
    *tensors("BOOL", [1], "return_finish_reason return_stop_reason return_cumulative_logprob stop", **_OPTIONAL),
]
_LLMAPI_OUTPUTS = [
    *tensors("STRING", [-1], "text_output finish_reason stop_reason"),
    *tensors("FP32", [-1], "cumulative_logprob"),
    *tensors("INT32", [-1], "kv_cache_reused_block kv_cache_missed_block"),
    *tensors("INT32", [-1], "kv_cache_alloc_new_blocks kv_cache_alloc_total_blocks"),
    *tensors("FP32", [-1], "kv_cache_hit_rate"),
    *tensors("INT64", [1], "arrival_time_ns first_scheduled_time_ns first_token_time_ns last_token_time_ns"),
    *tensors("FP32", [1], "acceptance_rate"),
    *tensors("INT32", [1], "total_accepted_draft_tokens total_draft_tokens"),
]

_PROGRAMS: Mapping[str, tuple[str, str]] = {
    "runtime": ("triton_backend", "PackagedModel"),
    "llmapi": ("triton_llmapi", "LlmapiModel"),
    "preprocessing": ("triton_tokens", "Preprocessing"),
    "postprocessing": ("triton_tokens", "Postprocessing"),
    "tensorrt_llm_bls": ("triton_bls", "Bls"),
}
"""What each model that is Python runs: a module of runtime/server, and the class in it."""

_PROGRAM = '''\
"""The model as Triton's Python backend loads it. The work is done by the runtime in packages/."""

import sys
from pathlib import Path

import triton_python_backend_utils

PACKAGE = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PACKAGE / "packages"))

from packager_runtime.runtime.server.{module} import {name}  # noqa: E402


class TritonPythonModel({name}):
    """Triton makes it without arguments, then calls initialize, execute and finalize."""

    def __init__(self):
        super().__init__(PACKAGE, triton_python_backend_utils)
'''


def repository(manifest: Manifest) -> dict[str, bytes]:
    """The files of the model repository, by path in the package. Raises PackageError for what the ensemble cannot be."""
    return {
        f"{REPOSITORY}/{path}": text.encode()
        for name, (config, program) in _models(manifest).items()
        for path, text in _files(name, config, program).items()
    }


def _models(manifest: Manifest) -> dict[str, tuple[Mapping[str, Any], str]]:
    """The configuration of each model by its name, and its key in _PROGRAMS."""
    kind = manifest.serving.triton
    if kind == "ensemble":
        return {name: (config, name) for name, config in configs(manifest).items()}
    return {name: (_config(manifest), kind) for name in models(manifest)}


def models(manifest: Manifest) -> tuple[str, ...]:
    """The models that clients ask, the one that is fit for most of them first."""
    asked = {"runtime": (manifest.name,), "llmapi": ("tensorrt_llm",), "ensemble": ("tensorrt_llm_bls", "ensemble")}
    return asked[manifest.serving.triton]


def example(manifest: Manifest) -> str:
    """The body of a request for a stream, for the first of these models."""
    llmapi = manifest.serving.triton == "llmapi"
    stream, most = ("streaming", "sampling_param_max_tokens") if llmapi else ("stream", "max_tokens")
    return json.dumps({"text_input": "Hello", stream: True, most: 64})


def _files(name: str, config: Mapping[str, Any], program: str) -> dict[str, str]:
    files = {f"{name}/config.pbtxt": text_format(config)}
    if program in _PROGRAMS:
        module, kind = _PROGRAMS[program]
        files[f"{name}/1/model.py"] = _PROGRAM.format(module=module, name=kind)
    return files


def ports(manifest: Manifest) -> tuple[int, ...]:
    """TCP ports of HTTP, gRPC and the metrics."""
    first = manifest.serving.port
    return (first, first + 1, first + 2)


def serve_command(manifest: Manifest, interpreter: str, folder: str) -> tuple[str, ...]:
    """The command that serves the package at `folder` in an image that has Triton.

    Models cannot be loaded over the network: who can do that can bring code along. Of an option that is given twice
    Triton takes the last one, so arguments to the container change what is here.
    """
    http, grpc, metrics = ports(manifest)
    start: tuple[str, ...] = ("tritonserver", f"--model-repository={folder}/{REPOSITORY}")
    if manifest.serving.triton == "ensemble":  # the step makes the repository, and names it
        start = (interpreter, "-m", "packager_runtime.runtime.server.triton_start", folder, "tritonserver")
    return (
        *start,
        "--disable-auto-complete-config",  # ours is complete; it would start the model's process once more
        "--model-control-mode=none",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        f"--exit-timeout-secs={manifest.serving.drain_seconds + STOP_SECONDS}",
        f"--backend-config=python,shm-default-byte-size={SHARED_MEMORY}",
        f"--backend-config=python,shm-growth-byte-size={SHARED_MEMORY}",
    )


def _config(manifest: Manifest) -> Mapping[str, Any]:
    (name,) = models(manifest)
    llmapi = manifest.serving.triton == "llmapi"
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": _LLMAPI_INPUTS if llmapi else _RUNTIME_INPUTS,
        "output": _LLMAPI_OUTPUTS if llmapi else _RUNTIME_OUTPUTS,
        # The engine chooses its devices; Triton starts one process and puts it on none.
        "instance_group": [{"count": 1, "kind": Word("KIND_MODEL")}],
    }
