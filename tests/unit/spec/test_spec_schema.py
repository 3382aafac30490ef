"""The JSON schema is valid, accepts the examples, refuses typos, and every field explains itself."""

from pathlib import Path

import jsonschema
import pytest

from packager.spec import json_schema
from packager.spec.parse import parse_yaml

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*/packager.yaml"))


def test_the_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_the_examples_satisfy_it(path):
    document = parse_yaml(path.read_bytes())
    assert document.problems == []
    jsonschema.Draft202012Validator(json_schema()).validate(document.value)


@pytest.mark.parametrize(
    "value",
    [
        {"name": "x", "engine": {"kind": "echo"}, "servng": {}},
        {"name": "X", "engine": {"kind": "echo"}},
        {"name": "x", "engine": {"kind": "warp"}},
        {"name": "x", "engine": {"kind": "echo", "threads": 1}},
        {"name": "x", "engine": {"kind": "echo"}, "image": {"env": {"A-B": "x"}}},
        {"name": "x", "engine": {"kind": "echo"}, "image": {"system_packages": ["a b"]}},
    ],
)
def test_it_refuses_what_packager_refuses(value):
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(value)


def test_every_field_has_a_description_on_one_line():
    schema = json_schema()
    for title, model in {"": schema, **schema["$defs"]}.items():
        for name, field in model.get("properties", {}).items():
            assert field.get("description"), f"{title}.{name} has no docstring"
            assert "\n" not in field["description"]
