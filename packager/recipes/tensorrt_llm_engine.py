"""TensorRT-LLM's compiled engines, which 1.2.1 is the last version to have. It comes in NVIDIA's images alone."""

from .recipe import Format, Recipe, Vendor

_MATRIX = "TensorRT-LLM 1.2 docs, numerical precision: hardware support matrix"
_BUILDER = f"{_MATRIX}; builder.py of 1.2 refuses it from 10.0 on"
_BUILD = "TensorRT-LLM's LLM API (`_tensorrt_engine.LLM(..., quant_config=...).save(FOLDER)`)"

RECIPE = Recipe(
    engine="tensorrt_llm_engine",
    distribution=None,
    default_version="1.2.1",
    oldest="1.0.0",  # the first with tensorrt_llm._tensorrt_engine
    newest="1.2.1",
    newest_note="it is the last TensorRT-LLM that has compiled engines: `engine.kind: tensorrt_llm` needs none",
    vendor=Vendor("tensorrt-llm", "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"),
    weights=("config.json", "tokenizer.json", ".engine"),
    folder=True,
    gpu_only=True,
    companions=("jinja2>=3.1.6,<4", "nvidia-ml-py>=12.560,<14"),
    floor=80,
    floor_source="TensorRT-LLM 1.2 docs, support matrix: Ampere and later",
    formats={
        "quantization": (
            Format("int8", _BUILDER, floor=80, below=100, weights=("w8a16",), made_by=_BUILD),
            Format("int4", _BUILDER, floor=80, below=100, weights=("w4a16",), made_by=_BUILD),
            Format("awq", _BUILDER, floor=80, below=100, weights=("w4a16_awq",), made_by=_BUILD),
            Format("gptq", _BUILDER, floor=80, below=100, weights=("w4a16_gptq",), made_by=_BUILD),
            Format("fp8", _MATRIX, floor=89, weights=("fp8",), made_by=_BUILD),
        ),
        "kv_cache": (
            Format("int8", _BUILDER, floor=80, below=100),
            # models/*/convert.py quantize of 1.2 asserts an int8 cache beside weights that alone are quantized.
            Format("fp8", _MATRIX, floor=89, without=("int8", "int4")),
        ),
    },
)
