"""TensorRT-LLM's model repository for compiled engines, as values: five models, every parameter filled. Pure.

    preprocessing     text to tokens             ours, Python backend
    tensorrt_llm      tokens to tokens           TensorRT-LLM's own backend, in C++
    postprocessing    tokens to text             ours, Python backend
    ensemble          the three, one after the other, in Triton's C++
    tensorrt_llm_bls  the three, called one by one; a stream's text stays whole there   ours, Python backend

Names, types, shapes and the ensemble's wiring are those of triton_backend/all_models/inflight_batcher_llm in
NVIDIA/TensorRT-LLM at 2a9abd9, which was read; they were compared by program with the same templates in
triton-inference-server/tensorrtllm_backend at c2e65b8 (2025-05-13), which lack `return_num_*_tokens` and IMAGES. The tag of
1.2.1 itself was not to be had. What the parameters mean is in model_state.cc and model_instance_state.cc beside the
templates: a text that is no number stands for "not set".
"""

from collections.abc import Mapping
from typing import Any

from ..errors import PackageError
from ..manifest import Manifest
from ..weights.compiled import EngineBuild, parse_build
from .pbtxt import Word, parameters, tensors
from .triton_tensors import (
    BLS_INPUTS,
    ENSEMBLE_INPUTS,
    FLAGS,
    LLM_INPUTS,
    LLM_OUTPUTS,
    PREPROCESSING_INPUTS,
    PREPROCESSING_OUTPUTS,
    RESULTS,
    TEXT,
)

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls", "ensemble")

_UNSET = ""

# The ensemble's wiring: each model's own name to the ensemble's. A name with `_` in front is between two models.
_TO_PREPROCESSING = {
    "QUERY": "text_input",
    "DECODER_QUERY": "decoder_text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
    "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
}
_FROM_PREPROCESSING = {
    "REQUEST_INPUT_LEN": "_REQUEST_INPUT_LEN",
    "INPUT_ID": "_INPUT_ID",
    "REQUEST_DECODER_INPUT_LEN": "_REQUEST_DECODER_INPUT_LEN",
    "DECODER_INPUT_ID": "_DECODER_INPUT_ID",
    "REQUEST_OUTPUT_LEN": "_REQUEST_OUTPUT_LEN",
    "STOP_WORDS_IDS": "_STOP_WORDS_IDS",
    "BAD_WORDS_IDS": "_BAD_WORDS_IDS",
    "EMBEDDING_BIAS": "_EMBEDDING_BIAS",
    "OUT_END_ID": "_PREPROCESSOR_END_ID",
    "OUT_PAD_ID": "_PREPROCESSOR_PAD_ID",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "_OUT_PROMPT_TABLE_EXTRA_IDS",
}
_TO_LLM = {
    "input_ids": "_INPUT_ID",
    "decoder_input_ids": "_DECODER_INPUT_ID",
    "input_lengths": "_REQUEST_INPUT_LEN",
    "decoder_input_lengths": "_REQUEST_DECODER_INPUT_LEN",
    "request_output_len": "_REQUEST_OUTPUT_LEN",
    "end_id": "_PREPROCESSOR_END_ID",
    "pad_id": "_PREPROCESSOR_PAD_ID",
    "embedding_bias": "_EMBEDDING_BIAS",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    "stop_words_list": "_STOP_WORDS_IDS",
    "bad_words_list": "_BAD_WORDS_IDS",
    "prompt_table_extra_ids": "_OUT_PROMPT_TABLE_EXTRA_IDS",
    **{
        name: name
        for name in (
            *FLAGS.split(),
            *("exclude_input_in_output", "temperature", "repetition_penalty", "min_tokens", "presence_penalty"),
            *("frequency_penalty", "seed", "num_return_sequences", "beam_width", "prompt_embedding_table"),
            *("prompt_vocab_size", "lora_task_id", "lora_weights", "lora_config"),
            *("guided_decoding_guide_type", "guided_decoding_guide"),
        )
    },
}
_FROM_LLM = {
    "output_ids": "_TOKENS_BATCH",
    "sequence_length": "_SEQUENCE_LENGTH",
    **{one["name"]: one["name"] for one in RESULTS},
}
_TO_POSTPROCESSING = {"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH"}


def configs(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """Each model's configuration by its name, but for the paths of engine and tokenizer, which are known when the
    container starts (runtime/server/triton_start.py adds them).

    Raises PackageError where the lock has no description of the engine.
    """
    build = _build(manifest)
    found = {
        "preprocessing": _preprocessing(manifest, build),
        "tensorrt_llm": _llm(manifest, build),
        "postprocessing": _postprocessing(build),
        "tensorrt_llm_bls": _bls(manifest),
        "ensemble": _ensemble(build),
    }
    return {name: {"name": name, **found[name]} for name in MODELS}


def _build(manifest: Manifest) -> EngineBuild:
    where, compiled = f"packager.lock:weights ({manifest.name})", manifest.weights and manifest.weights.compiled
    if not compiled:
        what = "`triton: ensemble` needs the engine's description, and the lock has none"
        mend = "put the engine.json of `packager engine describe` beside the engine, and lock again"
        raise PackageError(what, where=where, mend=mend)
    try:
        return parse_build(compiled)
    except ValueError as error:
        raise PackageError(
            f"the engine's description is damaged: {error}", where=where, mend="lock it again"
        ) from error


def _most(manifest: Manifest) -> int:
    """Requests that a queue holds: those that are to run pass through it, so a burst of them must find room."""
    return manifest.serving.max_concurrency + manifest.serving.max_queue


def _queue(manifest: Manifest, build: EngineBuild) -> Mapping[str, Any]:
    return {
        "preferred_batch_size": [build.limits.max_batch_size],
        "max_queue_delay_microseconds": 0,
        "default_queue_policy": {"max_queue_size": _most(manifest)},
    }


def _processes(count: int = 1) -> list[Mapping[str, Any]]:
    return [{"count": count, "kind": Word("KIND_CPU")}]


def _preprocessing(manifest: Manifest, build: EngineBuild) -> Mapping[str, Any]:
    return {
        "backend": "python",
        "max_batch_size": build.limits.max_batch_size,
        "dynamic_batching": _queue(manifest, build),
        "input": PREPROCESSING_INPUTS,
        "output": PREPROCESSING_OUTPUTS,
        "instance_group": _processes(),
        "parameters": parameters(
            {
                "add_special_tokens": True,
                "multimodal_model_path": _UNSET,
                "max_num_images": _UNSET,
                "hf_model_path": _UNSET,
            }
        ),
    }


def _postprocessing(build: EngineBuild) -> Mapping[str, Any]:
    return {
        "backend": "python",
        "max_batch_size": build.limits.max_batch_size,
        "dynamic_batching": {},
        "input": [*tensors("INT32", [-1, -1], "TOKENS_BATCH"), *tensors("INT32", [-1], "SEQUENCE_LENGTH")],
        "output": tensors("STRING", [-1], "OUTPUT"),
        "instance_group": _processes(),
        "parameters": parameters({"skip_special_tokens": True}),
    }


def _llm(manifest: Manifest, build: EngineBuild) -> Mapping[str, Any]:
    return {
        "backend": "tensorrtllm",
        "max_batch_size": build.limits.max_batch_size,
        "model_transaction_policy": {"decoupled": True},
        "dynamic_batching": _queue(manifest, build),
        "input": LLM_INPUTS,
        "output": LLM_OUTPUTS,
        "instance_group": _processes(),
        "parameters": parameters(_llm_parameters(manifest, build)),
    }


def _llm_parameters(manifest: Manifest, build: EngineBuild) -> Mapping[str, Any]:
    """All of NVIDIA's template but lora_prefetch_dir, of which alone an empty text is not "not set" but a folder."""
    options = manifest.engine.options
    return {
        "max_beam_width": build.limits.max_beam_width,
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_type": "inflight_fused_batching",
        "encoder_model_path": _UNSET,
        "max_tokens_in_paged_kv_cache": _UNSET,
        "max_attention_window_size": _UNSET,
        "sink_token_length": _UNSET,
        "batch_scheduler_policy": "guaranteed_no_evict",
        "kv_cache_free_gpu_mem_fraction": options["gpu_memory"],
        "cross_kv_cache_fraction": _UNSET,
        "kv_cache_host_memory_bytes": _UNSET,
        "kv_cache_onboard_blocks": True,
        "exclude_input_in_output": True,
        "cancellation_check_period_ms": 50,
        "stats_check_period_ms": 100,
        "iter_stats_max_iterations": _UNSET,
        "request_stats_max_iterations": _UNSET,
        "enable_kv_cache_reuse": options["prefix_caching"],
        "normalize_log_probs": True,
        "enable_chunked_context": False,
        "gpu_device_ids": _UNSET,
        "participant_ids": _UNSET,
        "num_nodes": 1,
        "lora_cache_optimal_adapter_size": _UNSET,
        "lora_cache_max_adapter_size": _UNSET,
        "lora_cache_gpu_memory_fraction": _UNSET,
        "lora_cache_host_memory_bytes": _UNSET,
        "decoding_mode": _UNSET,
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
        "lookahead_window_size": _UNSET,
        "lookahead_ngram_size": _UNSET,
        "lookahead_verification_set_size": _UNSET,
        "medusa_choices": _UNSET,
        "eagle_choices": _UNSET,
        "gpu_weights_percent": 1.0,
        "enable_context_fmha_fp32_acc": False,
        "multi_block_mode": True,
        "cuda_graph_mode": False,
        "cuda_graph_cache_size": 0,
        "speculative_decoding_fast_logits": False,
        "guided_decoding_backend": _UNSET,
        "xgrammar_tokenizer_info_path": _UNSET,
    }


def _bls(manifest: Manifest) -> Mapping[str, Any]:
    # Each process has one request at a time; the queue, which NVIDIA's lacks, is there for its bound.
    return {
        "backend": "python",
        "max_batch_size": 1,
        "model_transaction_policy": {"decoupled": True},
        "dynamic_batching": {"default_queue_policy": {"max_queue_size": _most(manifest)}},
        "input": BLS_INPUTS,
        "output": [*TEXT, *RESULTS],
        "instance_group": _processes(manifest.serving.max_concurrency),
        "parameters": parameters(
            {
                "accumulate_tokens": False,
                "tensorrt_llm_model_name": "tensorrt_llm",
                "tensorrt_llm_draft_model_name": _UNSET,
                "multimodal_encoders_name": _UNSET,
            }
        ),
    }


def _ensemble(build: EngineBuild) -> Mapping[str, Any]:
    return {
        "platform": "ensemble",
        "max_batch_size": build.limits.max_batch_size,
        "input": ENSEMBLE_INPUTS,
        "output": [*TEXT, *RESULTS],
        "ensemble_scheduling": {
            "step": [
                _step("preprocessing", _TO_PREPROCESSING, _FROM_PREPROCESSING),
                _step("tensorrt_llm", _TO_LLM, _FROM_LLM),
                _step("postprocessing", _TO_POSTPROCESSING, {"OUTPUT": "text_output"}),
            ]
        },
    }


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Mapping[str, Any]:
    def entries(names: Mapping[str, str]) -> list[Mapping[str, str]]:
        return [{"key": mine, "value": ensembles} for mine, ensembles in names.items()]

    return {
        "model_name": model,
        "model_version": -1,
        "input_map": entries(inputs),
        "output_map": entries(outputs),
    }
