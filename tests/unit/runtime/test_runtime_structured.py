import json

import pytest

from packager.errors import RequestError
from packager.runtime.engine import OutputForm, Tools
from packager.runtime.fields import Fields
from packager.runtime.structured import forced, parse_output, parse_tools

SCHEMA = {"type": "object", "properties": {"é": {"type": "integer"}}, "required": ["é"]}
NOW = {"type": "function", "function": {"name": "now", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "now"}}


def output(**form):
    return parse_output(Fields({"response_format": form}))


def tools(given, **others):
    return parse_tools(Fields({"tools": given} | others))


def json_schema(**changed):
    return output(type="json_schema", json_schema={"name": "answer", "schema": SCHEMA} | changed)


def test_response_formats():
    assert parse_output(Fields({})) is None
    assert output(type="text") is None
    assert output(type="json_object") == OutputForm("json_object")
    assert output(type="grammar", grammar='root ::= "a"') == OutputForm("grammar", 'root ::= "a"')
    assert output(type="regex", regex="a+") == OutputForm("regex", "a+")
    kind, schema = json_schema(strict=False, description="of what")
    assert (kind, json.loads(schema)) == ("json_schema", SCHEMA)


@pytest.mark.parametrize(
    ("form", "where"),
    [
        ([], "response_format"),
        ({}, "response_format.type"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "text", "schema": {}}, "response_format.schema"),
        ({"type": "grammar"}, "response_format.grammar"),
        ({"type": "regex", "regex": 5}, "response_format.regex"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": "\ud800"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": 2**64}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_response_format_that_is_off_is_named(form, where):
    with pytest.raises(RequestError) as caught:
        parse_output(Fields({"response_format": form}))
    assert caught.value.problems[0].where == where


def test_tools():
    assert parse_tools(Fields({})) is None
    assert tools([], tool_choice="auto") is None
    assert tools([NOW]) == Tools((NOW,), "auto", parallel=True)
    assert tools([NOW], tool_choice="required", parallel_tool_calls=False) == Tools((NOW,), "required", parallel=False)
    assert tools([NOW], tool_choice=NAMED).choice == NAMED


def test_a_function_without_parameters_takes_none():
    (tool,) = tools([{"type": "function", "function": {"name": "now", "description": "", "strict": True}}]).functions
    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}
    assert tool["function"]["strict"] is True


def test_which_functions_are_forced():
    later = {"type": "function", "function": {"name": "later", "parameters": {}}}
    both = (NOW, later)
    assert forced(None) == forced(Tools(both)) == forced(Tools(both, "none")) == ()
    assert [function["name"] for function in forced(Tools(both, "required"))] == ["now", "later"]
    assert [function["name"] for function in forced(Tools(both, NAMED))] == ["now"]


def function(**changed):
    return {"tools": [{"type": "function", "function": {"name": "now"} | changed}]}


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [NOW] * 129}, "tools"),
        ({"tools": [NOW, NOW]}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [NOW | {"cache": 1}]}, "tools[0].cache"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (function(name=None), "tools[0].function.name"),
        (function(name="a.b"), "tools[0].function.name"),
        (function(name="a" * 65), "tools[0].function.name"),
        (function(description=5), "tools[0].function.description"),
        (function(parameters=[]), "tools[0].function.parameters"),
        (function(parameters={"const": "\ud800"}), "tools[0].function.parameters"),
        (function(strict="yes"), "tools[0].function.strict"),
        (function(code="x"), "tools[0].function.code"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "later"}}}, "tool_choice"),
        ({"tools": [NOW], "parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_tools_that_are_off_are_named(fields, where):
    with pytest.raises(RequestError) as caught:
        parse_tools(Fields(fields))
    assert caught.value.problems[0].where == where
