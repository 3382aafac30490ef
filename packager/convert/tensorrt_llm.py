"""Quantizes and compiles a model, where TensorRT-LLM is. A program: see step.py.

The task: `calls` as in plan.Build.calls, and `save`, the folder that gets the engine. Nothing of TensorRT-LLM is imported
outside of the function: its MPI workers import this module, and must not build an engine of their own.
"""

from collections.abc import Mapping
from typing import Any

from .program import serve


def compile_engine(task: Mapping[str, Any]) -> None:
    """Build the engine, which its LLM does and then loads it, and save it."""
    from tensorrt_llm._tensorrt_engine import LLM
    from tensorrt_llm.llmapi import BuildConfig, CalibConfig, QuantAlgo, QuantConfig

    calls = task["calls"]
    configs: dict[str, Any] = {"build_config": BuildConfig(**calls["BuildConfig"])}
    if "QuantConfig" in calls:
        configs["quant_config"] = QuantConfig(**{name: QuantAlgo[one] for name, one in calls["QuantConfig"].items()})
    if "CalibConfig" in calls:
        configs["calib_config"] = CalibConfig(**calls["CalibConfig"])
    llm = LLM(**calls["LLM"], **configs)
    llm.save(task["save"])
    llm.shutdown()


if __name__ == "__main__":
    serve(compile_engine)
