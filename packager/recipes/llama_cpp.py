"""llama.cpp through the prebuilt xllamacpp wheel: GGUF weights, parallel slots, CPU or GPU."""

from .recipe import Recipe

RECIPE = Recipe(
    engine="llama_cpp",
    distribution="xllamacpp",
    default_version="2026.10.11549",
    weights=(".gguf",),
    most_requests=256,  # LLAMA_MAX_SEQ of llama.cpp's src/llama-cparams.h
    system_packages=("libgomp1",),
)
