"""Whether the GPUs that share each layer (`tensor_parallel`) can share this model. Pure."""

from ..errors import Problem
from ..recipes import RECIPES
from ..spec.load import SpecFile
from .model import ModelFacts

_KEYS = ("vllm", "lmdeploy", "tensorrt_llm")
"""Engines that put heads of keys on GPUs as `shares` says; what compiled engines made of odd numbers is in their files.

vllm 0.32.0, layers/linear.py QKVParallelLinear; lmdeploy 0.18.0, turbomind/builders/attention.py _repeat_kv_heads and
pytorch/config.py get_num_qkv_head_by_tp; TensorRT-LLM 1.2, _torch/models/modeling_utils.py duplicate_kv_weight.
"""

_MOST = 1024
"""GPUs that a spec may name (spec/engine.py): config.json may say any number of heads."""


def shares(engine: str, model: ModelFacts, parallel: int) -> bool:
    """Whether so many GPUs can share each layer of the model, as far as it says.

    Of attention heads each has as many; of keys too, or each head is on as many GPUs. What shares a scale stays together.
    """
    heads = model.heads is None or model.heads % parallel == 0
    return heads and _shares_keys(engine, model, parallel) and not _cut(engine, model, parallel)


def unshared(file: SpecFile, model: ModelFacts) -> tuple[Problem, ...]:
    """The problem with what cannot be shared evenly by as many GPUs as share a layer."""
    engine, parallel = file.spec.engine.kind, getattr(file.spec.engine, "tensor_parallel", 1)
    if model.heads is None or shares(engine, model, parallel):
        return ()
    if model.heads % parallel:
        what = f"{model.heads} attention heads"
    elif not _shares_keys(engine, model, parallel):
        what = f"{model.kv_heads} heads of keys"
    else:
        first, *_ = _cut(engine, model, parallel)
        what = f"{first} inputs, which are quantized in groups of {model.group}"
    what = f"`tensor_parallel: {parallel}` cannot share the model's {what}"
    fits = [number for number in range(1, min(model.heads, _MOST) + 1) if shares(engine, model, number)]
    mend = f"write one of: {', '.join(map(str, fits))}"
    if fits == [1]:
        mend = "write `tensor_parallel: 1`"
        if hasattr(file.spec.engine, "pipeline_parallel"):
            mend += f", and `pipeline_parallel: {parallel * file.spec.engine.pipeline_parallel}` for as many GPUs"
    return (Problem(what, file.where("engine", "tensor_parallel"), mend),)


def _cut(engine: str, model: ModelFacts, parallel: int) -> tuple[int, ...]:
    """Numbers of inputs that so many GPUs cannot divide between the groups that share a scale."""
    row = RECIPES[engine].of_weights(model.quantization)
    if row is None or not row.whole_groups or not model.group:
        return ()
    return tuple(width for width in model.cuts if width // model.group % parallel)


def _shares_keys(engine: str, model: ModelFacts, parallel: int) -> bool:
    keys = model.kv_heads
    return engine not in _KEYS or keys is None or keys % parallel == 0 or parallel % keys == 0
