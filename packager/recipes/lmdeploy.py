"""LMDeploy: safetensors, plain, AWQ or GPTQ, on GPUs, by its TurboMind engine or its PyTorch engine."""

from .recipe import Format, Recipe
from .records.lmdeploy import RECORD

_CONVERTER = "lmdeploy 0.18.0, turbomind/converter.py _SUPPORTED_GROUP_SIZES; its machine code begins with sm_70"
_KINDS = (
    f"{_CONVERTER}; get_tm_config asserts `version: gemm`, `sym` and no `desc_act`, weight_format.py has 4 bits alone"
)
_PACKED = (
    f"{_CONVERTER}; its PyTorch engine has them for experts alone, pytorch/nn/moe/compressed_tensors.py; "
    "pytorch/config.py _parse_compressed_tensors_config"
)
_DTYPES = "lmdeploy 0.18.0, turbomind/converter.py _resolve_dtype, which falls back to float16"
_CACHE = "lmdeploy 0.18.0, messages.py QuantPolicy"
_FP8_CACHE = f"{_CACHE}: its PyTorch engine alone has it, in Triton's float8 types, which begin with 8.9"

RECIPE = Recipe(
    engine="lmdeploy",
    distribution="lmdeploy",
    default_version="0.18.0",
    oldest="0.16.0",  # the first that has AsyncEngine.preprocess
    weights=("config.json", ".safetensors"),
    folder=True,
    own_code=True,
    gpu_only=True,
    companions=("jinja2>=3.1.6,<4",),
    system_packages={
        "gcc": "Triton compiles kernels of the PyTorch engine at the first request (triton's _find_compiler)",
        "libc6-dev": "headers for what Triton compiles",
        "libgomp1": "OpenMP (libgomp.so.1)",
        "python3-dev": "Python.h, for what Triton compiles",
    },
    floor=75,
    floor_source=(
        "torch 2.12.1, the newest that lmdeploy 0.18.0 takes, is built with CUDA 13, which dropped Maxwell, Pascal and "
        "Volta (CUDA 13.0 release notes); TurboMind's own code begins with sm_70"
    ),
    formats={
        "quantization": (
            Format("awq", _CONVERTER, floor=70, weights=("awq",), made_by="`lmdeploy lite auto_awq`"),
            Format("gptq", _CONVERTER, floor=70, weights=("gptq",), made_by="`lmdeploy lite auto_gptq`"),
        ),
        "weights": (
            Format(
                "awq",
                _KINDS,
                floor=70,
                groups={"turbomind": (128,)},
                kinds={"turbomind": ("",), "pytorch": ("", "unversioned", "exllama")},
            ),
            Format("gptq", _KINDS, floor=70, groups={"turbomind": (128,)}, kinds={"turbomind": ("",)}),
            Format(
                "compressed-tensors",
                _PACKED,
                floor=70,
                groups={"turbomind": (32, 128), "pytorch": (32,)},
                kinds={"turbomind": ("", "pack-quantized"), "pytorch": ("pack-quantized",)},
            ),
        ),
        "dtype": (
            Format("bfloat16", _DTYPES, floor=80, fallback="float16"),
            Format("float16", _DTYPES),
        ),
        "kv_cache": (
            Format("int8", _CACHE),
            Format("int4", _CACHE),
            Format("fp8", _FP8_CACHE, floor=89),
            Format("fp8_e5m2", _FP8_CACHE, floor=89),
            Format("turbo_quant", f"{_CACHE}: its PyTorch engine alone has it"),
        ),
    },
    record=RECORD,
)
