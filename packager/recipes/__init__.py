"""One pure file per engine, and the table that names them."""

from collections.abc import Mapping

from . import ctranslate2, echo, llama_cpp, lmdeploy, tensorrt_llm, tensorrt_llm_engine, transformers, vllm
from .recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    "ctranslate2": ctranslate2.RECIPE,
    "echo": echo.RECIPE,
    "llama_cpp": llama_cpp.RECIPE,
    "lmdeploy": lmdeploy.RECIPE,
    "tensorrt_llm": tensorrt_llm.RECIPE,
    "tensorrt_llm_engine": tensorrt_llm_engine.RECIPE,
    "transformers": transformers.RECIPE,
    "vllm": vllm.RECIPE,
}
"""Every engine of the spec has its recipe here (tests/unit/recipes compares the two)."""
