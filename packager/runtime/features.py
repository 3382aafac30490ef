"""Does the engine have what a request asks? What it lacks is refused by name: an ignored parameter would be a lie."""

from dataclasses import fields

from ..errors import RequestError
from .engine import Features, GenerationRequest, SamplingParams
from .structured import forced

_NEUTRAL = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "presence_penalty": 0, "frequency_penalty": 0}
_NEUTRAL |= {"repetition_penalty": 1}
"""Values that change nothing: an engine without the parameter does what they say."""
_IDLE = {one.name: (getattr(SamplingParams(), one.name), _NEUTRAL.get(one.name)) for one in fields(SamplingParams)}
"""What a request may say of each parameter without asking for it."""


def refuse_unsupported(request: GenerationRequest, features: Features, engine: str) -> None:
    """Raise RequestError for the first thing that `request` asks and the engine has not."""
    for name, idle in _IDLE.items():
        if name not in features.sampling and getattr(request.sampling, name) not in idle:
            raise _refusal(name, f"is not supported by the engine {engine}")
    if (request.sampling.logprobs or 0) > features.logprobs:
        raise _refusal("logprobs", f"must be at most {features.logprobs} with the engine {engine}")
    if request.messages is not None and not features.chat:
        mend = "send a prompt to /v1/completions, or package the model with `weights.chat_template`"
        raise _refusal("messages", "cannot be used: the model has no chat template", mend)
    if request.output is not None and request.output.kind not in features.outputs:
        can = f"it has {', '.join(sorted(features.outputs))}" if features.outputs else "it has none"
        raise _refusal("response_format", f"cannot be {request.output.kind} with the engine {engine}: {can}")
    if request.tools is not None and not features.tools:
        raise _refusal("tools", f"are not supported by the engine {engine} with this model")
    if request.sampling.ignore_eos and (request.output is not None or forced(request.tools)):
        raise _refusal("ignore_eos", "cannot be had with a form of the output, whose end is the answer's end")
    if request.adapter is not None and request.adapter not in features.adapters:
        raise _refusal("model", f"names no adapter of this package: {request.adapter}")


def _refusal(parameter: str, what: str, mend: str = "") -> RequestError:
    return RequestError(f"{parameter} {what}", where=parameter, mend=mend)
