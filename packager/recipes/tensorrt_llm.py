"""TensorRT-LLM's PyTorch engine: checkpoints of Hugging Face and ModelOpt. It comes in NVIDIA's images alone."""

from .recipe import Format, Recipe, Vendor

_MATRIX = "TensorRT-LLM 1.2 docs, numerical precision: hardware support matrix"
_MODELOPT = "ModelOpt (`hf_ptq.py --export_fmt hf`)"

RECIPE = Recipe(
    engine="tensorrt_llm",
    distribution=None,
    default_version="1.2.1",
    oldest="1.0.0",  # the first whose `tensorrt_llm.LLM` is the PyTorch engine
    vendor=Vendor("tensorrt-llm", "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"),
    weights=("config.json", "tokenizer.json", ".safetensors"),
    folder=True,
    gpu_only=True,
    companions=("jinja2>=3.1.6,<4",),
    floor=80,
    floor_source="TensorRT-LLM 1.2 docs, support matrix: Ampere and later",
    formats={
        "quantization": (
            Format("fp8", _MATRIX, floor=89, weights=("fp8", "modelopt:fp8"), made_by=_MODELOPT),
            Format("awq", _MATRIX, floor=80, below=100, weights=("modelopt:w4a16_awq",), made_by=_MODELOPT),
        ),
        "weights": (
            Format("modelopt:fp8", _MATRIX, floor=89),
            Format("fp8", f"{_MATRIX}: FP8 block scales", floor=90),
            Format("modelopt:nvfp4", _MATRIX, floor=100),
            Format("modelopt:w4a16_awq", _MATRIX, floor=80, below=100),
        ),
        "kv_cache": (
            Format("fp8", _MATRIX, floor=89),
            Format("nvfp4", _MATRIX, floor=100),
        ),
    },
)
