"""Merges a LoRA adapter into its model, by PEFT on the CPU. A program: see step.py.

The task: `model` and `adapter` are folders, `save` one that is made, `own_code` says that the model's own code may run.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .program import serve


def merge(task: Mapping[str, Any]) -> None:
    """Write the merged model. Exits when the adapter is not this model's."""
    from peft import PeftModel, get_peft_model_state_dict  # type: ignore[import-not-found]
    from safetensors import safe_open  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM

    # Not `dtype`: the images of TensorRT-LLM 1.0 have a transformers that does not know it yet.
    model = AutoModelForCausalLM.from_pretrained(task["model"], torch_dtype="auto", trust_remote_code=task["own_code"])
    adapted = PeftModel.from_pretrained(model, task["adapter"])
    with safe_open(Path(task["adapter"]) / "adapter_model.safetensors", "pt") as file:
        has = {name for name in file.keys() if "lora_" in name}  # noqa: SIM118 -- it is no mapping
    takes = {name for name in get_peft_model_state_dict(adapted) if "lora_" in name}
    if has != takes:  # PEFT warns of the one and says nothing of the other
        found = ", ".join(sorted(has ^ takes)[:5])
        sys.exit(
            f"the adapter is not this model's: {len(has ^ takes)} of its tensors have no counterpart, such as {found}"
        )
    adapted.merge_and_unload(safe_merge=True).save_pretrained(task["save"])


if __name__ == "__main__":
    serve(merge)
