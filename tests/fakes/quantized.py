"""Models that were quantized before they are packaged: what bitsandbytes saves. Needs torch, transformers, bitsandbytes."""

import shutil
from pathlib import Path


def quantize(source: Path, folder: Path) -> Path:
    """`source` with its weights as NF4, double quantized, written to `folder` unless it is there."""
    if folder.exists():
        return folder
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=quantization, device_map={"": "cpu"})
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(folder)
    return folder
