"""Tokens to text, one at a time, for engines that give token ids; over a tokenizer of the `tokenizers` library.

The library's own DecodeStream is not used: it raises when a byte-fallback token makes earlier bytes invalid,
decodes all that it holds back again for each token (quadratic for a model that writes broken UTF-8), and
has no way to ask for what it still holds at the end.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""How the `ByteFallback` decoder writes a token of one byte."""


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of the `ByteLevel` decoder: printable Latin-1 stands for itself, the other bytes follow U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


class Detokenizer:
    """What all streams of one tokenizer share: how its decoder works, and each token's bytes.

    `stream()` gives a new TextStream.
    """

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer` (transformers has it as `backend_tokenizer`)."""
        self._tokenizer = tokenizer
        decoder = tokenizer.decoder
        kinds = set() if decoder is None else set(_kinds(json.loads(decoder.__getstate__())))
        self._byte_level = kinds - {"Fuse"} == {"ByteLevel"}
        self._byte_fallback = "ByteFallback" in kinds
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token.content for token in added.values() if token.special}
        self._bytes: dict[int, bytes] = {}

    def stream(self) -> "TextStream":
        """A stream at its beginning, for one answer."""
        return _ByteStream(self) if self._byte_level else _PieceStream(self)

    def silent(self, token_id: int) -> bool:
        """Whether the token never gives text: special, or unknown to the tokenizer (padded vocabularies have such)."""
        token = self._tokenizer.id_to_token(token_id)
        return token is None or token in self._special

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds inside a text; a special token's own name; nothing for an unknown one."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._token_bytes(token_id)
        return known

    def _token_bytes(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if token in self._special:
            return str(token).encode()
        if self._byte_level:
            known = set(token) <= _ALPHABET.keys()
            return bytes(map(_ALPHABET.__getitem__, token)) if known else str(token).encode()
        if self.is_byte(token_id):
            return bytes.fromhex(token[3:5])
        return self.added_text([token_id], [token_id]).encode()

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is one byte, whose text depends on its neighbours."""
        token = self._tokenizer.id_to_token(token_id)
        return self._byte_fallback and token is not None and _BYTE.fullmatch(token) is not None

    def added_text(self, before: list[int], added: list[int]) -> str:
        """The text that `added` brings when `before` stands in front of it.

        One token in front is enough: decoders treat a text's first token differently (its space may go), and
        otherwise look at each token, or each run of byte tokens, by itself.
        """
        text: str = self._tokenizer.decode(before + added)
        return text[len(self._tokenizer.decode(before)) :]


class TextStream(Protocol):
    """The text of one answer, as its tokens come: all pieces together are the tokenizer's `decode` of all tokens.

    That holds for every sequence of ids, with `skip_special_tokens`.
    """

    def feed(self, token_id: int) -> str:
        """The text that is certain now: never a part of a character."""
        ...

    def rest(self) -> str:
        """What was held back, when the tokens have ended."""
        ...


class _ByteStream:
    """For byte-level BPE: every token is a run of bytes."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        if self._detokenizer.silent(token_id):
            return ""
        return self._utf8.decode(self._detokenizer.token_bytes(token_id))

    def rest(self) -> str:
        return self._utf8.decode(b"", final=True)


class _PieceStream:
    """For tokens that are text (sentencepiece and others), some of them perhaps single bytes.

    A run of byte tokens is held until it has ended: one invalid byte turns the whole run into U+FFFD.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._before: list[int] = []
        self._held: list[int] = []

    def feed(self, token_id: int) -> str:
        if self._detokenizer.silent(token_id):
            return ""
        self._held.append(token_id)
        return "" if self._detokenizer.is_byte(token_id) else self.rest()

    def rest(self) -> str:
        if not self._held:
            return ""
        held, self._held = self._held, []
        text = self._detokenizer.added_text(self._before, held)
        self._before = held[-1:]
        return text


def _kinds(decoder: dict[str, Any]) -> Iterator[str]:
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _kinds(part)
    else:
        yield decoder["type"]
