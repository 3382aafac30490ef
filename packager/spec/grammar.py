"""What text in a spec may look like. Every string field has a Grammar, so that none can carry a newline
or a control character into a Dockerfile, a shell or a manifest.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.config import JsonDict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_TEXT = 4096
"""Characters in one string: more is a mistake, and some consumers (labels, argv) have limits."""

FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")
"""Controls, line separators, byte order marks, half surrogates, and the marks that reorder text on screen."""

PROBLEM = "packager"
"""pydantic's error type for problems whose text is already ours; `what` and `mend` are in its context."""


class Strict(BaseModel):
    """Base of all spec models: frozen, no unknown keys, no conversions (`"8"` is not 8)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def problem(what: str, mend: str = "") -> PydanticCustomError:
    """An error to raise in a validator; `what` completes "`field` ..."."""
    # The text goes in as a context value: braces in a user's words must not be read as a template.
    return PydanticCustomError(PROBLEM, "{what}", {"what": what, "mend": mend})


def quoted(text: str) -> str:
    """`text` for a message: in single quotes, controls escaped, cut after 60 characters."""
    cut = text if len(text) <= 60 else text[:57] + "..."
    # repr alone would print the marks that reorder text: they count as printable in some Pythons' tables.
    safe = FORBIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", cut)
    shown = safe if safe.isprintable() else safe.encode("ascii", "backslashreplace").decode()
    return f"'{shown}'"


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form of a string: a full-match pattern, what it must be in words, and the longest length.

    `check` may refuse more than a pattern can; it raises `problem(...)`.
    """

    pattern: str = ".*"
    be: str = "text"
    limit: int = MAX_TEXT
    mend: str = ""
    check: Callable[[str], object] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = dict(handler(schema))
        if self.pattern != ".*":
            found["pattern"] = self.schema_pattern
        return {**found, "maxLength": self.limit}

    @property
    def schema_pattern(self) -> str:
        """The pattern as JSON schema reads it: it searches, so the ends are marked."""
        return f"^(?:{self.pattern})$"

    def validate(self, text: str) -> str:
        """`text` itself, or PydanticCustomError."""
        if found := FORBIDDEN.search(text):
            raise _forbidden(found[0])
        if len(text) > self.limit:
            raise problem(f"must be at most {self.limit} characters, not {len(text)}")
        if not re.fullmatch(self.pattern, text):
            raise problem(f"must be {self.be}, not {quoted(text)}", self.mend)
        if self.check is not None:
            self.check(text)
        return text


def keys_of(grammar: Grammar) -> JsonDict:
    """For the JSON schema of a mapping: the form of its keys, which pydantic leaves out."""
    return {"propertyNames": {"pattern": grammar.schema_pattern, "maxLength": grammar.limit}}


def _forbidden(char: str) -> PydanticCustomError:
    if char == "\n":
        return problem("must not hold a line break", "write it on one line")
    if char == "\t":
        return problem("must not hold a tab", "write spaces")
    return problem(f"must not hold the control character U+{ord(char):04X}", "remove it")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# YAML has lists, frozen models hold tuples; strict mode converts neither. Sets stay refused: they have no order.
AsTuple = BeforeValidator(_tuple)

Line = Annotated[str, Grammar()]
"""Any text on one line."""

NAME = Grammar(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", "lower-case letters and digits, joined by `-`, `_` or `.`", 63)
"""Names that are good for folders, image repositories and hosts alike."""

RELATIVE_PATH = Grammar(
    # No empty, `.` or `..` part, no backslash, not absolute.
    r"(?!\.{1,2}(?:/|$))[^/\\]+(?:/(?!\.{1,2}(?:/|$))[^/\\]+)*",
    "a relative path with forward slashes and without `.` or `..` parts",
)
RelativePath = Annotated[str, RELATIVE_PATH]
"""A path below the folder it is relative to."""
