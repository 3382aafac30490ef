"""Models of fakes.models as CTranslate2 opens them. Needs ctranslate2, and torch and transformers to convert with."""

import json
from pathlib import Path

COPIED = ["tokenizer.json", "tokenizer_config.json"]


def convert(source: Path, folder: Path, quantization: str = "float32") -> Path:
    """Convert the Hugging Face folder `source` into `folder`, by the library's own converter."""
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(source), copy_files=COPIED)
    converter.convert(str(folder), quantization=quantization)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if (
        config["unk_token"] is None
    ):  # hello's tokenizer has none, and some of the converters write null, which does not load
        path.write_text(json.dumps(config | {"unk_token": ""}))
    return folder
