"""CTranslate2: converted model folders in int8 or float16, on CPU or GPU."""

from .recipe import Format, Recipe
from .records.ctranslate2 import RECORD

_TABLE = "CTranslate2 docs/quantization.md, supported types; on CPU tried with 4.8.5 (get_supported_compute_types)"

RECIPE = Recipe(
    engine="ctranslate2",
    distribution="ctranslate2",
    default_version="4.8.5",
    weights=("config.json", "model.bin", "tokenizer.json"),
    folder=True,
    data_files=("model.bin",),  # CTranslate2's own binary format
    converter="ct2-transformers-converter --model FROM --output_dir TO --quantization int8 --copy_files tokenizer.json tokenizer_config.json generation_config.json",
    companions=("jinja2>=3.1.6,<4", "tokenizers>=0.22,<0.24"),
    system_packages={"libgomp1": "OpenMP (libgomp.so.1)"},
    gpu_note=(
        "ctranslate2 loads libcublas.so.12, which its wheel lacks: take a base with CUDA 12, or add nvidia-cublas-cu12 "
        "to `image.python_packages` and the folder nvidia/cublas/lib of the base's Python packages to LD_LIBRARY_PATH"
    ),
    formats={
        "compute_type": (
            Format("int8", _TABLE, floor=61),
            Format("int8_float32", _TABLE, floor=61),
            Format("int8_float16", _TABLE, floor=70, cpu=False),
            Format("int8_bfloat16", _TABLE, floor=80, cpu=False),
            Format("float32", _TABLE),
            Format("float16", _TABLE, floor=70, cpu=False),
            Format("bfloat16", _TABLE, floor=80, cpu=False),
        ),
    },
    record=RECORD,
)
