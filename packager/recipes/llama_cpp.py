"""llama.cpp through the prebuilt xllamacpp wheel: GGUF weights, parallel slots, CPU or GPU."""

from .recipe import Format, Recipe
from .records.llama_cpp import RECORD

_CACHE = "llama.cpp common/arg.cpp, types of the key-value cache; tried on CPU with xllamacpp 2026.10.11549"

RECIPE = Recipe(
    engine="llama_cpp",
    distribution="xllamacpp",
    default_version="2026.10.11549",
    weights=(".gguf",),
    most_requests=256,  # LLAMA_MAX_SEQ of llama.cpp's src/llama-cparams.h
    system_packages={"libgomp1": "OpenMP (libgomp.so.1)"},
    floor=50,
    floor_source="xllamacpp 2026.10.11549, README, architectures of its CUDA 12.8 wheel",
    gpu_note="xllamacpp on the Python package index computes on CPU: let pip find the project's own CUDA wheels",
    formats={
        "kv_cache": (
            Format("f16", _CACHE),
            Format("q8_0", _CACHE),
            Format("q4_0", _CACHE),
        ),
    },
    record=RECORD,
)
