"""Grammars of JSON schemas, tried on llama.cpp itself: a real model that draws at random, bound by the grammar."""

import json
import re
from collections.abc import AsyncIterator
from itertools import combinations_with_replacement
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio
from fakes.engines import make_setup

from packager.errors import RequestError
from packager.runtime.engine import Engine, GenerationRequest, OutputForm, SamplingParams
from packager.runtime.engines import open_engine
from packager.runtime.engines.json_grammar import calls_grammar, literal, schema_grammar

pytestmark = pytest.mark.asyncio(loop_scope="module")
HELLO = Path(__file__).resolve().parents[4] / "examples/hello/hello.gguf"
SEEDS = range(8)
TREE = {
    "type": "object",
    "properties": {"leaf": {"type": "boolean"}, "under": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}},
    "required": ["leaf"],
}
SCHEMAS = {
    "object": {
        "type": "object",
        "title": "T",
        "properties": {"a": {"type": "integer"}, 'b"\n': {"enum": ["x", 1, None]}, "c": {"type": "null"}},
        "required": ['b"\n', "a"],
        "additionalProperties": False,
    },
    "optional": {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
    "between": {"properties": {"a": {"const": 1}, "r": {"const": 2}, "c": {"const": 3}}, "required": ["r"]},
    "undeclared": {"type": "object", "required": ["z"], "additionalProperties": {"type": "boolean"}},
    "map": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
    "empty": {"type": "object", "additionalProperties": False},
    "tree": TREE,
    "definition": {
        "$defs": {"a/b": {"type": "null"}},
        "type": "array",
        "items": {"$ref": "#/$defs/a~1b"},
        "maxItems": 3,
    },
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "none": {"type": "array", "maxItems": 0},
    "tuple": {"prefixItems": [{"const": "é"}, {"type": "boolean"}], "minItems": 3, "items": {"type": "null"}},
    "pair": {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False, "minItems": 2},
    "short": {"prefixItems": [{"const": 1}, {"const": 2}], "maxItems": 1},
    "string": {"type": "string", "minLength": 2, "maxLength": 5},
    "types": {"type": ["boolean", "null"]},
    "either": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "null"}, "maxItems": 1}]},
    "all": {"allOf": [{"type": "boolean"}]},
    "values": {"enum": [1, "1", True, {"a": []}], "type": ["string", "object"]},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "number": {"type": "number", "minimum": 3},
    "signed": {"type": "integer", "minimum": -17, "maximum": 1234},
    "above": {"type": "integer", "exclusiveMinimum": 99},
    "below": {"type": "integer", "exclusiveMaximum": -3.5},
    "uuid": {"type": "string", "format": "uuid"},
    "moment": {"type": "string", "format": "date-time"},
    "anything": {"type": "object", "properties": {"a": True, "b": {}}, "required": ["a", "b"]},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    adapter = open_engine("llama_cpp", make_setup(HELLO, threads=1))
    await adapter.start()
    yield adapter
    await adapter.stop()


async def draw(engine: Engine, output: OutputForm, seed: int) -> str | None:
    """An answer drawn at random; None when it was not complete after 300 tokens."""
    sampling = SamplingParams(300, temperature=2, top_p=1, top_k=0, min_p=0, seed=seed)
    request = GenerationRequest("r", prompt="{", sampling=sampling, output=output)
    deltas = [delta async for delta in engine.stream(request)]
    return "".join(delta.text for delta in deltas) if deltas[-1].finish_reason == "stop" else None


@pytest.mark.parametrize("name", SCHEMAS)
async def test_what_the_grammar_allows_the_schema_allows(engine: Engine, name: str) -> None:
    output = OutputForm("json_schema", json.dumps(SCHEMAS[name]))
    complete = [text for seed in SEEDS if (text := await draw(engine, output, seed)) is not None]
    assert complete
    for text in complete:
        jsonschema.validate(json.loads(text), SCHEMAS[name])


async def test_any_object(engine: Engine) -> None:
    drawn = [await draw(engine, OutputForm("json_object"), seed) for seed in SEEDS]
    assert all(isinstance(json.loads(text), dict) for text in drawn if text is not None)
    assert any(text is not None for text in drawn)


async def test_members_may_be_left_out_alone(engine: Engine) -> None:
    """Every choice of optional members can be drawn, commas where they belong."""
    output = OutputForm("json_schema", json.dumps(SCHEMAS["between"]))
    drawn = {await draw(engine, output, seed) for seed in range(60)}
    compact = {text.replace(" ", "") for text in drawn if text is not None}
    assert compact == {'{"r":2}', '{"a":1,"r":2}', '{"r":2,"c":3}', '{"a":1,"r":2,"c":3}'}


def bounded(low: int, high: int) -> re.Pattern[str]:
    """The rule of an integer with bounds, read as a regular expression: GBNF's quotes and blanks mean nothing there."""
    grammar = schema_grammar({"type": "integer", "minimum": low, "maximum": high}, "")
    rule = next(line for line in grammar.splitlines() if line.startswith("r0 ::= "))
    return re.compile(rule.removeprefix("r0 ::= ").replace('"', "").replace(" ", ""))


async def test_bounds_of_integers_are_exact() -> None:
    edges = [-1001, -1000, -999, -101, -100, -99, -37, -10, -9, -1, 0, 1, 5, 9, 10, 11, 42, 99, 100, 358, 1000, 1009]
    for low, high in combinations_with_replacement(edges, 2):
        pattern = bounded(low, high)
        for number in range(-1110, 1111):
            assert bool(pattern.fullmatch(str(number))) == (low <= number <= high), (low, high, number)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (False, "the schema is not a JSON schema that anything can satisfy"),
        ({"type": "string", "pattern": "a+"}, "pattern is not supported"),
        ({"oneOf": [{}]}, "oneOf is not supported"),
        ({"properties": {"a": {"not": {}}}}, "properties.a.not is not supported"),
        ({"type": "warp"}, "type must be of object, array"),
        ({"type": []}, "type must be of"),
        ({"$ref": "other.json"}, r"\$ref must begin with #/"),
        ({"$ref": "#/$defs/a"}, r"refers to #/\$defs/a, which is not there"),
        ({"$ref": "#", "minLength": 1}, r"minLength beside \$ref is not supported"),
        ({"anyOf": [{}], "type": "null"}, "type beside anyOf is not supported"),
        ({"anyOf": []}, "anyOf must be a list"),
        ({"allOf": [{}, {}]}, "allOf of several schemas is not supported"),
        ({"enum": []}, "allows no value"),
        ({"enum": [1], "type": "string"}, "allows no value"),
        ({"enum": 5}, "enum must be a list"),
        ({"const": 1, "enum": [1]}, "without const"),
        ({"const": 1, "minimum": 0}, "minimum beside const is not supported"),
        ({"properties": []}, "properties must be an object"),
        ({"required": "a"}, "required must be a list of names"),
        ({"required": ["a"], "additionalProperties": False}, "properties.a is not a JSON schema that anything can"),
        ({"prefixItems": {}}, "prefixItems must be a list"),
        ({"items": False, "minItems": 1}, "minItems is more than there can be"),
        ({"type": "array", "items": [{}]}, "items is not a JSON schema"),
        ({"minItems": 2, "maxItems": 1}, "maxItems is less than minItems"),
        ({"maxLength": 2001}, "maxLength must be an integer from 0 to 2000"),
        ({"minLength": True}, "minLength must be an integer"),
        ({"format": "email"}, "format must be one of date, time, date-time, uuid"),
        ({"format": "date", "maxLength": 9}, "format must be one of"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "bounds that no integer is within"),
        ({"type": "integer", "minimum": "1"}, "minimum must be a number"),
        ({"type": "integer", "minimum": 10**17}, "minimum must be a number of at most 16 digits"),
        ({"type": "number", "minimum": -1}, "of type number can have a minimum of 0 or more"),
        ({"type": "number", "exclusiveMinimum": 0}, "of type number can have a minimum of 0 or more"),
        ({"type": "number", "maximum": 1}, "of type number can have a minimum of 0 or more"),
    ],
)
async def test_what_cannot_be_a_grammar_is_named(schema: object, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        schema_grammar(schema, "response_format")
    assert caught.value.problems[0].where == "response_format"


async def test_a_schema_too_deep() -> None:
    deep: object = {}
    for _ in range(200):
        deep = {"items": deep}
    with pytest.raises(RequestError, match="nested deeper than 64 levels"):
        schema_grammar(deep, "response_format")


async def test_schemas_of_two_functions_do_not_mix(engine: Engine) -> None:
    """References are each schema's own."""
    heads = {
        "one ": {"$defs": {"x": {"const": 1}}, "$ref": "#/$defs/x"},
        "two ": {"$defs": {"x": {"const": 2}}, "$ref": "#/$defs/x"},
    }
    output = OutputForm("grammar", calls_grammar(heads, "tools"))
    assert {await draw(engine, output, seed) for seed in range(20)} == {"one 1", "two 2"}


async def test_literals_are_escaped(engine: Engine) -> None:
    text = 'a"b\\c\nd\re\té [x] {2}'
    assert await draw(engine, OutputForm("grammar", f"root ::= {literal(text)}"), 1) == text


async def test_a_grammar_that_llama_cpp_cannot_parse(engine: Engine) -> None:
    for grammar in ("root ::= ((", 'start ::= "a"', 'root ::= root "a"', "%llguidance {}\nstart: (("):
        with pytest.raises(RequestError) as caught:
            await draw(engine, OutputForm("grammar", grammar), 1)
        assert caught.value.problems[0].where == "response_format"
    assert await draw(engine, OutputForm("grammar", 'root ::= "a"'), 1) == "a"
