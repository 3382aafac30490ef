"""vLLM: safetensors in every quantization that its weights' config names; bitsandbytes by its plugin."""

from .recipe import Recipe

RECIPE = Recipe(
    engine="vllm",
    distribution="vllm",
    default_version="0.32.0",
    weights=("config.json", ".safetensors"),
    folder=True,
    own_code=True,
    adapters=True,
    quantizations=("none", "awq", "gptq", "fp8", "nf4"),
    plugins={"nf4": ("vllm-bnb-plugin",)},
    # Triton compiles kernels at the first request: a C compiler and Python's headers must be there.
    system_packages=("gcc", "libc6-dev", "libgomp1", "libnuma1", "python3-dev"),
)
