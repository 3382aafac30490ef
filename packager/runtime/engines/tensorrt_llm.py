"""TensorRT-LLM's PyTorch engine, through `tensorrt_llm.LLM`: Hugging Face and ModelOpt checkpoints, nothing compiled before."""

from pathlib import Path
from typing import Any

from tensorrt_llm import LLM
from tensorrt_llm.llmapi import KvCacheConfig

from .tensorrt_llm_base import TensorrtLlmBase
from .tensorrt_llm_folder import Words, read_words, trained_context
from .tensorrt_llm_options import PYTORCH_SAMPLING, cache_arguments, llm_arguments, pytorch_arguments


class TensorrtLlm(TensorrtLlmBase):
    """One checkpoint, with as many sequences as requests may run."""

    kind = "tensorrt_llm"
    can = PYTORCH_SAMPLING

    def load(self, folder: Path) -> tuple[Any, Words]:
        context = trained_context(folder, self.options.context_length)
        words = read_words(folder, self.setup.chat_template, context, context)
        cache = KvCacheConfig(**cache_arguments(self.options), dtype=self.options.kv_cache)
        return LLM(
            **llm_arguments(self.setup, self.options), **pytorch_arguments(context), kv_cache_config=cache
        ), words
