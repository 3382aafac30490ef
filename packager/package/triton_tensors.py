"""Inputs and outputs of TensorRT-LLM's models for Triton: names, types and shapes (triton_ensemble.py says from where). Pure."""

from collections.abc import Mapping
from typing import Any

from .pbtxt import tensors

_SCALAR: Mapping[str, Any] = {"reshape": {}}
_OPTIONAL: Mapping[str, Any] = {"optional": True}
_RAGGED: Mapping[str, Any] = {"optional": True, "allow_ragged_batch": True}

# What the engine says of an answer beside its tokens.
RESULTS = [
    *tensors("FP32", [-1], "cum_log_probs"),
    *tensors("FP32", [-1, -1], "output_log_probs context_logits"),
    *tensors("FP32", [-1, -1, -1], "generation_logits"),
    *tensors("INT32", [1], "batch_index sequence_index"),
    *tensors("INT32", [1], "kv_cache_alloc_new_blocks kv_cache_reused_blocks kv_cache_alloc_total_blocks"),
    *tensors("INT64", [1], "arrival_time_ns first_scheduled_time_ns first_token_time_ns last_token_time_ns"),
    *tensors("FP32", [1], "acceptance_rate"),
    *tensors("INT32", [1], "total_accepted_draft_tokens total_draft_tokens num_input_tokens num_output_tokens"),
]
TEXT = tensors("STRING", [-1], "text_output")

LLM_INPUTS = [
    *tensors("INT32", [1], "input_lengths request_output_len", **_SCALAR),
    *tensors(
        "INT32",
        [1],
        "encoder_output_lengths num_return_sequences decoder_input_lengths end_id pad_id beam_width runtime_top_k "
        "runtime_top_p_reset_ids min_tokens prompt_vocab_size",
        **_SCALAR,
        **_OPTIONAL,
    ),
    *tensors(
        "FP32",
        [1],
        "draft_acceptance_threshold temperature runtime_top_p runtime_top_p_min runtime_top_p_decay len_penalty "
        "repetition_penalty beam_search_diversity_rate presence_penalty frequency_penalty",
        **_SCALAR,
        **_OPTIONAL,
    ),
    *tensors(
        "BOOL",
        [1],
        "early_stopping return_log_probs return_context_logits return_generation_logits return_perf_metrics "
        "return_num_input_tokens return_num_output_tokens exclude_input_in_output stop streaming",
        **_SCALAR,
        **_OPTIONAL,
    ),
    *tensors("UINT64", [1], "seed lora_task_id", **_SCALAR, **_OPTIONAL),
    *tensors("INT32", [-1], "input_ids draft_input_ids decoder_input_ids", **_RAGGED),
    *tensors("INT32", [2, -1], "stop_words_list bad_words_list", **_RAGGED),
    *tensors("FP32", [-1], "embedding_bias", **_RAGGED),
    *tensors("UINT64", [-1], "prompt_table_extra_ids", **_RAGGED),
    *tensors("UINT8", [-1], "context_phase_params", **_RAGGED),
    *tensors("FP16", [-1, -1], "encoder_input_features prompt_embedding_table lora_weights", **_RAGGED),
    *tensors("FP32", [-1, -1], "draft_logits", **_RAGGED),
    *tensors("BOOL", [-1, -1], "cross_attention_mask", **_RAGGED),
    *tensors("FP32", [-1], "mrope_rotary_cos_sin", **_OPTIONAL),
    *tensors("INT64", [1], "mrope_position_deltas", **_OPTIONAL),
    *tensors("INT32", [-1, 3], "lora_config", **_RAGGED),
    *tensors("BOOL", [1], "skip_cross_attn_blocks", **_RAGGED),
    *tensors(
        "INT32",
        [-1],
        "retention_token_range_starts retention_token_range_ends retention_token_range_priorities "
        "retention_token_range_durations_ms",
        **_RAGGED,
    ),
    *tensors("INT32", [1], "retention_decode_priority retention_decode_duration_ms", **_RAGGED),
    *tensors("STRING", [1], "guided_decoding_guide_type guided_decoding_guide", **_RAGGED),
    *tensors("INT32", [1], "lookahead_window_size lookahead_ngram_size lookahead_verification_set_size", **_RAGGED),
]
LLM_OUTPUTS = [
    *tensors("INT32", [-1, -1], "output_ids"),
    *tensors("INT32", [-1], "sequence_length"),
    *tensors("UINT8", [-1], "context_phase_params"),
    *RESULTS,
]

_ASKED = [
    *tensors("STRING", [1], "text_input"),
    *tensors("INT32", [1], "max_tokens"),
    *tensors("STRING", [1], "decoder_text_input", **_OPTIONAL),
    *tensors("STRING", [-1], "bad_words stop_words embedding_bias_words", **_OPTIONAL),
    *tensors("FP32", [-1], "embedding_bias_weights", **_OPTIONAL),
    *tensors("INT32", [1], "end_id pad_id top_k min_tokens beam_width prompt_vocab_size", **_OPTIONAL),
    *tensors(
        "FP32",
        [1],
        "top_p temperature length_penalty repetition_penalty presence_penalty frequency_penalty",
        **_OPTIONAL,
    ),
    *tensors("BOOL", [1], "exclude_input_in_output stream", **_OPTIONAL),
    *tensors("UINT64", [1], "seed prompt_table_extra_id", **_OPTIONAL),
    *tensors("FP16", [-1, -1], "prompt_embedding_table", **_OPTIONAL),
    *tensors("FP16", [-1, -1], "lora_weights", **_RAGGED),
    *tensors("INT32", [-1, 3], "lora_config", **_RAGGED),
]
"""Inputs of the ensemble and of the BLS model alike; those that differ are below."""
FLAGS = (
    "return_log_probs return_context_logits return_generation_logits return_perf_metrics return_num_input_tokens "
    "return_num_output_tokens"
)
ENSEMBLE_INPUTS = [
    *_ASKED,
    *tensors("BOOL", [1], FLAGS, **_OPTIONAL),
    *tensors("INT32", [1], "num_return_sequences", **_OPTIONAL),
    *tensors("UINT64", [1], "lora_task_id", **_OPTIONAL),
    *tensors("STRING", [1], "guided_decoding_guide_type guided_decoding_guide", **_RAGGED),
]
BLS_INPUTS = [
    *_ASKED,
    *tensors("BOOL", [1], f"{FLAGS} use_draft_logits", **_SCALAR, **_OPTIONAL),
    *tensors("INT32", [1], "num_return_sequences", **_SCALAR, **_OPTIONAL),
    *tensors("UINT64", [1], "lora_task_id", **_SCALAR, **_OPTIONAL),
    *tensors("STRING", [1], "guided_decoding_guide_type guided_decoding_guide image_url_input", **_OPTIONAL),
    *tensors("INT32", [1], "num_draft_tokens", **_OPTIONAL),
    *tensors("FP16", [-1, 3, -1, -1], "image_input", **_OPTIONAL),
    *tensors("UINT8", [-1, -1, -1, -1], "image_bytes_input video_bytes_input", **_OPTIONAL),
]

PREPROCESSING_INPUTS = [
    *tensors("STRING", [1], "QUERY"),
    *tensors("INT32", [1], "REQUEST_OUTPUT_LEN"),
    *tensors("STRING", [1], "DECODER_QUERY IMAGE_URL", **_OPTIONAL),
    *tensors("UINT8", [-1, -1, -1, -1], "IMAGE_BYTES VIDEO_BYTES", **_OPTIONAL),
    *tensors("STRING", [-1], "IMAGES BAD_WORDS_DICT STOP_WORDS_DICT EMBEDDING_BIAS_WORDS", **_OPTIONAL),
    *tensors("FP32", [-1], "EMBEDDING_BIAS_WEIGHTS", **_OPTIONAL),
    *tensors("INT32", [1], "END_ID PAD_ID", **_OPTIONAL),
    *tensors("UINT64", [1], "PROMPT_TABLE_EXTRA_ID", **_OPTIONAL),
]
PREPROCESSING_OUTPUTS = [
    *tensors("INT32", [-1], "INPUT_ID DECODER_INPUT_ID REQUEST_OUTPUT_LEN VISION_INPUT_ID"),
    *tensors("INT32", [1], "REQUEST_INPUT_LEN REQUEST_DECODER_INPUT_LEN OUT_END_ID OUT_PAD_ID"),
    *tensors("INT32", [2, -1], "BAD_WORDS_IDS STOP_WORDS_IDS"),
    *tensors("FP32", [-1], "EMBEDDING_BIAS"),
    *tensors("UINT64", [-1], "OUT_PROMPT_TABLE_EXTRA_IDS"),
    *tensors("FP16", [-1, -1, -1, -1], "PIXEL_VALUES"),
    *tensors("INT64", [-1], "ASPECT_RATIO_IDS ATTENTION_MASK"),
    *tensors("INT64", [-1, -1], "ASPECT_RATIO_MASK"),
    *tensors("INT64", [-1, -1, -1], "CROSS_ATTENTION_MASK"),
    *tensors("INT64", [-1, 2], "IMAGE_SIZES"),
    *tensors("BOOL", [1], "IS_VIDEO_INPUT"),
    *tensors("INT64", [3], "IMAGE_GRID_THW"),
]
