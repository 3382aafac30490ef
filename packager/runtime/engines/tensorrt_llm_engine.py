"""Engines that TensorRT-LLM compiled (its versions up to 1.2.1), through `tensorrt_llm._tensorrt_engine.LLM`.

Whether the engine may run on this machine was asked before a byte of it was fetched (../machine.py).
"""

from pathlib import Path
from typing import Any

from tensorrt_llm._tensorrt_engine import LLM
from tensorrt_llm.llmapi import KvCacheConfig

from ...errors import LoadError
from ...weights.compiled import FILE, EngineBuild, parse_build, read_build
from .tensorrt_llm_base import TensorrtLlmBase
from .tensorrt_llm_folder import Words, read_words
from .tensorrt_llm_options import (
    COMPILED_SAMPLING,
    cache_arguments,
    compiled_arguments,
    compiled_context,
    llm_arguments,
)


class TensorrtLlmEngine(TensorrtLlmBase):
    """One compiled engine. Its limits are those that it was compiled for."""

    kind = "tensorrt_llm_engine"
    can = COMPILED_SAMPLING

    def load(self, folder: Path) -> tuple[Any, Words]:
        build = self._build(folder)
        context = compiled_context(build, self.options.context_length)
        # A prompt is read in one step: the executor's maxInputLen is min(maxSequenceLen - 1, maxNumTokens).
        longest = min(build.limits.max_input_len, build.limits.max_num_tokens)
        words = read_words(folder, self.setup.chat_template, context, longest)
        cache = KvCacheConfig(**cache_arguments(self.options))
        return LLM(
            **llm_arguments(self.setup, self.options), **compiled_arguments(build.limits), kv_cache_config=cache
        ), words

    def _build(self, folder: Path) -> EngineBuild:
        """As the manifest has it: an engine that the spec describes has no file of it."""
        try:
            if self.setup.compiled is not None:
                return parse_build(self.setup.compiled)
            return read_build((folder / FILE).read_bytes())
        except (OSError, ValueError) as error:
            mend = "build the package again"
            raise LoadError(f"{FILE} cannot be read: {error}", where=str(folder), mend=mend) from error
