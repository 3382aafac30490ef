"""The configurations of lmdeploy 0.18.0, field by field, with the checks that matter here."""

import enum
from dataclasses import dataclass
from typing import Any


class EngineRole(enum.Enum):
    Hybrid = enum.auto()


class MigrationBackend(enum.Enum):
    DLSlime = enum.auto()


class QuantPolicy(enum.IntEnum):
    NONE = 0
    INT4 = 4
    INT8 = 8
    FP8 = 16
    FP8_E5M2 = 17
    TURBO_QUANT = 42


@dataclass
class GenerationConfig:
    n: Any = 1
    max_new_tokens: Any = 512
    do_sample: Any = False
    top_p: Any = 1.0
    top_k: Any = 50
    min_p: Any = 0.0
    temperature: Any = 0.8
    repetition_penalty: Any = 1.0
    ignore_eos: Any = False
    random_seed: Any = None
    stop_words: Any = None
    bad_words: Any = None
    stop_token_ids: Any = None
    bad_token_ids: Any = None
    min_new_tokens: Any = None
    skip_special_tokens: Any = True
    spaces_between_special_tokens: Any = True
    logprobs: Any = None
    logprob_start_len: Any = -1
    response_format: Any = None
    logits_processors: Any = None
    output_logits: Any = None
    output_last_hidden_state: Any = None
    include_stop_str_in_output: Any = False
    return_ppl: Any = False
    with_cache: Any = False
    preserve_cache: Any = False
    migration_request: Any = None
    return_routed_experts: Any = False
    repetition_ngram_size: Any = 0
    repetition_ngram_threshold: Any = 0

    def __post_init__(self):
        assert self.top_p >= 0 and self.top_p <= 1  # noqa: PT018
        assert self.top_k >= 0, "top_k can not be a negative integer"
        assert self.temperature >= 0 and self.temperature <= 2  # noqa: PT018
        assert 0 <= self.min_p <= 1


@dataclass
class TurbomindEngineConfig:
    dtype: Any = "auto"
    gemm_input_dtype: Any = None
    model_format: Any = None
    tp: Any = 1
    dp: Any = 1
    cp: Any = 1
    ep: Any = 1
    device_num: Any = None
    attn_tp_size: Any = None
    attn_cp_size: Any = None
    attn_dp_size: Any = None
    mlp_tp_size: Any = None
    mlp_dp_size: Any = None
    outer_dp_size: Any = None
    nnodes: Any = 1
    node_rank: Any = 0
    dist_init_addr: Any = None
    devices: Any = None
    session_len: Any = None
    max_batch_size: Any = None
    cache_max_entry_count: Any = 0.8
    cache_chunk_size: Any = -1
    cache_block_seq_len: Any = 64
    enable_prefix_caching: Any = False
    cache_checkpoint_interval: Any = 4096
    cache_prompt: Any = "auto"
    cache_prompt_boundary_skip: Any = 1
    cache_generation: Any = "auto"
    quant_policy: Any = 0
    rope_scaling_factor: Any = 0.0
    use_logn_attn: Any = False
    download_dir: Any = None
    revision: Any = None
    max_prefill_token_num: Any = 8192
    num_tokens_per_iter: Any = 0
    max_prefill_iters: Any = 1
    async_: Any = 1
    empty_init: Any = False
    language_model_only: Any = False
    communicator: Any = "nccl"
    moe_a2a_backend: Any = "auto"
    hf_overrides: Any = None
    enable_metrics: Any = True

    def __post_init__(self):
        assert self.dtype in ["auto", "float16", "bfloat16"]
        self.quant_policy = QuantPolicy(self.quant_policy)
        assert self.quant_policy not in (QuantPolicy.FP8, QuantPolicy.FP8_E5M2), "FP8 is not supported"


@dataclass
class PytorchEngineConfig:
    dtype: Any = "auto"
    tp: Any = 1
    dp: Any = 1
    dp_rank: Any = 0
    ep: Any = 1
    session_len: Any = None
    max_batch_size: Any = None
    attn_tp_size: Any = None
    mlp_tp_size: Any = None
    moe_tp_size: Any = None
    cache_max_entry_count: Any = 0.8
    prefill_interval: Any = 16
    block_size: Any = 64
    kernel_block_size: Any = -1
    num_cpu_blocks: Any = 0
    num_gpu_blocks: Any = 0
    adapters: Any = None
    max_prefill_token_num: Any = 8192
    cudagraph_capture_batch_sizes: Any = None
    thread_safe: Any = False
    enable_prefix_caching: Any = False
    prefix_cache_state_budget: Any = 0
    prefix_cache_decode_state_interval: Any = 0
    device_type: Any = "cuda"
    eager_mode: Any = False
    custom_module_map: Any = None
    download_dir: Any = None
    revision: Any = None
    quant_policy: Any = QuantPolicy.NONE
    distributed_executor_backend: Any = None
    empty_init: Any = False
    enable_microbatch: Any = False
    enable_eplb: Any = False
    enable_mp_engine: Any = False
    mp_engine_backend: Any = "mp"
    model_format: Any = None
    enable_metrics: Any = True
    hf_overrides: Any = None
    language_model_only: Any = False
    logprobs_mode: Any = None
    enable_return_routed_experts: Any = False
    enable_transfer_obj_ref: Any = False
    dllm_block_length: Any = None
    dllm_unmasking_strategy: Any = "low_confidence_dynamic"
    dllm_denoising_steps: Any = None
    dllm_confidence_threshold: Any = 0.85
    role: Any = EngineRole.Hybrid
    migration_backend: Any = MigrationBackend.DLSlime
    kv_transfer_config: Any = None
    piecewise_cudagraph_max_tokens: Any = None

    def __post_init__(self):
        assert self.dtype in ["auto", "float16", "bfloat16"]
        self.quant_policy = QuantPolicy(self.quant_policy)
