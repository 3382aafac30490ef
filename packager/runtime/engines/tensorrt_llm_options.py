"""The spec's words for TensorRT-LLM, in the words of its LLM API. Pure: nothing of TensorRT-LLM is imported."""

import secrets
from dataclasses import dataclass
from typing import Any

from ...errors import LoadError, RequestError
from ...weights.compiled import EngineBuild, Limits
from ..engine import SAMPLING, EngineSetup, SamplingParams

COMPILED_SAMPLING = SAMPLING - {"logprobs"}
"""What TensorRT-LLM's own sampler does. Log probabilities need engines that were built to gather their logits."""
PYTORCH_SAMPLING = frozenset({"max_tokens", "temperature", "top_p", "top_k", "stop", "ignore_eos"})
"""What 1.2's TorchSampler does for each request: seeds and penalties are for its deprecated TRTLLMSampler."""
_MOST_TOP_K = 1024
"""TensorRT-LLM's TOP_K_MAX (cpp/tensorrt_llm/kernels/samplingTopKKernels.h): more is cut to it in silence."""
_GIVEN = ("presence_penalty", "frequency_penalty", "repetition_penalty", "min_p")


@dataclass(frozen=True, slots=True)
class TensorrtOptions:
    """The spec's words; see TensorrtLlmEngineSpec and TensorrtLlmSpec."""

    context_length: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu_memory: float = 0.9
    kv_cache: str = "auto"
    prefix_caching: bool = True


def llm_arguments(setup: EngineSetup, options: TensorrtOptions) -> dict[str, Any]:
    """The keywords that both kinds of LLM take, but the KvCacheConfig.

    No tokenizer: LLM needs none for tokens, and opens the one beside the weights where it can. One that is named it must
    open, which fails where a newer transformers than its own has saved it.
    """
    return {
        "model": str(setup.weights),
        "tensor_parallel_size": options.tensor_parallel,
        "pipeline_parallel_size": options.pipeline_parallel,
        "max_batch_size": setup.slots,
    }


def compiled_arguments(limits: Limits) -> dict[str, Any]:
    """What the LLM of compiled engines takes beside them: its own default would read 8192 tokens in a step at most."""
    return {"max_num_tokens": limits.max_num_tokens}


def pytorch_arguments(context: int) -> dict[str, Any]:
    """What the PyTorch engine takes beside them. Prompts are read in pieces, so that none is too long for one step."""
    return {"max_seq_len": context, "enable_chunked_prefill": True}


def cache_arguments(options: TensorrtOptions) -> dict[str, Any]:
    """The keywords for KvCacheConfig, but its number format: in a compiled engine that is compiled in."""
    return {"enable_block_reuse": options.prefix_caching, "free_gpu_memory_fraction": options.gpu_memory}


def compiled_context(build: EngineBuild, asked: int | None) -> int:
    """Tokens of prompt and answer together. Raises LoadError when more is asked than was compiled in."""
    most = build.limits.max_seq_len
    if asked is not None and asked > most:
        what = f"`context_length: {asked}` is more than the {most} tokens that the engine was compiled for"
        raise LoadError(what, where="model/manifest.json", mend="build the package again")
    return asked or most


def sampling_words(asked: SamplingParams, room: int, ends: tuple[int, ...], can: frozenset[str]) -> dict[str, Any]:
    """The request's sampling in TensorRT-LLM's words: greedy unless it says how to sample.

    `room` is how many tokens the context has left, `ends` are the tokens that end an answer, `can` the parameters
    that the engine honours. Stop strings are not TensorRT-LLM's, whose stop words are sequences of tokens and miss a
    string that is tokenized otherwise. Raises RequestError.
    """
    words: dict[str, Any] = {
        "end_id": -1 if asked.ignore_eos else ends[0],
        "pad_id": ends[0],
        "stop_token_ids": list(ends[1:]) if ends[1:] and not asked.ignore_eos else None,
        "max_tokens": room if asked.max_tokens is None else min(asked.max_tokens, room),
        "detokenize": False,
    }
    if asked.top_k is not None and asked.top_k > _MOST_TOP_K:
        raise RequestError(f"TensorRT-LLM samples from {_MOST_TOP_K} tokens at most", where="top_k")
    words |= {name: value for name in _GIVEN if (value := getattr(asked, name)) is not None}
    sampled = any(getattr(asked, name) is not None for name in ("temperature", "top_p", "top_k", "min_p"))
    if not sampled or asked.temperature == 0 or asked.top_p == 0:
        return words | {"top_k": 1}
    words |= {
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_k": asked.top_k or None,
        # Without top_p and top_k it would be greedy, whatever the temperature.
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
    }
    if "seed" in can:
        # Without one every request would have the seed 0, and alike prompts the same answer.
        words["seed"] = secrets.randbits(63) if asked.seed is None else asked.seed % 2**64
    return words
