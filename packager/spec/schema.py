"""The spec's JSON schema, for editors and other tools."""

from typing import Any

from .model import ModelSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """A draft 2020-12 schema of `packager.yaml`, with every field's description and default.

    It accepts all valid specs; what needs more than one field, or more than a pattern, only `packager` checks.
    """
    schema: dict[str, Any] = _one_line(ModelSpec.model_json_schema())
    schema.pop("title", None)
    return {"$schema": DIALECT, "title": "packager.yaml", **schema}


def _one_line(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: " ".join(item.split()) if key == "description" and isinstance(item, str) else _one_line(item)
            for key, item in value.items()
        }
    return [_one_line(item) for item in value] if isinstance(value, list) else value
