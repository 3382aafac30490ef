"""CTranslate2: converted model folders in int8 or float16, on CPU or GPU."""

from .recipe import Recipe

RECIPE = Recipe(
    engine="ctranslate2",
    distribution="ctranslate2",
    default_version="4.8.5",
    weights=("config.json", "model.bin", "tokenizer.json"),
    folder=True,
    data_files=("model.bin",),  # CTranslate2's own binary format
    companions=("jinja2>=3.1.5,<4", "tokenizers>=0.22,<0.24"),
    system_packages=("libgomp1",),
)
