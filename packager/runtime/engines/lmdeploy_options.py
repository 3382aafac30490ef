"""The spec's words for LMDeploy, in the words of its engines' configurations. Pure: nothing of LMDeploy is imported."""

from dataclasses import dataclass
from typing import Any

from ..engine import EngineSetup

TURBOMIND, PYTORCH = "turbomind", "pytorch"
_POLICIES = {"auto": 0, "int4": 4, "int8": 8, "fp8": 16, "fp8_e5m2": 17, "turbo_quant": 42}
"""LMDeploy's numbers for the key-value cache's format (messages.py QuantPolicy)."""


@dataclass(frozen=True, slots=True)
class LmdeployOptions:
    """The spec's words; see LmdeploySpec."""

    backend: str = TURBOMIND
    context_length: int | None = None
    dtype: str = "auto"
    tensor_parallel: int = 1
    kv_cache: str = "auto"
    cache_share: float = 0.8
    prefix_caching: bool = False


def config_words(setup: EngineSetup, options: LmdeployOptions) -> dict[str, Any]:
    """The keywords for TurbomindEngineConfig or PytorchEngineConfig, whichever `options.backend` names.

    How the weights are quantized stands in their own config.json, which both engines follow.
    """
    words = {
        "tp": options.tensor_parallel,
        "session_len": options.context_length,
        "max_batch_size": setup.slots,
        "cache_max_entry_count": options.cache_share,
        "dtype": options.dtype,
        "quant_policy": _POLICIES[options.kv_cache],
        "enable_prefix_caching": options.prefix_caching,
        "language_model_only": True,  # only text is asked and answered here
        "enable_metrics": False,  # they are ours
    }
    # Else the PyTorch engine gives none; TurboMind's are of what its filters left, and not given.
    return words | {"logprobs_mode": "raw_logprobs"} if options.backend == PYTORCH else words
