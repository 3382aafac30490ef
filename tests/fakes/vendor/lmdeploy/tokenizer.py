"""A tokenizer of bytes: 256 tokens, the beginning of a text, and its end."""

from types import SimpleNamespace

BOS, EOS = 256, 257
SIZE = 258
_NAMES = {BOS: "<s>", EOS: "</s>"}
_OTHERS = [byte for byte in range(256) if not (0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE)]
_LETTERS = {byte: chr(0x100 + place) for place, byte in enumerate(_OTHERS)}


class Backend:
    """What is asked of a `tokenizers.Tokenizer`: the byte-level alphabet, and two special tokens."""

    decoder = SimpleNamespace(__getstate__=lambda: b'{"type": "ByteLevel"}')

    def get_added_tokens_decoder(self):
        return {number: SimpleNamespace(content=name, special=True) for number, name in _NAMES.items()}

    def decode(self, ids):
        return bytes(one for one in ids if one < 256).decode(errors="replace")

    def id_to_token(self, number):
        return _NAMES.get(number) or (_LETTERS.get(number, chr(number)) if number < 256 else None)


class HuggingFaceTokenizer:
    def __init__(self, model_dir, trust_remote_code=False):
        self.model = SimpleNamespace(backend_tokenizer=Backend())


class Tokenizer:
    def __init__(self, model_path, trust_remote_code=False):
        self.model = HuggingFaceTokenizer(model_path, trust_remote_code)

    def encode(self, s, add_bos=True, add_special_tokens=True, **kwargs):
        start = [BOS] if add_special_tokens and s else []
        return start + list(s.encode())
