import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from packager.runtime.engines.decode import Detokenizer

HELLO = Path(__file__).resolve().parents[4] / "examples/hello/safetensors/tokenizer.json"
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(0x100)]
SPACE = "\u2581"  # sentencepiece's mark for a space
WORDS = [SPACE, SPACE * 2, f"{SPACE}the", f"{SPACE}cat", "s", "é", "日", f"{SPACE}😀", "<0x4g>", "."]


def pieces(tokens: list[str], decoder: decoders.Decoder | None) -> Tokenizer:
    """A tokenizer with these tokens, after the special ones."""
    tokenizer = Tokenizer(models.WordLevel({token: at for at, token in enumerate(SPECIAL + tokens)}, "<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


def byte_fallback(*, strip: bool = True) -> Tokenizer:
    """As Llama 2 (with `strip`) and Gemma (without) decode."""
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        parts.append(decoders.Strip(" ", 1, 0))
    return pieces(BYTES + WORDS, decoders.Sequence(parts))


TOKENIZERS = {
    "byte-level": lambda: Tokenizer.from_file(str(HELLO)),
    "llama-2": byte_fallback,
    "gemma": lambda: byte_fallback(strip=False),
    "metaspace": lambda: pieces(WORDS, decoders.Metaspace()),
    "wordpiece": lambda: pieces(["the", "##s", "cat", ".", "'", "##."], decoders.WordPiece()),
    "end-of-word": lambda: pieces(["the</w>", "c", "at</w>"], decoders.BPEDecoder()),
    "no decoder": lambda: pieces(["the", "cat"], None),
}


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]()


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    text = Detokenizer(tokenizer).stream()
    return [*map(text.feed, ids), text.rest()]


def test_all_pieces_are_the_decoded_whole(tokenizer):
    draw = random.Random(7)
    size = tokenizer.get_vocab_size()
    for _ in range(2000):
        # Low ids are special tokens and single bytes: half of them, so that characters break and mend.
        ids = [draw.randrange(draw.choice((min(size, 260), size + 2))) for _ in range(draw.randrange(12))]
        assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids), ids


def test_a_text_comes_back_token_by_token(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    ids = [at for at in range(len(SPECIAL), tokenizer.get_vocab_size()) if not detokenizer.is_byte(at)][-40:]
    given = stream(tokenizer, ids)
    assert sum(map(bool, given[:-1])) > len(ids) // 2
    assert "".join(given) == tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["né", "日本", "😀 and 👩‍👩‍👧"])
def test_a_character_is_never_given_in_parts(text):
    tokenizer = Tokenizer.from_file(str(HELLO))
    ids = tokenizer.encode(text).ids
    assert len(ids) > len(text)
    given = stream(tokenizer, ids)
    assert all(piece in text for piece in given)
    assert given[-1] == ""


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<0xE6>", "<0x97>", "<0xA5>", "s"], ["", "", "", "日s", ""]),
        (["s", "<0xE6>", "</s>", "<0x97>", "<0xA5>"], ["s", "", "", "", "", "日"]),
        (["<0xE6>", "<0x97>", "<0xA5>", "<0xFF>", "s"], ["", "", "", "", "\ufffd" * 4 + "s", ""]),
        (["<0xE6>"], ["", "\ufffd"]),
        ([f"{SPACE}the", f"{SPACE}cat", SPACE, "s"], ["the", " cat", " ", "s", ""]),
        (["<s>", SPACE, "s"], ["", "", "s", ""]),
    ],
)
def test_byte_fallback(tokens, expected):
    tokenizer = byte_fallback()
    assert stream(tokenizer, [tokenizer.token_to_id(token) for token in tokens]) == expected


def test_a_token_the_tokenizer_does_not_know_gives_nothing():
    tokenizer = Tokenizer.from_file(str(HELLO))
    assert stream(tokenizer, [99_999, 300]) == ["", tokenizer.decode([300]), ""]
    assert Detokenizer(tokenizer).token_bytes(99_999) == b""


def test_two_streams_do_not_share_their_parts_of_characters():
    tokenizer = Tokenizer.from_file(str(HELLO))
    detokenizer = Detokenizer(tokenizer)
    broken, whole = detokenizer.stream(), detokenizer.stream()
    first, *_ = tokenizer.encode("日").ids
    assert broken.feed(first) == ""
    assert whole.feed(tokenizer.token_to_id("a")) == "a"
    assert broken.rest() == "\ufffd"


def test_the_bytes_of_all_tokens_are_those_of_the_text():
    tokenizer = Tokenizer.from_file(str(HELLO))
    detokenizer = Detokenizer(tokenizer)
    text = "né 日本 😀"
    assert b"".join(map(detokenizer.token_bytes, tokenizer.encode(text).ids)) == text.encode()
    assert detokenizer.token_bytes(0) == b"<|endoftext|>"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (f"{SPACE}cat", b" cat"),
        (SPACE, b" "),
        ("日", "日".encode()),
        ("<0xE6>", b"\xe6"),
        ("<0x4g>", b"<0x4g>"),
        ("</s>", b"</s>"),
    ],
)
def test_the_bytes_of_a_piece(token, expected):
    tokenizer = byte_fallback()
    assert Detokenizer(tokenizer).token_bytes(tokenizer.token_to_id(token)) == expected


def test_an_added_token_outside_the_byte_alphabet_is_its_own_text():
    tokenizer = Tokenizer.from_file(str(HELLO))
    tokenizer.add_tokens(["日 x"])
    added = tokenizer.token_to_id("日 x")
    assert stream(tokenizer, [added]) == ["日 x", ""]
    assert tokenizer.decode([added]) == "日 x"
