"""A tool that must be called, on an engine that can bind its output to a grammar: the call as text, and back."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ..engine import Tools
from ..structured import forced
from .json_grammar import calls_grammar

Piece = Mapping[str, Any]


class ForcedCall:
    """Writes the call as `{"name": "NAME", "arguments": ARGUMENTS` and makes pieces of a tool call of that text again.

    The last brace is left out, so that the text's end is the end of the arguments, wherever it comes.
    """

    def __init__(self, functions: Sequence[Mapping[str, Any]]) -> None:
        self._functions = {f'{{"name": "{function["name"]}", "arguments": ': function for function in functions}
        self._head = ""
        self.begun = False

    def grammar(self) -> str:
        """The grammar of the text. Raises RequestError for parameters whose schema is not supported."""
        return calls_grammar({head: function["parameters"] for head, function in self._functions.items()}, "tools")

    def feed(self, text: str) -> tuple[Piece, ...]:
        """The pieces that `text` adds, the first one with the call's id and the function's name."""
        if self.begun:
            return ({"index": 0, "function": {"arguments": text}},) if text else ()
        self._head += text
        for head, function in self._functions.items():
            if self._head.startswith(head):
                self.begun = True
                called = {"name": function["name"], "arguments": self._head[len(head) :]}
                return ({"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function", "function": called},)
        return ()


def forced_call(tools: Tools | None) -> ForcedCall | None:
    """The call that the answer must be; None when it may be text."""
    functions = forced(tools)
    return ForcedCall(functions) if functions else None
