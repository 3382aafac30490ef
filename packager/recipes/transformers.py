"""Hugging Face transformers on torch: safetensors, bitsandbytes quantization at load."""

from .recipe import Recipe

RECIPE = Recipe(
    engine="transformers",
    distribution="transformers",
    default_version="5.23.0",
    weights=("config.json", ".safetensors"),
    folder=True,
    own_code=True,
    quantizations=("none", "int8", "int4", "nf4"),
    companions=("accelerate>=1.1", "torch>=2.13,<2.15"),
    plugins=dict.fromkeys(("int8", "int4", "nf4"), ("bitsandbytes==0.50.2",)),
    system_packages=("libgomp1",),
)
