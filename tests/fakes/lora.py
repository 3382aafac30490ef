"""Small real LoRA adapters for the models of fakes.models: what PEFT writes, with random numbers."""

import json
from pathlib import Path

import numpy as np
from fakes.models import LAYERS, WIDTH


def write_adapter(folder: Path, *, rank: int = 8, seed: int = 1, strength: float = 1.0) -> Path:
    """Write an adapter for the attention of a Llama, Mistral or Qwen2 of fakes.models. `strength` 0 changes nothing."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = draw.normal(0, 0.2, (rank, WIDTH)).astype(np.float32)
            tensors[f"{place}.lora_B.weight"] = strength * draw.normal(0, 0.2, (WIDTH, rank)).astype(np.float32)
    save_file(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1))
    return folder
