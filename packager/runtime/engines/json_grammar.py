"""JSON schemas as GBNF, the grammars of llama.cpp itself.

llama.cpp's own conversion is not used: the library is built to hand schemas to llguidance, which drops a schema that it
cannot compile, and in chats any schema, with no more than a line on standard error (2026.10). A grammar in GBNF fails
the request when it does not compile. What a schema asks and this module does not do is refused by name.

The grammar allows a part of what the schema allows: properties in the order of the schema and no others beside them,
no white space but a space after commas and colons, numbers of at most 16 digits.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import orjson

from ...errors import RequestError

Schema = Mapping[str, Any]

_PRIMITIVES = r"""
ws ::= " "?
value ::= object | array | string | number | boolean | null
object ::= "{" (member ("," ws member)*)? "}"
member ::= string ":" ws value
array ::= "[" (value ("," ws value)*)? "]"
string ::= "\"" char* "\""
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" unit)
unit ::= [0-9a-cA-CefEF] hex hex hex | [dD] [0-7] hex hex
hex ::= [0-9a-fA-F]
natural ::= "0" | [1-9] [0-9]{0,15}
integer ::= "-"? natural
fraction ::= "." [0-9]{1,16}
number ::= integer fraction? ([eE] [-+]? [0-9]{1,2})?
boolean ::= "true" | "false"
null ::= "null"
day ::= [0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])
hour ::= ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9]
zone ::= "Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]
"""
_FORMATS = {
    "date": "day",
    "time": "hour zone",
    "date-time": 'day "T" hour zone',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
}
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
).union(("$schema", "$id", "$defs", "definitions"))
_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "format")),
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": frozenset(),
    "null": frozenset(),
}
_KNOWN = frozenset[str]().union(*_KEYWORDS.values())
_MOST_REPEATS = 2000
"""llama.cpp refuses a grammar that repeats more."""
_DEEPEST = 64
_LARGEST = 10**16 - 1


def object_grammar() -> str:
    """The grammar of any JSON object."""
    return "root ::= object" + _PRIMITIVES


def schema_grammar(schema: Schema, where: str) -> str:
    """The grammar of the JSON that `schema` describes. Raises RequestError at the parameter `where`."""
    rules: dict[str, str] = {}
    return _text(_Compiler(schema, rules, where).root(), rules)


def calls_grammar(calls: Mapping[str, Schema], where: str) -> str:
    """The grammar of one of some texts (the keys), each followed by the JSON of its schema. Raises RequestError."""
    rules: dict[str, str] = {}
    roots = [f"{literal(head)} {_Compiler(schema, rules, where).root()}" for head, schema in calls.items()]
    return _text(" | ".join(roots), rules)


def literal(text: str) -> str:
    """The text as GBNF writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _text(root: str, rules: Mapping[str, str]) -> str:
    return "\n".join((f"root ::= {root}", *(f"{name} ::= {body}" for name, body in rules.items()))) + _PRIMITIVES


class _Compiler:
    """Makes rules of one schema, each schema inside it a rule of its own."""

    def __init__(self, schema: Any, rules: dict[str, str], where: str) -> None:
        self._schema = schema
        self._rules = rules
        self._where = where
        self._references: dict[str, str] = {}

    def root(self) -> str:
        """The name of the rule for the whole schema."""
        return self._reference("#", ())

    def _rule(self, schema: Any, path: tuple[str, ...]) -> str:
        return self._fill(self._name(), schema, path)

    def _name(self) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = ""
        return name

    def _fill(self, name: str, schema: Any, path: tuple[str, ...]) -> str:
        if len(path) > _DEEPEST:
            raise self._refusal(path, f"is nested deeper than {_DEEPEST} levels")
        self._rules[name] = self._body(schema, path)
        return name

    def _body(self, schema: Any, path: tuple[str, ...]) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise self._refusal(path, "is not a JSON schema that anything can satisfy")
        asked = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        for key, make in (("$ref", self._reference), ("anyOf", self._any_of), ("allOf", self._all_of)):
            if key in asked:
                self._alone(asked, {key}, path)
                return make(asked[key], (*path, key))
        if "enum" in asked or "const" in asked:
            return self._values(asked, path)
        return " | ".join(self._typed(kind, asked, path) for kind in self._kinds(asked, path)) if asked else "value"

    def _alone(self, asked: Schema, allowed: set[str], path: tuple[str, ...]) -> None:
        if others := sorted(asked.keys() - allowed):
            beside = ", ".join(sorted(allowed & asked.keys()))
            raise self._refusal((*path, others[0]), f"beside {beside} is not supported by the engine llama_cpp")

    def _reference(self, pointer: Any, path: tuple[str, ...]) -> str:
        if pointer not in self._references:
            target = self._target(pointer, path)
            self._references[pointer] = self._name()
            self._fill(self._references[pointer], target, path)
        return self._references[pointer]

    def _target(self, pointer: Any, path: tuple[str, ...]) -> Any:
        target = self._schema
        if pointer == "#":
            return target
        if not isinstance(pointer, str) or not pointer.startswith("#/"):
            raise self._refusal(path, "must begin with #/: only references into the schema itself are supported")
        for part in pointer[2:].split("/"):
            step = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or step not in target:
                raise self._refusal(path, f"refers to {pointer}, which is not there")
            target = target[step]
        return target

    def _any_of(self, schemas: Any, path: tuple[str, ...]) -> str:
        if not isinstance(schemas, list) or not schemas:
            raise self._refusal(path, "must be a list of schemas")
        return " | ".join(self._rule(schema, (*path, str(at))) for at, schema in enumerate(schemas))

    def _all_of(self, schemas: Any, path: tuple[str, ...]) -> str:
        if not isinstance(schemas, list) or len(schemas) != 1:
            raise self._refusal(path, "of several schemas is not supported by the engine llama_cpp")
        return self._rule(schemas[0], (*path, "0"))

    def _values(self, asked: Schema, path: tuple[str, ...]) -> str:
        self._alone(asked, {"enum", "const", "type"}, path)
        values = asked.get("enum", [asked.get("const")])
        if not isinstance(values, list) or ("enum" in asked and "const" in asked):
            raise self._refusal((*path, "enum"), "must be a list, without const beside it")
        kinds = self._kinds({"type": asked["type"]}, path) if "type" in asked else list(_KEYWORDS)
        fitting = [value for value in values if any(_is(value, kind) for kind in kinds)]
        if not fitting:
            raise self._refusal(path, "allows no value")
        return " | ".join(literal(orjson.dumps(value).decode()) for value in fitting)

    def _kinds(self, asked: Schema, path: tuple[str, ...]) -> list[str]:
        """The types of JSON that it may be. Without `type` those that its keywords are about."""
        if unknown := sorted(asked.keys() - _KNOWN - {"type"}):
            raise self._refusal((*path, unknown[0]), "is not supported by the engine llama_cpp")
        kinds = asked.get("type", [kind for kind in _KEYWORDS if kind != "integer" and asked.keys() & _KEYWORDS[kind]])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not kinds or not all(kind in _KEYWORDS for kind in kinds):
            raise self._refusal((*path, "type"), f"must be of {', '.join(_KEYWORDS)}")
        return kinds

    def _typed(self, kind: str, asked: Schema, path: tuple[str, ...]) -> str:
        make = {"object": self._object, "array": self._array, "string": self._string}.get(kind)
        if make is not None:
            return make(asked, path)
        return self._bounded(kind, asked, path) if asked.keys() & _KEYWORDS[kind] else kind

    def _object(self, asked: Schema, path: tuple[str, ...]) -> str:
        properties, required = asked.get("properties", {}), asked.get("required", [])
        if not isinstance(properties, Mapping):
            raise self._refusal((*path, "properties"), "must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise self._refusal((*path, "required"), "must be a list of names")
        others = asked.get("additionalProperties", True)
        if not properties and not required:
            return self._map(others, path)
        members = dict(properties) | {name: others for name in required if name not in properties}
        pairs = []
        for name, schema in members.items():
            value = self._rule(schema, (*path, "properties", name))
            pairs.append((self._name(), name in required))
            self._rules[pairs[-1][0]] = f"{literal(orjson.dumps(name).decode() + ':')} ws {value}"
        return f'"{{" {self._members(pairs)} "}}"'

    def _map(self, others: Any, path: tuple[str, ...]) -> str:
        if others is False:
            return '"{}"'
        member, value = self._name(), self._rule(others, (*path, "additionalProperties"))
        self._rules[member] = f'string ":" ws {value}'
        return f'"{{" ({member} ("," ws {member})*)? "}}"'

    def _members(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """The members in their order, commas between those that are there; `pairs` are rules and whether they are required."""
        after, beginnings = '""', ['""']
        for pair, required in reversed(pairs):
            beginnings = ([] if required else beginnings) + [f"{pair} {after}"]
            tail = self._name()
            self._rules[tail] = f'"," ws {pair} {after}' if required else f'("," ws {pair})? {after}'
            after = tail
        return f"({' | '.join(reversed(beginnings))})"

    def _array(self, asked: Schema, path: tuple[str, ...]) -> str:
        low, high = self._counts(asked, "minItems", "maxItems", path)
        prefix, items = asked.get("prefixItems", []), asked.get("items", True)
        if not isinstance(prefix, list):
            raise self._refusal((*path, "prefixItems"), "must be a list of schemas")
        if low > len(prefix) and items is False:
            raise self._refusal((*path, "minItems"), "is more than there can be")
        parts = [self._rule(schema, (*path, "prefixItems", str(at))) for at, schema in enumerate(prefix[:high])]
        if not parts and items is not False and high != 0:
            item = self._rule(items, (*path, "items"))
            several = f'{item} ("," ws {item}){{{max(low - 1, 0)},{"" if high is None else high - 1}}}'
            return f'"[" {several} "]"' if low else f'"[" ({several})? "]"'
        if low > len(parts):
            parts += [self._rule(items, (*path, "items"))] * (low - len(parts))
        return '"[" ' + ' "," ws '.join(parts) + ' "]"'

    def _string(self, asked: Schema, path: tuple[str, ...]) -> str:
        low, high = self._counts(asked, "minLength", "maxLength", path)
        form = asked.get("format")
        if form is not None:
            if form not in _FORMATS or low or high is not None:
                raise self._refusal((*path, "format"), f"must be one of {', '.join(_FORMATS)}, without a length")
            return f'"\\"" {_FORMATS[form]} "\\""'
        if not low and high is None:
            return "string"
        return f'"\\"" char{{{low},{"" if high is None else high}}} "\\""'

    def _counts(self, asked: Schema, least: str, most: str, path: tuple[str, ...]) -> tuple[int, int | None]:
        counts = [asked.get(least, 0), asked.get(most)]
        for name, count in zip((least, most), counts, strict=True):
            if count is not None and (type(count) is not int or not 0 <= count <= _MOST_REPEATS):
                raise self._refusal((*path, name), f"must be an integer from 0 to {_MOST_REPEATS}")
        if counts[1] is not None and counts[1] < counts[0]:
            raise self._refusal((*path, most), f"is less than {least}")
        return counts[0], counts[1]

    def _bounded(self, kind: str, asked: Schema, path: tuple[str, ...]) -> str:
        for name in sorted(asked.keys() & _BOUNDS):
            if isinstance(asked[name], bool) or not isinstance(asked[name], int | float) or abs(asked[name]) > _LARGEST:
                raise self._refusal((*path, name), f"must be a number of at most {len(str(_LARGEST))} digits")
        low = max(
            math.ceil(asked.get("minimum", -_LARGEST)), math.floor(asked.get("exclusiveMinimum", -_LARGEST - 1)) + 1
        )
        high = min(
            math.floor(asked.get("maximum", _LARGEST)), math.ceil(asked.get("exclusiveMaximum", _LARGEST + 1)) - 1
        )
        if low > high:
            raise self._refusal(path, "has bounds that no integer is within")
        if kind == "integer":
            return _integers(low, high)
        if low < 0 or "exclusiveMinimum" in asked:
            raise self._refusal(path, "of type number can have a minimum of 0 or more, and a maximum, only")
        return (
            f"({_naturals(low, high - 1)}) fraction? | {_naturals(high, high)}" if low < high else _naturals(low, low)
        )

    def _refusal(self, path: tuple[str, ...], what: str) -> RequestError:
        place = ".".join(path) or "the schema"
        return RequestError(f"{self._where}: {place} {what}", where=self._where)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    kinds: dict[str, Any] = {"object": Mapping, "array": list, "string": str, "integer": int, "number": int | float}
    return kind in kinds and isinstance(value, kinds[kind])


def _integers(low: int, high: int) -> str:
    parts = [f'"-" ({_naturals(max(1, -high), -low)})'] if low < 0 else []
    return " | ".join(parts + ([_naturals(max(0, low), high)] if high >= 0 else []))


def _naturals(low: int, high: int) -> str:
    """Natural numbers from `low` to `high` in decimal: one alternative for each count of digits."""
    parts = []
    for size in range(len(str(low)), len(str(high)) + 1):
        least, most = max(low, 10 ** (size - 1) if size > 1 else 0), min(high, 10**size - 1)
        parts.append(_digits(str(least), str(most)))
    return " | ".join(parts)


def _digits(low: str, high: str) -> str:
    """Digits from `low` to `high`, which are equally many."""
    first, last, rest = int(low[0]), int(high[0]), len(low) - 1
    if not rest:
        return f"[{low}-{high}]"
    if first == last:
        return f'"{first}" ({_digits(low[1:], high[1:])})'
    parts = []
    if low[1:] != "0" * rest:
        parts.append(f'"{first}" ({_digits(low[1:], "9" * rest)})')
        first += 1
    if high[1:] != "9" * rest:
        parts.append(f'"{last}" ({_digits("0" * rest, high[1:])})')
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}] [0-9]{{{rest}}}")
    return " | ".join(parts)
