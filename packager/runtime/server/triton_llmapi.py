"""TensorRT-LLM's `llmapi` model for Triton: its inputs and outputs, over packager's runtime.

Differences from NVIDIA's model are refusals: performance metrics, stop reasons, log probabilities and `best_of` are not
to be had. As there, each response of a stream has the whole text so far, an answer as a whole has the prompt before it
unless told otherwise, and a request with `stop` ends the one that has its id.
"""

from collections.abc import Mapping
from typing import Any

from ...errors import RequestError
from ..inputs import new_id
from .triton import Asked, parse_inputs
from .triton_backend import Inputs, PackagedModel, Reply, plain

_SAMPLING: Mapping[str, str] = {
    f"sampling_param_{name}": name
    for name in (
        *("temperature", "top_k", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "stop", "seed"),
    )
}
_NAMES: Mapping[str, str] = {
    "text_input": "text_input",
    "streaming": "stream",
    "sampling_param_exclude_input_from_output": "exclude_input_in_output",
    "return_finish_reason": "return_finish_reason",
    **_SAMPLING,
}
_NEUTRAL: Mapping[str, Any] = {
    "sampling_param_best_of": 1,
    "sampling_param_return_perf_metrics": False,
    "return_stop_reason": False,
    "return_cumulative_logprob": False,
    "stop": False,
}
"""What is not to be had, and the one value that asks for nothing of it."""
_OUTPUTS: Mapping[str, str] = {"text_output": "BYTES", "finish_reason": "BYTES"}
NEVER = frozenset(
    {
        *("stop_reason", "cumulative_logprob", "kv_cache_reused_block", "kv_cache_missed_block"),
        *("kv_cache_alloc_new_blocks", "kv_cache_alloc_total_blocks", "kv_cache_hit_rate", "arrival_time_ns"),
        *("first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns", "acceptance_rate"),
        *("total_accepted_draft_tokens", "total_draft_tokens"),
    }
)
"""Outputs that NVIDIA's model declares and ours never has."""


class LlmapiModel(PackagedModel):
    """The model `tensorrt_llm` of the package."""

    inputs = frozenset(_NAMES) | frozenset(_NEUTRAL)
    outputs = _OUTPUTS
    whole = True

    def parse(self, inputs: Inputs) -> Asked:
        return parse(inputs)

    async def answer(self, inputs: Inputs, reply: Reply) -> None:
        if inputs.tensors.get("stop") != [True]:
            await super().answer(inputs, reply)
        elif not reply.id:
            await self.fail(reply, "stop needs the id of the request to end", "INVALID_ARG")
        else:
            self.abort(reply.id)
            await self.fail(reply, "the request was cancelled", "CANCELLED")


def parse(inputs: Inputs) -> Asked:
    """What a request asks. Raises RequestError naming what is off."""
    given = {name: [plain(name, value) for value in values] for name, values in inputs.tensors.items()}
    for name, value in _NEUTRAL.items():
        if given.pop(name, [value]) != [value]:
            raise RequestError(f"{name} is not supported by this model server", where=name)
    if len(given["text_input"]) != 1:
        raise RequestError("text_input must be one text", where="text_input")
    body = {_NAMES[name]: values if name == "sampling_param_stop" else values[0] for name, values in given.items()}
    if not inputs.outputs >= NEVER:  # a client that names no outputs is told to want all
        for name in sorted(inputs.outputs - {"text_output"}):
            if name in NEVER:
                raise RequestError(f"the output {name} is not to be had", where=name)
            body[f"return_{name}"] = True
    parameters = inputs.named_parameters()
    return parse_inputs(body | {"parameters": parameters}, new_id(), stream=body.get("stream") is True)
