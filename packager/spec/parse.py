"""YAML with positions: a strict reader of the part of YAML that has no surprises.

Read are mappings with text keys, lists and scalars, in block or flow style. Refused are anchors, aliases,
tags, directives, a second document, duplicate keys, tabs as indentation, control characters, and anything
over the limits below. Plain scalars mean what YAML 1.2's core schema says: only `true`, `false`, `null`, `~`,
nothing at all, and decimal numbers are not text; `no`, `on`, `yes`, `1_000`, `12:30` are text. Numbers that
YAML 1.1 and 1.2 read differently (`0777`, `0x1F`) are refused: in quotes they are text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..errors import Problem
from .grammar import FORBIDDEN, quoted

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 10_000
"""Far above any spec; PyYAML takes some 30 microseconds for each value."""

Keys = tuple[str | int, ...]
"""Where a value is: mapping keys and list indexes from the root."""

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_AMBIGUOUS = re.compile(r"[-+]?0[0-9_]+|0[oOxXbB][0-9a-fA-F_]+")
MAX_DIGITS = 18


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the file; both count from 1, columns in characters."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """A decoded file.

    `value` holds plain dicts, lists, strings, numbers, booleans and None. `at` and `keys` say where each value and
    each mapping key is; `raw` has the text of plain scalars that are not text. `problems` holds what is wrong so
    far, and `poisoned` the places whose values stand for something that could not be read.
    """

    value: Any = None
    at: dict[Keys, Position] = field(default_factory=dict)
    keys: dict[Keys, Position] = field(default_factory=dict)
    raw: dict[Keys, str] = field(default_factory=dict)
    problems: list[tuple[Position, Problem]] = field(default_factory=list)
    poisoned: set[Keys] = field(default_factory=set)

    def refuse(self, position: Position, what: str, mend: str = "") -> None:
        """Note a problem; `where` is filled in later, when the file's name is known."""
        self.problems.append((position, Problem(what, mend=mend)))


class _StopError(Exception):
    """The rest of the file cannot be read; the problem is noted."""


def parse_yaml(data: bytes) -> Document:
    """The document in `data`. Never raises: everything wrong is in `problems`."""
    document = Document()
    if len(data) > MAX_BYTES:
        what = f"the file is larger than {MAX_BYTES // 1024} KiB"
        document.refuse(Position(1, 1), what, "a spec is a few dozen lines: is this the right file?")
        return document
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
        what = f"the file is not UTF-8: byte 0x{data[error.start]:02x}"
        document.refuse(Position(before.count(b"\n") + 1, column), what, "save it as UTF-8")
        return document
    if not _refuse_characters(text, document):
        # A stop is noted already, and what was read before it is not worth judging.
        reader = _Reader(text, document)
        try:
            reader.read()
        except _StopError:
            document.poisoned.add(())
    else:
        document.poisoned.add(())
    return document


def _refuse_characters(text: str, document: Document) -> bool:
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stripped = line.lstrip(" ")
        if stripped.startswith("\t"):
            what = "a tab indents this line"
            document.refuse(Position(number, len(line) - len(stripped) + 1), what, "indent with spaces")
        for found in FORBIDDEN.finditer(line):
            if found[0] == "\t":
                continue
            position = Position(number, found.start() + 1)
            if found[0] == "\ufeff" and position == Position(1, 1):
                document.refuse(position, "the file starts with a byte order mark", "save it as UTF-8 without one")
            else:
                document.refuse(position, f"the control character U+{ord(found[0]):04X}", "remove it")
            break  # one a line is enough
    return bool(document.problems)


class _Reader:
    """Turns PyYAML's events into plain values. Its constructors are not used: no tag can name a class."""

    def __init__(self, text: str, document: Document) -> None:
        self._text = text
        self._document = document
        self._values = 0
        self._referred = False
        self._events = self._translated(yaml.parse(text, Loader=yaml.SafeLoader))

    def read(self) -> None:
        document = self._document
        event = next(self._events)  # StreamStart
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return
        if event.version or event.tags:
            document.refuse(_position(event), "directives are not allowed", "remove the lines that start with `%`")
        document.value = self._value(next(self._events), ())
        next(self._events)  # DocumentEnd
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            document.refuse(_position(event), "a second document starts here", "write one spec a file")

    def _translated(self, events: Iterator[Any]) -> Iterator[Any]:
        """PyYAML's errors become problems here, and nowhere else."""
        last = Position(1, 1)
        while True:
            try:
                event = next(events)
            except yaml.MarkedYAMLError as error:
                mark = error.problem_mark or error.context_mark
                position = Position(mark.line + 1, mark.column + 1) if mark else last
                if mark and self._text[mark.index : mark.index + 1] == "\t":
                    self._stop(position, "a tab between values", "write spaces")
                self._stop(position, *_plain_words(error))
            except (yaml.YAMLError, ValueError, OverflowError):
                # `"\U99999999"` and `%YAML 1.99999...` get past the scanner's own checks.
                self._stop(last, "this is not YAML: an escape or number after this place is out of range")
            last = Position(event.end_mark.line + 1, event.end_mark.column + 1)
            yield event

    def _stop(self, position: Position, what: str, mend: str = "") -> None:
        self._document.refuse(position, what, mend)
        raise _StopError

    def _value(self, event: Any, at: Keys) -> Any:
        document, position = self._document, _position(event)
        document.at[at] = position
        self._values += 1
        if self._values > MAX_VALUES:
            self._stop(position, f"more than {MAX_VALUES} values", "a spec has a few dozen: is this the right file?")
        if len(at) > MAX_DEPTH:
            self._stop(position, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor is not None:
            self._refuse_reference(position)
        if isinstance(event, yaml.AliasEvent):
            document.poisoned.add(at)
            return None
        if event.tag is not None:
            document.refuse(position, f"the tag {quoted(event.tag)} is not allowed", "write plain YAML")
            document.poisoned.add(at)
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style is not None else self._plain(event.value, at)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(at)
        return self._mapping(at)

    def _list(self, at: Keys) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*at, len(items))))
        return items

    def _mapping(self, at: Keys) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            position = _position(event)
            key = self._key(event, at)
            if key is None:
                # Read on for problems further down, but judge nothing inside.
                hidden: Keys = (*at, "")
                self._document.poisoned.add(hidden)
                self._value(next(self._events), hidden)
            elif key in items:
                first = self._document.keys[*at, key].line
                self._document.refuse(
                    position, f"the key {quoted(key)} is here twice; first on line {first}", "keep one of them"
                )
                self._skip((*at, key))
            else:
                self._document.keys[*at, key] = position
                items[key] = self._value(next(self._events), (*at, key))
        return items

    def _key(self, event: Any, at: Keys) -> str | None:
        position = _position(event)
        if isinstance(event, yaml.ScalarEvent):
            if event.anchor is not None:
                self._refuse_reference(position)
            if event.style is not None or isinstance(_scalar(event.value), str):
                if event.tag is None:
                    return str(event.value)
                self._document.refuse(position, f"the tag {quoted(event.tag)} is not allowed", "write plain YAML")
                return None
            mend = f'put it in quotes: "{event.value[:40]}"' if event.value else "write the key before the colon"
            self._document.refuse(position, f"a key must be text, not {_shown(event.value)}", mend)
            return None
        if isinstance(event, yaml.AliasEvent):
            self._refuse_reference(position)
            return None
        self._document.refuse(position, "a key must be text, not a list or mapping", "write a plain word")
        hidden: Keys = (*at, "")
        self._document.poisoned.add(hidden)
        self._value(event, hidden)
        return None

    def _plain(self, text: str, at: Keys) -> Any:
        value = _scalar(text)
        if not isinstance(value, str):
            self._document.raw[at] = text
        if value is _REFUSED:
            if _AMBIGUOUS.fullmatch(text):
                what = f"{quoted(text)} is a different number to different readers of YAML"
                mend = f'put it in quotes ("{text}") where text is meant; else write a decimal number'
            else:
                what, mend = f"a number of more than {MAX_DIGITS} digits", "put it in quotes where text is meant"
            self._document.refuse(self._document.at[at], what, mend)
            self._document.poisoned.add(at)
            return None
        return value

    def _skip(self, at: Keys) -> None:
        """Read the value at `at` and forget it and its positions; its problems stay."""
        document = self._document
        self._document = Document(problems=document.problems)
        self._value(next(self._events), at)
        self._document = document

    def _refuse_reference(self, position: Position) -> None:
        if not self._referred:  # a bomb has hundreds; the first one is enough
            what = "anchors and aliases (`&` and `*`) are not allowed"
            self._document.refuse(position, what, "write the value out, or put it in quotes where text is meant")
        self._referred = True


_REFUSED = object()


def _scalar(text: str) -> Any:
    """What a plain scalar means; `_REFUSED` where readers of YAML disagree or the number is absurd."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _AMBIGUOUS.fullmatch(text):
        return _REFUSED
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= MAX_DIGITS else _REFUSED
    if _FLOAT.fullmatch(text):
        return float(text) if len(text) <= MAX_DIGITS else _REFUSED
    return text


def _shown(text: str) -> str:
    if text in _NULLS:
        return "nothing"
    return f"the boolean {text}" if text in _BOOLEANS else f"the number {text[:40]}"


def _position(event: Any) -> Position:
    return Position(event.start_mark.line + 1, event.start_mark.column + 1)


_WORDS: Mapping[str, tuple[str, str]] = {
    "mapping values are not allowed here": (
        "a colon where no key can be",
        "give keys of one block the same indentation, and put text that holds `: ` in quotes",
    ),
    "could not find expected ':'": ("a key without a colon", "write `key: value`"),
    "found unexpected end of stream": ("the file ends inside a quoted text", "close the quote"),
    "expected ',' or '}'": ("a comma or a closing `}` is missing before this place", "close what is open"),
    "expected ',' or ']'": ("a comma or a closing `]` is missing before this place", "close what is open"),
    "expected the node content": ("a value is missing here", "write a value, or close what is open"),
    "found duplicate anchor": ("anchors and aliases (`&` and `*`) are not allowed", "write the value out"),
}
_BLOCK_ENDS = "expected <block end>"


def _plain_words(error: Any) -> tuple[str, str]:
    said = str(error.problem or error.context or "unreadable")
    for start, words in _WORDS.items():
        if said.startswith(start):
            return words
    if said.startswith(_BLOCK_ENDS):
        return "this line does not fit the lines above it", "give the keys of one block the same indentation"
    return f"this is not YAML: {FORBIDDEN.sub('?', said[:120])}", "put text that holds special characters in quotes"
