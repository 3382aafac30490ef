"""Whether an engine can serve a LoRA adapter, by its adapter_config.json: it tells only after it has loaded the model. Pure."""

import json
from collections.abc import Mapping
from typing import Any, get_args

from ..errors import Problem
from ..spec.engine import VllmSpec
from ..spec.load import SpecFile

CONFIG = "adapter_config.json"
_UNSUPPORTED: Mapping[str, str] = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA with biases of its own",
    "modules_to_save": "LoRA with whole modules beside it (`modules_to_save`)",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "LoRA with replicated layers",
    "use_qalora": "QALoRA",
}
"""What vLLM says of itself that it does not serve, by PEFT's name of it (vllm 0.32.0, lora/peft_helper.py)."""


def check_adapter(file: SpecFile, number: int, data: bytes) -> list[Problem]:
    """What keeps the spec's adapter `number`, whose configuration is `data`, from being served."""
    assert file.spec.weights is not None
    name = file.spec.weights.adapters[number].name
    where = file.where("weights", "adapters", number, "source")
    try:
        said: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        return [Problem(f"{CONFIG} of the adapter {name} is not JSON: {error}", where, "restore the file")]
    if not isinstance(said, dict):
        return [Problem(f"{CONFIG} of the adapter {name} is no mapping", where, "restore the file")]
    mend = "merge it into the weights, or train a plain LoRA"
    found = [
        Problem(f"the engine {file.spec.engine.kind} serves no {words}, which the adapter {name} is", where, mend)
        for words in _kinds(said)
    ]
    return found or _rank(file, name, said)


def _kinds(said: Mapping[str, Any]) -> list[str]:
    """What the adapter is that is not plain LoRA."""
    kind, bias = said.get("peft_type", "LORA"), said.get("bias", "none")
    if kind != "LORA":
        return [f"{str(kind)[:40]} of PEFT"]
    biased = [f"LoRA that trains biases (`bias: {str(bias)[:40]}`)"] if bias != "none" else []
    return [*(words for key, words in _UNSUPPORTED.items() if said.get(key)), *biased]


def _rank(file: SpecFile, name: str, said: Mapping[str, Any]) -> list[Problem]:
    most, patterns = getattr(file.spec.engine, "max_lora_rank", None), said.get("rank_pattern")
    ranks = [said.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    rank = max((one for one in ranks if type(one) is int), default=0)
    if most is None or rank <= most:
        return []
    allowed = get_args(VllmSpec.model_fields["max_lora_rank"].annotation)
    fits = next((one for one in allowed if one >= rank), None)
    mend = f"write `engine.max_lora_rank: {fits}`" if fits else "merge it into the weights: no engine takes such a rank"
    what = f"the adapter {name} has rank {rank}, and `max_lora_rank` is {most}"
    return [Problem(what, file.where("engine", "max_lora_rank"), mend)]
