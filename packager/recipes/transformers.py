"""Hugging Face transformers on torch: safetensors, bitsandbytes quantization at load."""

from .recipe import Format, Recipe
from .records.transformers import RECORD

_BITSANDBYTES = "bitsandbytes 0.50.2, README: CUDA from SM60 on, CPU with AVX2"
_TORCH = "torch 2.13, cuda/__init__.py is_bf16_supported: native from 8.0 on, emulated before"
_QUANTIZERS = "transformers 5.23.0, quantizers/quantizer_{}.py validate_environment"

RECIPE = Recipe(
    engine="transformers",
    distribution="transformers",
    default_version="5.23.0",
    weights=("config.json", ".safetensors"),
    folder=True,
    own_code=True,
    companions=("accelerate>=1.1", "jinja2>=3.1.6,<4", "tokenizers>=0.23.1,<0.24", "torch>=2.13,<2.14"),
    plugins=dict.fromkeys(("int8", "int4", "nf4"), ("bitsandbytes==0.50.2",)),
    system_packages={"libgomp1": "OpenMP: torch and bitsandbytes compute on CPU with it (libgomp.so.1)"},
    floor=75,
    floor_source="torch 2.13 is built with CUDA 13, which dropped Maxwell, Pascal and Volta (CUDA 13.0 release notes)",
    formats={
        "quantization": (
            Format("int8", _BITSANDBYTES, floor=60, weights=("bitsandbytes:int8",), at_load=True),
            Format("int4", _BITSANDBYTES, floor=60, weights=("bitsandbytes:fp4",), at_load=True),
            Format("nf4", _BITSANDBYTES, floor=60, weights=("bitsandbytes:nf4",), at_load=True),
        ),
        "weights": (
            Format("bitsandbytes", _BITSANDBYTES, floor=60, needs=("bitsandbytes",)),
            Format("awq", _QUANTIZERS.format("awq"), needs=("gptqmodel",)),
            Format("gptq", _QUANTIZERS.format("gptq"), needs=("gptqmodel", "optimum")),
            Format("compressed-tensors", _QUANTIZERS.format("compressed_tensors"), needs=("compressed-tensors",)),
            Format("torchao", _QUANTIZERS.format("torchao"), needs=("torchao",)),
            Format("quanto", _QUANTIZERS.format("quanto"), needs=("optimum-quanto",)),
            Format("auto-round", _QUANTIZERS.format("auto_round"), needs=("auto-round",)),
            Format(
                "fp8",
                _QUANTIZERS.format("finegrained_fp8"),
                native=89,
                note="the weights become bfloat16 when they are loaded, and take twice the memory",
            ),
            Format("fbgemm_fp8", _QUANTIZERS.format("fbgemm_fp8"), floor=90, cpu=False, needs=("fbgemm-gpu",)),
        ),
        "dtype": (
            Format("bfloat16", _TORCH, floor=80),
            Format("float16", _TORCH),
            Format("float32", _TORCH),
        ),
    },
    record=RECORD,
)
