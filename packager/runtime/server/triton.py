"""Triton's HTTP interface: the generate extension with the inputs of its vLLM backend, and what `tritonclient` asks.

Two things differ from Triton, on purpose: a stream that failed does not end cleanly after its error event, and a
parameter that the engine has not is refused by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import PackagerError, RequestError
from ..engine import SAMPLING, Delta, GenerationRequest
from ..fields import Fields
from .http import error_text
from .sse import EventShape, Reply, encode_event, token_template
from .strictjson import parse_json

VERSION = "1"
"""A package has one model in one version."""

INPUTS: Mapping[str, str] = {
    "text_input": "BYTES",
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
    "exclude_input_in_output": "BOOL",
    "return_finish_reason": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
}
OUTPUTS: Mapping[str, str] = {
    "text_output": "BYTES",
    "finish_reason": "BYTES",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}
_TYPES = {"BYTES": "TYPE_STRING", "BOOL": "TYPE_BOOL", "UINT32": "TYPE_UINT32"}
_ID = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_NUMBERS = SAMPLING - {"stop"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, with the id that its answers give back, and the outputs beside the text that it wants."""

    request: GenerationRequest
    stream: bool
    outputs: frozenset[str]
    id: str | None
    prefix: str
    """What stands before the text: the vLLM backend repeats the prompt in a whole answer, unless told not to."""


def parse_generate(body: Any, request_id: str, model: str) -> Reply:
    """POST generate: one answer. Raises RequestError."""
    return _reply(parse_inputs(body, request_id), model)


def parse_generate_stream(body: Any, request_id: str, model: str) -> Reply:
    """POST generate_stream: an event for each token. Raises RequestError."""
    return _reply(parse_inputs(body, request_id, stream=True), model)


def parse_inputs(body: Any, request_id: str, *, stream: bool = False) -> Asked:
    """What a body asks, with the inputs and parameters of the vLLM backend, of a route that streams or does not.

    Raises RequestError naming what is off.
    """
    fields = Fields(_flat(body))
    prompt = fields.text("text_input")
    if prompt is None:
        raise fields.refusal("text_input", "is missing")
    if fields.given("stream") and fields.flag("stream") != stream:
        there = "generate" if stream else "generate_stream"
        raise fields.refusal("stream", f"cannot be {str(not stream).lower()} here: POST to {there}")
    repeats = not fields.flag("exclude_input_in_output") if fields.given("exclude_input_in_output") else not stream
    if repeats and stream:
        raise fields.refusal("exclude_input_in_output", "cannot be false in a stream")
    wanted = frozenset(name for name in OUTPUTS if name != "text_output" and fields.flag(f"return_{name}"))
    for name in ("return_logprobs", "return_cumulative_logprob"):
        fields.neutral(name, False)
    fields.neutral("n", 1)
    identity, adapter = fields.text("id"), fields.text("lora_name")
    if identity is not None and not _ID.fullmatch(identity):
        raise fields.refusal("id", "must be at most 128 characters, none of them a control character")
    request = GenerationRequest(request_id, prompt, sampling=fields.sampling(), adapter=adapter)
    fields.finish()
    return Asked(request, stream, wanted, identity, prompt if repeats else "")


def outputs_of(asked: Asked, text: str, last: Delta) -> dict[str, Any]:
    """The output tensors' values by name."""
    usage = last.usage or (0, 0)
    more = {"finish_reason": last.finish_reason, "num_input_tokens": usage[0], "num_output_tokens": usage[1]}
    return {"text_output": text} | {name: more[name] for name in more if name in asked.outputs}


def head_of(asked: Asked, model: str) -> dict[str, Any]:
    """What every answer begins with."""
    identity = {} if asked.id is None else {"id": asked.id}
    return identity | {"model_name": model, "model_version": VERSION}


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    """A JSON object, empty when it is not given; `where` names it in the error. Raises RequestError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{where or 'the body'} must be a JSON object", where=where)
    return value


def error_body(error: PackagerError) -> dict[str, Any]:
    """The error as Triton's clients read it."""
    return {"error": error_text(error)}


def server_metadata(version: str) -> dict[str, Any]:
    """GET /v2."""
    extensions = ["binary_tensor_data", "generate", "model_configuration", "parameters"]
    return {"name": "packager", "version": version, "extensions": extensions}


def model_metadata(model: str, engine: str) -> dict[str, Any]:
    """GET /v2/models/NAME."""

    def tensors(table: Mapping[str, str]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": kind, "shape": [1]} for name, kind in table.items()]

    return {
        "name": model,
        "versions": [VERSION],
        "platform": engine,
        "inputs": tensors(INPUTS),
        "outputs": tensors(OUTPUTS),
    }


def model_config(model: str, engine: str) -> dict[str, Any]:
    """GET /v2/models/NAME/config."""
    inputs = [
        {"name": name, "data_type": _TYPES[kind], "dims": [1], "optional": name != "text_input"}
        for name, kind in INPUTS.items()
    ]
    return {
        "name": model,
        "platform": "",
        "backend": engine,
        "max_batch_size": 0,
        "input": inputs,
        "output": [{"name": name, "data_type": _TYPES[kind], "dims": [1]} for name, kind in OUTPUTS.items()],
        "model_transaction_policy": {"decoupled": False},
    }


def _reply(asked: Asked, model: str) -> Reply:
    head = head_of(asked, model)
    before, after = token_template(lambda text: head | {"text_output": text})

    def closing(last: Delta) -> bytes:
        return encode_event(head | outputs_of(asked, "", last)) if asked.outputs else b""

    def whole(text: str, last: Delta) -> Any:
        return head | outputs_of(asked, asked.prefix + text, last)

    return Reply(asked.request, asked.stream, EventShape(b"", before, after, closing, done=b""), whole)


def _flat(body: Any) -> dict[str, Any]:
    """All that is asked, on one level: inputs, `parameters`, and what the text of `sampling_parameters` holds."""
    asked = {name: _scalar(value) if name in INPUTS else value for name, value in as_object(body, "").items()}
    parameters = as_object(asked.pop("parameters", None), "parameters")
    text = asked.pop("sampling_parameters", None)
    text = "{}" if text is None else text
    if not isinstance(text, str):
        raise RequestError("sampling_parameters must be a JSON object as text", where="sampling_parameters")
    sampling = parse_json(text.encode(errors="replace"), "sampling_parameters")
    for layer in (parameters, as_object(sampling, "sampling_parameters")):
        if twice := sorted(layer.keys() & asked.keys()):
            raise RequestError(f"{twice[0]} is given twice", where=twice[0])
        asked |= layer
    return {name: _number(value) if name in _NUMBERS else value for name, value in asked.items()}


def _scalar(value: Any) -> Any:
    """A tensor of one element may come as a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 and value[0] is not None else value


def _number(value: Any) -> Any:
    """Clients of the vLLM backend write numbers as text, too."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode(errors="replace"))
    except RequestError:
        return value
