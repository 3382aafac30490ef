"""TensorRT-LLM's `preprocessing` and `postprocessing` for Triton: text to tokens and back, in batches.

Inputs, outputs and the layout of word lists are those of NVIDIA's models of these names; pictures, prompts of
encoders and biases are refused by name. The engine's limits are compared here, before a request waits for the engine.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ContextLengthError, PackagerError, RequestError
from ...manifest import read_manifest
from ...weights.compiled import parse_build
from ..engines.converted import read_tokenizer
from ..engines.tensorrt_llm_folder import Words, read_words
from ..engines.tensorrt_llm_options import compiled_context
from .http import error_text
from .triton_backend import said, taken
from .triton_memory import unname_region

_TAKEN = ("QUERY", "REQUEST_OUTPUT_LEN", "BAD_WORDS_DICT", "STOP_WORDS_DICT", "END_ID", "PAD_ID")
_REFUSED: Mapping[str, str] = {
    "DECODER_QUERY": "decoder_text_input",
    "IMAGE_BYTES": "IMAGE_BYTES",
    "IMAGE_URL": "IMAGE_URL",
    "IMAGES": "IMAGES",
    "VIDEO_BYTES": "VIDEO_BYTES",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
}
"""Inputs that are not supported, each with the name that clients of the ensemble know it by."""
_MEND = "name the source model in `weights.tokenizer` of the spec, or put its tokenizer.json beside the engine"


class Preprocessing:
    """What Triton's Python backend drives. `backend` is Triton's module, which only its process can import."""

    def __init__(self, package: Path, backend: Any) -> None:
        self._package = package
        self._backend = backend
        self._words: Words
        self._special = True

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the tokenizer and the engine's limits. Raises Triton's own exception with the reason."""
        unname_region()
        values = read_parameters(args)
        self._special = values["add_special_tokens"] == "true"
        try:
            manifest = read_manifest(self._package)
            build = parse_build(manifest.weights.compiled if manifest.weights else None)
            context = compiled_context(build, manifest.engine.options.get("context_length"))
            longest = min(build.limits.max_input_len, build.limits.max_num_tokens)  # a prompt is read in one step
            self._words = read_words(Path(values["tokenizer_dir"]), None, context, longest)
        except PackagerError as error:
            raise self._backend.TritonModelException(said(error)) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            return self._backend.InferenceResponse(output_tensors=self._tensors(request))
        except RequestError as error:
            return self._backend.InferenceResponse(error=invalid(self._backend, error))

    def _tensors(self, request: Any) -> list[Any]:
        refuse_parameters(request)
        for name, known_as in _REFUSED.items():
            if self._backend.get_input_tensor_by_name(request, name) is not None:
                raise RequestError(f"{known_as} is not supported by this model server", where=known_as)
        found = {name: self._backend.get_input_tensor_by_name(request, name) for name in _TAKEN}
        given = {name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None}
        lengths = given["REQUEST_OUTPUT_LEN"]
        ids = [self._ids(text, int(most)) for text, most in zip(given["QUERY"].ravel(), lengths.ravel(), strict=True)]
        rows, (end, *further) = len(ids), self._words.ends
        # The engine knows one end, and stops at words: a model's further ends go there, unless the client chose an end.
        ends = [] if "END_ID" in given else [[token] for token in further]
        stops = [self._word_ids(given, "STOP_WORDS_DICT", row) + ends for row in range(rows)]
        bads = [self._word_ids(given, "BAD_WORDS_DICT", row) for row in range(rows)]
        same = np.full((rows, 1), end, np.int32)
        values = {
            "INPUT_ID": padded(ids, end),
            "REQUEST_INPUT_LEN": np.array([[len(row)] for row in ids], np.int32),
            "DECODER_INPUT_ID": given.get("PAD_ID", same),
            "REQUEST_DECODER_INPUT_LEN": np.ones((rows, 1), np.int32),
            "REQUEST_OUTPUT_LEN": lengths,
            "BAD_WORDS_IDS": word_lists(bads),
            "STOP_WORDS_IDS": word_lists(stops),
            "EMBEDDING_BIAS": np.empty((rows, 0), np.float32),
            "OUT_END_ID": given.get("END_ID", same),
            "OUT_PAD_ID": given.get("PAD_ID", same),
        }
        return [self._backend.Tensor(name, value) for name, value in values.items()]

    def _ids(self, text: bytes, most: int) -> list[int]:
        (encoded,) = self._words.tokenizer.encode_batch_fast(
            [decoded("text_input", text)], add_special_tokens=self._special
        )
        ids: list[int] = encoded.ids
        if not ids:
            raise RequestError("the prompt has no tokens", where="text_input")
        longest, context = self._words.longest, self._words.context
        if len(ids) > longest:
            what = f"the prompt has {len(ids)} tokens; it can have {longest} of the {context} of the context"
            raise ContextLengthError(what, where="text_input", mend="shorten it")
        if not 1 <= most <= context - len(ids):
            what = f"max_tokens must be from 1 to {context - len(ids)}: the prompt has {len(ids)} tokens of {context}"
            raise RequestError(what, where="max_tokens")
        return ids

    def _word_ids(self, given: Mapping[str, Any], name: str, row: int) -> list[list[int]]:
        known_as = name.removesuffix("_DICT").lower()
        texts = [decoded(known_as, word) for word in given[name][row].ravel()] if name in given else []
        found = self._words.tokenizer.encode_batch_fast([text for text in texts if text], add_special_tokens=False)
        return [one.ids for one in found if one.ids]


class Postprocessing:
    """Each response's tokens as text. One that is a piece of a stream is decoded alone, as NVIDIA's does."""

    def __init__(self, _package: Path, backend: Any) -> None:
        self._backend = backend
        self._tokenizer: Any
        self._skip = True

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the tokenizer. Raises Triton's own exception with the reason."""
        unname_region()
        values = read_parameters(args)
        self._skip = values["skip_special_tokens"] == "true"
        try:
            self._tokenizer = read_tokenizer(Path(values["tokenizer_dir"]) / "tokenizer.json", _MEND)
        except PackagerError as error:
            raise self._backend.TritonModelException(said(error)) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request: a text for each beam."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tokens, lengths = (
            self._backend.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("TOKENS_BATCH", "SEQUENCE_LENGTH")
        )
        rows = [
            beam[:size].tolist()
            for beams, sizes in zip(tokens, lengths, strict=True)
            for beam, size in zip(beams, sizes, strict=True)
        ]
        texts = self._tokenizer.decode_batch(rows, skip_special_tokens=self._skip)
        output = np.array([text.encode() for text in texts], np.object_).reshape(lengths.shape)
        return self._backend.InferenceResponse(output_tensors=[self._backend.Tensor("OUTPUT", output)])


def read_parameters(args: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a model's configuration."""
    parameters = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in parameters.items()}


def refuse_parameters(request: Any) -> None:
    """Raise RequestError for a parameter of the request, which no input is named as: nothing would heed it."""
    for name, value in (json.loads(request.parameters() or "{}") | taken(request)).items():
        if (name, value) != ("id", request.request_id()):
            raise RequestError(f"{name} is not supported by this model server", where=name)


def decoded(name: str, text: bytes) -> str:
    """The text that a client gave as `name`. Raises RequestError."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not UTF-8", where=name) from None


def invalid(backend: Any, error: RequestError) -> Any:
    """Triton's error for a request that cannot be."""
    return backend.TritonError(error_text(error), backend.TritonError.INVALID_ARG)


def padded(rows: Sequence[Sequence[int]], pad: int) -> Any:
    """Rows of tokens as an array [rows, longest]."""
    longest = max(map(len, rows))
    return np.array([[*row, *[pad] * (longest - len(row))] for row in rows], np.int32)


def word_lists(rows: Sequence[Sequence[Sequence[int]]]) -> Any:
    """Words of tokens as TensorRT-LLM takes them: [rows, 2, longest], all tokens above, where each word ends below."""
    flat = [[token for word in words for token in word] for words in rows]
    ends = [np.cumsum([len(word) for word in words], dtype=np.int32).tolist() for words in rows]
    longest = max(map(len, flat))
    found = np.zeros((len(rows), 2, longest), np.int32)
    for row, (tokens, stops) in enumerate(zip(flat, ends, strict=True)):
        found[row, 0, : len(tokens)] = tokens
        found[row, 1] = [*stops, *[-1] * (longest - len(stops))]
    return found
