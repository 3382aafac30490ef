"""Hugging Face chat templates: the messages of a request as the one text that the model was trained on.

Rendered with jinja2 in the environment that transformers gives them (its `utils/chat_template_utils.py`), so that
the text is the same, character by character.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...errors import LoadError, RequestError
from ..engine import Message

SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LONGEST = 2**25
"""Characters of rendered text: far more than any context holds."""
_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the expressions of a template may raise."""


class ChatTemplate:
    """One template, compiled. Rendered from any thread."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        """`special_tokens` are the tokenizer's, by name (`bos_token`); `where` is the file that `source` is from.

        Raises LoadError when it is no template.
        """
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise LoadError(
                f"the chat template cannot be read: {error.message} (line {error.lineno})",
                where=where,
                mend="give another one as `weights.chat_template`",
            ) from error

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, up to where the assistant's answer begins. Raises RequestError for what the template refuses.

        The output is bounded, and the sandbox bounds `range`; nested loops that write nothing may still take long.
        """
        given = {"messages": [message.plain() for message in messages], "tools": None, "documents": None}
        pieces, size = [], 0
        try:
            for piece in self._template.generate(**self._special_tokens, **given, add_generation_prompt=True):
                size += len(piece)
                if size > _LONGEST:
                    raise _refusal(f"makes more than {_LONGEST} characters of them")
                pieces.append(piece)
        except _FAILURES as error:
            raise _refusal(f"refuses them: {error}") from error
        return "".join(pieces)


def read_chat_template(
    folder: Path, replaced: str | None, special_tokens: Mapping[str, str] | None = None
) -> ChatTemplate | None:
    """The template beside the tokenizer in `folder`, or `replaced` in its place; None when there is none.

    `special_tokens` count where the tokenizer's settings do not name them. Raises LoadError.
    """
    settings = _settings(folder / SETTINGS)
    tokens = dict(special_tokens or {})
    for name in _SPECIAL:
        token = settings.get(name)
        if token is not None:
            tokens[name] = str(token["content"] if isinstance(token, dict) else token)
    if replaced is not None:
        return ChatTemplate(replaced, tokens, "model/chat_template.jinja")
    if (folder / TEMPLATE).exists():
        return ChatTemplate((folder / TEMPLATE).read_text("utf-8"), tokens, str(folder / TEMPLATE))
    source = settings.get("chat_template")
    if isinstance(source, list):
        source = {one["name"]: one["template"] for one in source}
    if isinstance(source, dict):  # several, by name
        source = source.get("default")
    return None if source is None else ChatTemplate(source, tokens, str(folder / SETTINGS))


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _broken(path, str(error)) from error
    if not isinstance(settings, dict):
        raise _broken(path, "it holds no object")
    return settings


def _broken(path: Path, why: str) -> LoadError:
    return LoadError(f"the tokenizer's settings cannot be read: {why}", where=str(path), mend="download it again")


def _refusal(what: str) -> RequestError:
    return RequestError(f"the model's chat template {what}", where="messages")


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training: here its body stands for itself."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates call it so
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """As json does; jinja2's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _environment()
