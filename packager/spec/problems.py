"""pydantic's errors in our words, each at its place in the file."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import Problem
from .grammar import PROBLEM, quoted
from .model import ModelSpec
from .parse import Document, Keys, Position
from .shape import Model, locate, models_in, tag_of

_WANTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "a mapping of names to texts",
    "dict_type": "a mapping of names to texts",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

_MEANT: Mapping[str, str] = {
    "engine": "kind",
    "image.base": "kind",
    "weights": "source",
    "conversion": "source",
    "hardware": "gpu",
    "serving": "server",
}
"""The key that a word is meant for where a mapping is wanted."""


def judge(errors: Iterable[Mapping[str, Any]], document: Document) -> list[tuple[Position, Problem]]:
    """The problems of a validation, without those that only follow from a place that could not be read."""
    found: list[tuple[Position, Problem]] = []
    for error in errors:
        keys, models = locate(error["loc"])
        if any(keys[: len(bad)] == bad for bad in document.poisoned):
            continue
        what, mend = _words(error, keys, models, document)
        place = (*keys, "kind") if error["type"] == "union_tag_invalid" else keys
        found.append((position_of(document, place, key=_points_at_key(error)), Problem(what, mend=mend)))
    return found


def position_of(document: Document, keys: Keys, *, key: bool = False) -> Position:
    """Where `keys` is in the file: the value of a scalar, else its key; where it is not there, what it belongs to."""
    while keys and keys not in document.at:
        keys = keys[:-1]
    is_leaf = keys in document.at and not isinstance(_value_at(document.value, keys), dict | list)
    if keys in document.keys and (key or not is_leaf):
        return document.keys[keys]
    return document.at.get(keys, Position(1, 1))


def suggest(word: str, known: Sequence[str]) -> str:
    """`did you mean ...?` when a known word is close, else an empty string."""
    near = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def _choice(word: str, known: Sequence[str], everything: str) -> str:
    near = suggest(word, known)
    listed = f"{everything}: {', '.join(known)}"
    return f"{near} {listed}" if near else listed


def _points_at_key(error: Mapping[str, Any]) -> bool:
    return error["type"] == "extra_forbidden" or "[key]" in error["loc"]


def _value_at(value: Any, keys: Keys) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _words(error: Mapping[str, Any], keys: Keys, models: tuple[Model, ...], document: Document) -> tuple[str, str]:
    kind, name = error["type"], dotted(keys)
    context = error.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return _unknown_key(error, keys)
        case "missing":
            return f"`{name}` is missing", _add(keys, error["loc"])
        case "union_tag_not_found" | "union_tag_invalid":
            return _unknown_kind(error, name, models)
        case "literal_error":
            return _not_one_of(error["input"], name, error["loc"], document.raw.get(keys))
        case "greater_than_equal":
            return f"`{name}` must be at least {context['ge']}, not {error['input']}", ""
        case "greater_than":
            return f"`{name}` must be more than {context['gt']:g}, not {error['input']}", ""
        case "less_than_equal":
            share = context["le"] <= 1 and 10 <= error["input"] < 100
            mend = f"it is a share of 1: write {error['input'] / 100:g}" if share else ""
            return f"`{name}` must be at most {context['le']}, not {error['input']}", mend
        case "too_short":
            return f"`{name}` must not be empty", "remove it, or write at least one item"
        case _ if kind == PROBLEM:
            return f"`{name}` {context['what']}", context["mend"]
        case _ if kind in _WANTED:
            return _wrong_type(error, name, _WANTED[kind], document.raw.get(keys))
    return f"`{name}`: {error['msg'][:1].lower()}{error['msg'][1:]}", ""


def dotted(keys: Keys) -> str:
    """`image.env.NAME`, `image.system_packages[2]`; `the spec` for the root."""
    text = ""
    for key in keys:
        shown = quoted(str(key))[1:-1]
        text += f"[{key}]" if isinstance(key, int) else f".{shown}" if text else shown
    return text or "the spec"


def _unknown_key(error: Mapping[str, Any], keys: Keys) -> tuple[str, str]:
    _, models = locate(error["loc"][:-1])
    parent = dotted(keys[:-1])
    known = list(models[0].model_fields) if models else []
    where = "" if len(keys) == 1 else f" in `{parent}`"
    word = str(keys[-1])
    mend = _moved(word, str(keys[0])) or suggest(word, known) or f"the keys here are: {', '.join(known)}"
    return f"unknown key {quoted(word)}{where}", mend


def _moved(word: str, section: str) -> str:
    """Where the key belongs that is one of another section than this; empty where it is none, or one of several."""
    sections = {name: models_in(field.annotation) for name, field in ModelSpec.model_fields.items()}
    owners = [name for name, models in sections.items() if any(word in model.model_fields for model in models)]
    owners += [""] if word in ModelSpec.model_fields else []
    if len(owners) != 1 or owners == [section]:
        return ""
    return f"it belongs into `{owners[0]}`" if owners[0] else "it belongs to the top of the spec, under no other key"


def _add(keys: Keys, loc: Sequence[str | int]) -> str:
    _, models = locate(loc[:-1])
    field = models[0].model_fields.get(str(keys[-1])) if models else None
    text = " ".join((field.description or "").split()).rstrip(".") if field else ""
    return f"add `{keys[-1]}`: {text[:1].lower()}{text[1:]}"


def _unknown_kind(error: Mapping[str, Any], name: str, models: tuple[Model, ...]) -> tuple[str, str]:
    known = [tag_of(model) for model in models]
    if error["type"] == "union_tag_not_found":
        return f"`{name}` has no `kind`", f"add one of: {', '.join(known)}"
    everything = "the engines are" if name == "engine" else "the kinds are"
    value = error["input"]["kind"]
    if value is None or isinstance(value, list | Mapping):
        return f"`{name}.kind` must be text, not {_shown(value, None)}", f"{everything}: {', '.join(known)}"
    word = str(error["ctx"]["tag"])
    return f"unknown {name.rpartition('.')[2]} {quoted(word)}", _choice(word, known, everything)


def _not_one_of(value: Any, name: str, loc: Sequence[str | int], raw: str | None) -> tuple[str, str]:
    _, models = locate(loc[:-1])
    known = _literals(models[0], str(loc[-1])) if models else []
    if not isinstance(value, str) or value in known:
        mend = f"write it without quotes: {value}" if value in known else ""
        return f"`{name}` must be one of {', '.join(known)}, not {_shown(value, raw)}", mend
    return f"unknown {name if '.' not in name else f'`{name}`'} {quoted(value)}", _choice(value, known, "it can be")


def _literals(model: Model, field: str) -> list[str]:
    schema = model.model_json_schema()["properties"].get(field, {})
    return [str(value) for value in schema.get("enum", [schema.get("const", "")])]


def _wrong_type(error: Mapping[str, Any], name: str, wanted: str, raw: str | None) -> tuple[str, str]:
    value = error["input"]
    mend = ""
    if wanted == "text" and raw:
        mend = f'put it in quotes: "{raw}"'
    elif wanted in ("a whole number", "a number") and isinstance(value, str):
        mend = _number_meant(value, wanted)
    elif wanted == "a list" and isinstance(value, str):
        mend = f"write [{value}]" if quoted(value) == f"'{value}'" else ""
    elif wanted == "a list" and isinstance(value, Mapping):
        mend = "start each of its items with `- `, or put what is there into [ ]"
    elif wanted == "a mapping" and isinstance(value, str) and name in _MEANT:
        plain = re.fullmatch(r"[\w./:-]+", value)
        mend = f"write `{name.rpartition('.')[2]}: {{{_MEANT[name]}: {value}}}`" if plain else ""
    return f"`{name}` must be {wanted}, not {_shown(value, raw)}", mend


_THOUSANDS = re.compile(r"[0-9]{1,3}(?:[_, ][0-9]{3})+")
_PREFIXED = re.compile(r"([0-9]{1,4}) ?([kKmMgG])(?:i?[bB])?")
_WITH_UNIT = re.compile(r"[0-9]+(?:\.[0-9]+)? ?[A-Za-z]+")
_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]+)?) ?%")


def _number_meant(text: str, wanted: str) -> str:
    """How to write the number that a text looks like; empty where it looks like none."""
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return f"write it without quotes: {int(text)}"
    if wanted == "a number":
        share = _PERCENT.fullmatch(text)
        return f"write it as a share of 1: {float(share[1]) / 100:g}" if share else ""
    if _THOUSANDS.fullmatch(text):
        return f"write {re.sub('[_, ]', '', text)}"
    if found := _PREFIXED.fullmatch(text):
        return f"write all its digits, such as {int(found[1]) * 1024 ** ('kmg'.index(found[2].lower()) + 1)}"
    return "write the number alone: the key says in what it counts" if _WITH_UNIT.fullmatch(text) else ""


def _shown(value: Any, raw: str | None) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, bool):
        return f"the boolean {raw or value}"
    if isinstance(value, int | float):
        return f"the number {raw or value}"
    return "a list" if isinstance(value, list | tuple) else "a mapping"
