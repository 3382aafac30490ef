"""GET /openapi.json: what this server takes and gives, and no more."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import schemas
from .guard import OPEN
from .triton import VERSION

Json = dict[str, Any]
_DONE = (
    "The whole answer; with `stream: true` server-sent events. They are complete if and only if they end with [DONE]: "
    "what fails on the way is an event with `error`, and a transfer that does not end."
)
_EVENTS_DONE = "Server-sent events. They are complete if and only if the transfer ends, and no event has `error`."
_ANY = {
    "401": "An API key is wanted: `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    "414": "The URL is too long",
    "431": "The headers are too large",
}
_ASKING = _ANY | {
    "400": "The request asks what the model does not do; `param` names the parameter",
    "404": "No such model",
    "408": "The body did not come in time",
    "413": "The body is too large",
    "415": "The body is not JSON, or is compressed",
    "429": "As many requests run and wait as may; Retry-After says when to come back",
    "500": "The engine failed",
    "503": "The model is loading, restarting or draining, or is dead",
    "504": "The engine took longer than the package allows",
}


def describe(model: str, version: str, adapters: Sequence[str] = (), *, locked: bool = False) -> Json:
    """The OpenAPI 3.1 document for the model `model`, packaged by packager `version`; `locked` when it wants a key."""
    paths = _paths([model, *adapters]) | _triton_paths(model)
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": model, "version": version},
        "paths": paths,
        "components": {
            "schemas": {"Error": schemas.ERROR, "TritonError": schemas.TRITON_ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
    if locked:
        document["security"] = [{"bearer": []}, {"header": []}]
        for path in OPEN:
            paths[path]["get"]["security"] = []
    return document


def _content(schema: Json | None, kind: str = "application/json") -> Json:
    return {kind: {} if schema is None else {"schema": schema}}


_EVENTS = _content(None, "text/event-stream")
_BINARY = _content({"type": "string", "format": "binary"}, "application/octet-stream")
_ERRORS = _content({"$ref": "#/components/schemas/Error"})
_TRITON_ERRORS = _content({"$ref": "#/components/schemas/TritonError"})


def _of(names: Sequence[str], body: Json) -> Json:
    """The body with the models that it may name."""
    return body | {"properties": body["properties"] | {"model": {"enum": names}}}


def _paths(names: Sequence[str]) -> Json:
    return {
        "/predict": _post("One answer, or events", schemas.PREDICT, schemas.ANSWER),
        "/v1/chat/completions": _post("OpenAI's chat completions", _of(names, schemas.CHAT), schemas.CHAT_ANSWER),
        "/v1/completions": _post("OpenAI's completions", _of(names, schemas.COMPLETION), schemas.COMPLETION_ANSWER),
        "/v1/models": _get("The model and its adapters", schemas.MODELS),
        "/v1/models/{model}": _model(names),
        "/livez": _probe("503 when the process must be restarted", schemas.STATE, _ERRORS),
        "/readyz": _probe("503 while requests are not taken", schemas.STATE, _ERRORS),
        "/metrics": _get("Prometheus metrics", None, "text/plain"),
        "/openapi.json": _get("This document", {"type": "object"}),
        "/chat": _get("A page to chat with the model", None, "text/html"),
    }


def _triton_paths(model: str) -> Json:
    paths: Json = {
        "/v2": _get("Triton's server metadata", schemas.SERVER, errors=_TRITON_ERRORS),
        "/v2/health/live": _probe("As /livez", schemas.LIVE, _TRITON_ERRORS),
        "/v2/health/ready": _probe("As /readyz", schemas.READY, _TRITON_ERRORS),
    }
    whole, inferred = _content(schemas.GENERATED), _content(schemas.INFERRED) | _BINARY
    for base in (f"/v2/models/{model}", f"/v2/models/{model}/versions/{VERSION}"):
        paths |= {
            base: _get("Triton's model metadata", schemas.METADATA, errors=_TRITON_ERRORS),
            f"{base}/config": _get("Triton's model configuration", schemas.CONFIG, errors=_TRITON_ERRORS),
            f"{base}/ready": _probe("As /readyz", schemas.READY, _TRITON_ERRORS),
            f"{base}/generate": _triton("Triton's generate", schemas.GENERATE, "The whole answer", whole),
            f"{base}/generate_stream": _triton("The same in pieces", schemas.GENERATE_STREAM, _EVENTS_DONE, _EVENTS),
            f"{base}/infer": _triton("Triton's infer, unary", schemas.INFER, "The outputs", inferred),
        }
        paths[f"{base}/infer"]["post"]["requestBody"]["content"] |= _BINARY
    return paths


def _get(text: str, answer: Json | None, kind: str = "application/json", *, errors: Json = _ERRORS) -> Json:
    done = {"200": {"description": text, "content": _content(answer, kind)}}
    return {"get": {"summary": text, "responses": done | _refusals(_ANY, errors)}}


def _model(names: Sequence[str]) -> Json:
    found = _get("The model, or an adapter", schemas.MODEL)
    found["get"]["responses"]["404"] = {"description": _ASKING["404"], "content": _ERRORS}
    where = {"name": "model", "in": "path", "required": True, "schema": {"enum": names}}
    return found | {"parameters": [where]}


def _probe(text: str, answer: Json, errors: Json) -> Json:
    said = {status: {"description": text, "content": _content(answer)} for status in ("200", "503")}
    return {"get": {"summary": text, "responses": said | _refusals(_ANY, errors)}}


def _post(text: str, body: Json, answer: Json) -> Json:
    return _asking(text, body, _DONE, _content(answer) | _EVENTS, _ERRORS)


def _triton(text: str, body: Json, done: str, answers: Json) -> Json:
    return _asking(text, body, done, answers, _TRITON_ERRORS)


def _asking(text: str, body: Json, done: str, answers: Json, errors: Json) -> Json:
    responses = {"200": {"description": done, "content": answers}} | _refusals(_ASKING, errors)
    asked = {"required": True, "content": _content(body)}
    return {"post": {"summary": text, "requestBody": asked, "responses": responses}}


def _refusals(statuses: Mapping[str, str], errors: Json) -> Json:
    return {status: {"description": why, "content": errors} for status, why in statuses.items()}
