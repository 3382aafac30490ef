"""GET /openapi.json: what this server takes and gives, and no more."""

from typing import Any

_SAMPLING: dict[str, Any] = {
    "max_tokens": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {"type": "integer", "minimum": 0},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "repetition_penalty": {"type": "number", "minimum": 0.01, "maximum": 10},
    "stop": {
        "oneOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "maxItems": 16, "items": {"type": "string", "minLength": 1}},
        ]
    },
    "stream": {"type": "boolean"},
}
_PROMPT = {"type": "string", "minLength": 1}
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {
                "oneOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/components/schemas/Text"}}]
            },
        },
    },
}
_TEXT = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "unavailable_error", "engine_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_REFUSALS = {
    "400": "The request asks what the model does not do; `param` names the parameter",
    "404": "No such model",
    "413": "The body is larger than 2 MiB",
    "429": "As many requests run and wait as may; Retry-After says when to come back",
    "500": "The engine failed",
    "503": "The model is loading, draining or dead",
}


def describe(model: str, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document for the model `model`, packaged by packager `version`."""
    name = {"model": {"const": model}}
    options = {"type": "object", "properties": {"include_usage": {"type": "boolean"}}}
    shared = name | _SAMPLING | {"stream_options": options, "user": {"type": "string"}}
    chat = shared | {"messages": _MESSAGES, "max_completion_tokens": _SAMPLING["max_tokens"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": model, "version": version},
        "paths": {
            "/predict": {
                "post": _post("One answer, or events", [], _SAMPLING | {"prompt": _PROMPT, "messages": _MESSAGES})
            },
            "/v1/chat/completions": {"post": _post("OpenAI's chat completions", ["model", "messages"], chat)},
            "/v1/completions": {
                "post": _post("OpenAI's completions", ["model", "prompt"], shared | {"prompt": _PROMPT})
            },
            "/v1/models": {"get": _get("The one model", "application/json")},
            "/livez": {"get": _get("503 when the process must be restarted", "application/json")},
            "/readyz": {"get": _get("503 while requests are not taken", "application/json")},
            "/metrics": {"get": _get("Prometheus metrics", "text/plain")},
            "/openapi.json": {"get": _get("This document", "application/json")},
        },
        "components": {"schemas": {"Error": _ERROR, "Text": _TEXT}},
    }


def _post(text: str, required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    body = {"type": "object", "required": required, "properties": properties, "additionalProperties": False}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    done = "The whole answer; with `stream: true` server-sent events, complete if and only if they end with [DONE]"
    content = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "summary": text,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": done, "content": content}}
        | {status: {"description": why, "content": error} for status, why in _REFUSALS.items()},
    }


def _get(text: str, content_type: str) -> dict[str, Any]:
    return {"summary": text, "responses": {"200": {"description": text, "content": {content_type: {}}}}}
