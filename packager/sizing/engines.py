"""How each engine takes a GPU's memory. Numbers of an engine's own are from the version that its recipe names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CONTEXT = 3 * 2**28
"""Bytes (0.75 GiB) of a CUDA context with cuBLAS and the engine's kernels, on each GPU: an allowance. It differs by GPU
and driver; on an H200 torch 2.11 took 0.68 GiB (tests/gpu/test_gpu_sizing.py)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One engine.

    `for_all` says that memory has to hold every request of `serving.max_concurrency` at its full length: the engine
    takes it when it starts, or has no way to let one wait. Else one request has to fit, and others wait for room.
    `beyond` is how many tokens layers with a window hold beside it; None where they hold all.
    `block` is what a request's tokens are rounded up to, `piece` how many tokens of prompts are computed at once.
    `share` of what is free beside the weights is for the cache; with `workspace_first` of what is free beside the
    workspace too, because the engine has it, or has measured it, when it takes the cache. `graphs` are bytes for CUDA
    graphs: an allowance. `splits` is how several GPUs share the model: each layer (`tensor`), layer by layer, or not at all.
    """

    for_all: bool
    beyond: int | None
    block: int
    piece: int
    share: float
    workspace_first: bool
    graphs: int
    splits: Literal["tensor", "layers", "none"]
    source: str


ENGINES: Mapping[str, Memory] = {
    "vllm": Memory(
        for_all=False,
        beyond=2 * 2048,
        block=16,
        piece=2048,
        share=1.0,
        workspace_first=True,
        graphs=2**29,
        splits="tensor",
        source="vllm 0.32.0: kv_cache_interface.py SlidingWindowSpec, config/scheduler.py DEFAULT_MAX_NUM_BATCHED_TOKENS",
    ),
    "transformers": Memory(
        for_all=False,
        beyond=None,
        block=256,
        piece=2048,
        share=0.8,
        workspace_first=False,
        graphs=0,
        splits="layers",
        source="packager: runtime/engines/transformers_load.py and transformers_rows.py",
    ),
    "lmdeploy": Memory(
        for_all=False,
        beyond=None,
        block=64,
        piece=8192,
        share=0.8,
        workspace_first=False,
        graphs=0,
        splits="tensor",
        source="lmdeploy 0.18.0, messages.py: cache_max_entry_count, cache_block_seq_len, max_prefill_token_num",
    ),
    "tensorrt_llm_engine": Memory(
        for_all=False,
        beyond=None,
        block=32,
        piece=8192,
        share=0.9,
        workspace_first=True,
        graphs=0,
        splits="tensor",
        source=(
            "TensorRT-LLM 1.2: tllmRuntime.cpp (weights, then the memory for activations that the plan names), then "
            "kvCacheManager.cpp calculateFreeMemBytes; builder.py max_num_tokens, plugin.py tokens_per_block"
        ),
    ),
    "tensorrt_llm": Memory(
        for_all=False,
        beyond=None,
        block=32,
        piece=8192,
        share=0.9,
        workspace_first=True,
        graphs=2**29,
        splits="tensor",
        source=(
            "TensorRT-LLM 1.2: _torch/pyexecutor/_util.py _cal_max_memory, after a trial of max_num_tokens; llm_args.py "
            "max_num_tokens, cuda_graph_config, KvCacheConfig"
        ),
    ),
    "llama_cpp": Memory(
        for_all=True,
        beyond=256,
        block=256,
        piece=256,
        share=1.0,
        workspace_first=True,
        graphs=0,
        splits="layers",
        source="packager: runtime/engines/llama_cpp.py; llama.cpp, llama-kv-cache-iswa.cpp",
    ),
    "ctranslate2": Memory(
        for_all=True,
        beyond=None,
        block=1,
        piece=2048,
        share=1.0,
        workspace_first=True,
        graphs=0,
        splits="none",
        source="packager: runtime/engines/ctranslate2.py; CTranslate2: each request's cache grows with it, on one GPU",
    ),
}
"""By the engine's name in the spec."""
