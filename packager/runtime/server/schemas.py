"""What the routes take and give, as JSON schemas.

`null` counts as not given, under any name; what an engine has not is refused by name (400), whatever stands here.
"""

from typing import Any

from .openai import MOST_LOGPROBS
from .triton import INPUTS, OUTPUTS

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_BOOLEAN: Schema = {"type": "boolean"}
_TEXT: Schema = {"type": "string", "minLength": 1}
_ANY_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}


def _one_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _list_of(item: Schema, most: int | None = None, least: int = 0) -> Schema:
    limits = {"minItems": least} if least else {}
    return {"type": "array", "items": item, **limits, **({} if most is None else {"maxItems": most})}


def _asked(required: Schema, **optional: Schema) -> Schema:
    """An object that a client sends: `required` fields and `optional` ones, and no others but null."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | {name: _one_of(schema, _NULL) for name, schema in optional.items()},
        "additionalProperties": _NULL,
    }


def _given(optional: Schema | None = None, **always: Schema) -> Schema:
    """An object that we answer with: exactly these fields."""
    more = optional or {}
    return {
        "type": "object",
        "required": list(always),
        "properties": always | more,
        "additionalProperties": False,
    }


# What clients send

_SAMPLING: Schema = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "repetition_penalty": {"type": "number", "minimum": 0.01, "maximum": 10},
    "ignore_eos": _BOOLEAN,
}
_MAX_TOKENS: Schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_STOP = {"stop": _one_of(_TEXT, _list_of(_TEXT, most=16))}

_PARTS = _list_of(
    {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": _ANY_TEXT},
        "additionalProperties": False,
    }
)
_CONTENT = {"content": _one_of(_ANY_TEXT, _PARTS)}
_SPEAKER = {"name": _TEXT}
_NO_CALLS = _SPEAKER | {"tool_calls": {"type": "array", "maxItems": 0}, "annotations": {"type": "array", "maxItems": 0}}
_CALL = _asked(
    {
        "id": _TEXT,
        "type": {"const": "function"},
        "function": _asked({"name": _TEXT, "arguments": _ANY_TEXT}),
    }
)
_MESSAGE = _one_of(
    _asked({"role": {"enum": ["system", "developer", "user"]}} | _CONTENT, **_NO_CALLS),
    _asked({"role": {"const": "assistant"}} | _CONTENT, **_NO_CALLS),
    _asked(
        {"role": {"const": "assistant"}, "tool_calls": _list_of(_CALL, least=1)},
        **_CONTENT,
        **_SPEAKER,
        annotations=_NO_CALLS["annotations"],
    ),
    _asked({"role": {"const": "tool"}, "tool_call_id": _TEXT} | _CONTENT, **_NO_CALLS),
)
_MESSAGES = {"messages": _list_of(_MESSAGE, least=1)}

_FORMAT = {
    "response_format": _one_of(
        _asked({"type": {"enum": ["text", "json_object"]}}),
        _asked(
            {
                "type": {"const": "json_schema"},
                "json_schema": _asked(
                    {"name": _NAME, "schema": {"type": "object"}}, description=_TEXT, strict=_BOOLEAN
                ),
            }
        ),
        _asked({"type": {"const": "grammar"}, "grammar": _TEXT}),
        _asked({"type": {"const": "regex"}, "regex": _TEXT}),
    )
}
_FUNCTION = _asked({"name": _NAME}, description=_ANY_TEXT, parameters={"type": "object"}, strict=_BOOLEAN)
_NAMED = {"type": "object", "required": ["name"], "properties": {"name": _NAME}, "additionalProperties": False}
_TOOLS: Schema = {
    "tools": _list_of(_asked({"type": {"const": "function"}, "function": _FUNCTION}), most=128),
    "tool_choice": _one_of(
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": _NAMED},
            "additionalProperties": False,
        },
    ),
    "parallel_tool_calls": _BOOLEAN,
}
_OPTIONS = _asked(
    {}, include_usage=_BOOLEAN, include_obfuscation={"const": False}, continuous_usage_stats={"const": False}
)
_SHARED: Schema = (
    _SAMPLING
    | _STOP
    | _FORMAT
    | {
        "max_tokens": _MAX_TOKENS,
        "n": {"type": "integer", "minimum": 1, "maximum": 16},
        "stream": _BOOLEAN,
        "stream_options": _OPTIONS,
        "user": {},
        "safety_identifier": {},
        "logit_bias": {"type": "object", "maxProperties": 0},
        "metadata": {"type": "object", "maxProperties": 0},
        "store": {"const": False},
        "service_tier": {"enum": ["auto", "default"]},
    }
)
_TOP = {"type": "integer", "minimum": 0, "maximum": MOST_LOGPROBS}

PREDICT = _one_of(
    _asked({"prompt": _TEXT}, **_SAMPLING, **_STOP, **_FORMAT, max_tokens=_MAX_TOKENS, adapter=_TEXT, stream=_BOOLEAN),
    _asked(_MESSAGES, **_SAMPLING, **_STOP, **_FORMAT, max_tokens=_MAX_TOKENS, adapter=_TEXT, stream=_BOOLEAN),
)
CHAT = _asked(
    {"model": _TEXT} | _MESSAGES,
    **_SHARED,
    **_TOOLS,
    max_completion_tokens=_MAX_TOKENS,
    logprobs=_BOOLEAN,
    top_logprobs=_TOP,
    functions={"type": "array", "maxItems": 0},
    modalities={"const": ["text"]},
)
COMPLETION = _asked(
    {"model": _TEXT, "prompt": _one_of(_TEXT, _list_of(_TEXT, most=128, least=1))},
    **_SHARED,
    logprobs=_TOP,
    echo={"const": False},
    best_of={"const": 1},
    suffix={"const": ""},
)


def _tensor(schema: Schema) -> Schema:
    """A tensor of one element may come as a list."""
    return _one_of(schema, {"type": "array", "items": schema, "minItems": 1, "maxItems": 1})


def _generate(*, stream: bool) -> Schema:
    flags = {name: _tensor(_BOOLEAN) for name in INPUTS if name.startswith("return_")}
    excludes = {"const": True} if stream else _BOOLEAN
    return _asked(
        {"text_input": _tensor(_TEXT)},
        **{name: _one_of(schema, _ANY_TEXT) for name, schema in (_SAMPLING | {"max_tokens": _MAX_TOKENS}).items()},
        **_STOP,
        **flags,
        stream=_tensor({"const": stream}),
        exclude_input_in_output=_tensor(excludes),
        return_logprobs={"const": False},
        return_cumulative_logprob={"const": False},
        n={"const": 1},
        id={"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[^\\x00-\\x1f\\x7f]+$"},
        lora_name=_TEXT,
        parameters={"type": "object"},
        sampling_parameters=_tensor(_ANY_TEXT),
    )


GENERATE, GENERATE_STREAM = _generate(stream=False), _generate(stream=True)


def _input(kind: str, element: Schema) -> Schema:
    names = [name for name, one in INPUTS.items() if one == kind]
    shape = _list_of({"const": 1})
    data = {"type": "array", "items": element, "minItems": 1, "maxItems": 1}
    return _asked({"name": {"enum": names}, "datatype": {"const": kind}, "shape": shape, "data": data})


_TEXT_INPUT = {"type": "object", "required": ["name"], "properties": {"name": {"const": "text_input"}}}
INFER = _asked(
    {
        "inputs": _list_of(_one_of(_input("BYTES", _TEXT), _input("BOOL", _BOOLEAN)), least=1)
        | {"contains": _TEXT_INPUT}
    },
    id={"type": "string", "minLength": 1, "maxLength": 128},
    outputs=_list_of(_asked({"name": {"enum": list(OUTPUTS)}}, parameters=_asked({}, binary_data=_BOOLEAN))),
    parameters={"type": "object"},
)

# What they get

_REASON = {"enum": ["stop", "length", "tool_calls"]}
USAGE = _given(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
ANSWER = _given(text=_ANY_TEXT, finish_reason=_REASON, usage=USAGE)
_HEAD: Schema = {"id": _ANY_TEXT, "created": _COUNT, "model": _ANY_TEXT, "usage": USAGE}
_LIKELY: Schema = {"token": _ANY_TEXT, "logprob": {"type": "number"}, "bytes": _list_of(_COUNT)}
_CHAT_LOGPROBS = _given(content=_list_of(_given(**_LIKELY, top_logprobs=_list_of(_given(**_LIKELY)))), refusal=_NULL)
_CALLED = _given(id=_TEXT, type={"const": "function"}, function=_given(name=_TEXT, arguments=_ANY_TEXT))
_WRITTEN = _given(
    {"tool_calls": _list_of(_CALLED, least=1)}, role={"const": "assistant"}, content=_one_of(_ANY_TEXT, _NULL)
)
CHAT_ANSWER = _given(
    **_HEAD,
    object={"const": "chat.completion"},
    choices=_list_of(
        _given(index=_COUNT, message=_WRITTEN, logprobs=_one_of(_CHAT_LOGPROBS, _NULL), finish_reason=_REASON), least=1
    ),
)
_TABLE = _given(
    tokens=_list_of(_ANY_TEXT),
    token_logprobs=_list_of({"type": "number"}),
    top_logprobs=_list_of({"type": "object", "additionalProperties": {"type": "number"}}),
    text_offset=_list_of(_COUNT),
)
COMPLETION_ANSWER = _given(
    **_HEAD,
    object={"const": "text_completion"},
    choices=_list_of(
        _given(index=_COUNT, text=_ANY_TEXT, logprobs=_one_of(_TABLE, _NULL), finish_reason=_REASON), least=1
    ),
)
MODEL = _given(
    {"max_model_len": _COUNT, "parent": _TEXT},
    id=_TEXT,
    object={"const": "model"},
    created=_COUNT,
    owned_by={"const": "packager"},
)
MODELS = _given(object={"const": "list"}, data=_list_of(MODEL, least=1))
STATE = _given(status=_TEXT)
LIVE, READY = _given(live=_BOOLEAN), _given(ready=_BOOLEAN)

_TRITON: Schema = {"model_name": _TEXT, "model_version": {"const": "1"}}
GENERATED = _given(
    {"id": _TEXT, "finish_reason": _REASON, "num_input_tokens": _COUNT, "num_output_tokens": _COUNT},
    **_TRITON,
    text_output=_ANY_TEXT,
)
INFERRED = _given(
    {"id": _TEXT},
    **_TRITON,
    outputs=_list_of(
        _given(
            {"data": {"type": "array"}, "parameters": _given(binary_data_size=_COUNT)},
            name={"enum": list(OUTPUTS)},
            datatype={"enum": sorted(set(OUTPUTS.values()))},
            shape={"const": [1]},
        )
    ),
)
SERVER = _given(name={"const": "packager"}, version=_TEXT, extensions=_list_of(_TEXT))
_TENSOR = _given(name=_TEXT, datatype=_TEXT, shape={"const": [1]})
METADATA = _given(
    name=_TEXT, versions={"const": ["1"]}, platform=_TEXT, inputs=_list_of(_TENSOR), outputs=_list_of(_TENSOR)
)
CONFIG: Schema = {"type": "object", "required": ["name", "backend", "max_batch_size", "input", "output"]}

ERROR = _given(
    error=_given(
        message=_TEXT,
        type={"enum": ["invalid_request_error", "rate_limit_error", "unavailable_error", "engine_error"]},
        param=_one_of(_TEXT, _NULL),
        code=_TEXT,
    )
)
TRITON_ERROR = _given(error=_TEXT)
