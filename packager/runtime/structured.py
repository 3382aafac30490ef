"""Reading what form an answer must have: `response_format`, `tools` and `tool_choice`."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from .engine import OutputForm, Tools
from .fields import Fields, is_text

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAMED = "must be 1 to 64 letters, digits, underscores or hyphens"
_MOST_TOOLS = 128
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def parse_output(fields: Fields) -> OutputForm | None:
    """`response_format`: OpenAI's `text`, `json_object` and `json_schema`; and `grammar` and `regex` with their text."""
    value = fields.take("response_format")
    if value is None:
        return None
    form = Fields(value, fields.path("response_format"))
    kind = form.take("type")
    if kind == "text":
        output = None
    elif kind == "json_object":
        output = OutputForm("json_object")
    elif kind == "json_schema":
        output = OutputForm("json_schema", _schema(form))
    elif kind in ("grammar", "regex"):
        text = form.text(kind)
        if text is None:
            raise form.refusal(kind, "is missing")
        output = OutputForm(kind, text)
    else:
        raise form.refusal("type", "must be one of text, json_object, json_schema, grammar, regex")
    form.finish()
    return output


def _schema(form: Fields) -> str:
    inner = Fields(form.take("json_schema"), form.path("json_schema"))
    if not _NAME.fullmatch(inner.text("name") or ""):
        raise inner.refusal("name", _NAMED)
    schema = _plain_json(inner, "schema")
    if not isinstance(schema, Mapping):
        raise inner.refusal("schema", "must be a JSON object")
    inner.text("description")
    inner.flag("strict")  # what is asked not to be strict may be strict
    inner.finish()
    return orjson.dumps(schema).decode()


def parse_tools(fields: Fields) -> Tools | None:
    """`tools`, `tool_choice` and `parallel_tool_calls`. None when there is no tool."""
    value, choice = fields.take("tools"), fields.take("tool_choice")
    parallel = not fields.given("parallel_tool_calls") or fields.flag("parallel_tool_calls")
    if value in (None, []):
        if choice not in (None, "none", "auto"):
            raise fields.refusal("tool_choice", "needs tools")
        return None
    if not isinstance(value, list) or len(value) > _MOST_TOOLS:
        raise fields.refusal("tools", f"must be a list of at most {_MOST_TOOLS} functions")
    tools = tuple(_tool(item, fields.path(f"tools[{at}]")) for at, item in enumerate(value))
    names = [tool["function"]["name"] for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise fields.refusal("tools", f"has the name {name} twice")
    return Tools(tools, _choice(fields, choice, names), parallel)


def forced(tools: Tools | None) -> tuple[Mapping[str, Any], ...]:
    """The functions one of which must be called; none when the model may answer in text."""
    if tools is None or tools.choice in ("auto", "none"):
        return ()
    functions = tuple(tool["function"] for tool in tools.functions)
    if tools.choice == "required":
        return functions
    return tuple(function for function in functions if function["name"] == tools.choice["function"]["name"])


def _tool(value: Any, where: str) -> Mapping[str, Any]:
    tool = Fields(value, where)
    if tool.take("type") != "function":
        raise tool.refusal("type", 'must be "function"')
    given = Fields(tool.take("function"), tool.path("function"))
    name, description = given.text("name") or "", given.take("description")
    if not _NAME.fullmatch(name):
        raise given.refusal("name", _NAMED)
    if description is not None and not is_text(description):
        raise given.refusal("description", "must be a string of valid Unicode")
    parameters = _plain_json(given, "parameters")
    if not isinstance(parameters, Mapping | None):
        raise given.refusal("parameters", "must be a JSON schema")
    function = {"name": name, "description": description, "parameters": parameters or _NO_PARAMETERS}
    function["strict"] = given.flag("strict") or None
    given.finish()
    tool.finish()
    return {"type": "function", "function": {key: item for key, item in function.items() if item is not None}}


def _choice(fields: Fields, choice: Any, names: list[str]) -> Any:
    if choice in (None, "auto", "none", "required"):
        return choice or "auto"
    named = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    if not isinstance(named, Mapping) or named.keys() != {"name"} or choice.keys() != {"type", "function"}:
        raise fields.refusal(
            "tool_choice", "must be none, auto, required, or the name of one function in OpenAI's form"
        )
    if named["name"] not in names:
        raise fields.refusal("tool_choice", "names none of the tools")
    return {"type": "function", "function": {"name": named["name"]}}


def _plain_json(fields: Fields, name: str) -> Any:
    """A field of any JSON that can be written again."""
    value = fields.take(name)
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise fields.refusal(name, f"cannot be written as JSON: {error}") from None
    return value
