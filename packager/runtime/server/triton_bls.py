"""TensorRT-LLM's `tensorrt_llm_bls` for Triton: asks preprocessing and the engine by itself, and keeps a stream's text whole.

The ensemble decodes each piece of a stream alone, which loses the spaces of some tokenizers and breaks characters of
several tokens. Here one decoder follows the stream; it also ends at stop words that are tokenized otherwise than alone.

One request at a time, in one thread, and as many processes as requests run at once: that is how NVIDIA's does it, too. With
several threads that ask models, Triton's Python backend (2.51) comes to a stand: a response that arrives takes the locks of
its iterators in another order than a thread that has the interpreter's.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from ...errors import PackagerError, RequestError
from ..engines.converted import read_tokenizer
from ..engines.decode import Detokenizer
from ..logs import event, log_to_stderr
from ..stops import StopText
from .triton_backend import said
from .triton_memory import unname_region
from .triton_tokens import decoded, invalid, read_parameters, refuse_parameters

_TO_PREPROCESSING: Mapping[str, str] = {
    "text_input": "QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "decoder_text_input": "DECODER_QUERY",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
}
_FROM_PREPROCESSING: Mapping[str, str] = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "DECODER_INPUT_ID": "decoder_input_ids",
    "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "STOP_WORDS_IDS": "stop_words_list",
    "BAD_WORDS_IDS": "bad_words_list",
    "EMBEDDING_BIAS": "embedding_bias",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
}
_RENAMED: Mapping[str, str] = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "length_penalty": "len_penalty",
    "stream": "streaming",
}
"""Inputs that the engine knows by another name; all others go to it as they are."""
_REFUSED = (
    "image_input",
    "image_bytes_input",
    "image_url_input",
    "video_bytes_input",
    "num_draft_tokens",
    "use_draft_logits",
)
_OURS = frozenset({*_TO_PREPROCESSING, "exclude_input_in_output"})
_MEND = "name the source model in `weights.tokenizer` of the spec, or put its tokenizer.json beside the engine"


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request's inputs by name, and what of them is read here."""

    inputs: Mapping[str, Any]
    stops: tuple[str, ...]
    stream: bool
    prefix: str
    """What stands before the text."""


class Bls:
    """What Triton's Python backend drives. `backend` is Triton's module, which only its process can import."""

    def __init__(self, _package: Path, backend: Any) -> None:
        self._backend = backend
        self._inputs: tuple[str, ...]
        self._results: tuple[str, ...]
        self._engine = ""
        self._whole = False
        self._detokenizer: Detokenizer

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the tokenizer. Raises Triton's own exception with the reason."""
        unname_region()
        values, config = read_parameters(args), json.loads(args["model_config"])
        self._inputs = tuple(one["name"] for one in config["input"])
        self._results = tuple(one["name"] for one in config["output"] if one["name"] != "text_output")
        self._engine = values["tensorrt_llm_model_name"]
        self._whole = values["accumulate_tokens"] == "true"
        try:
            log_to_stderr()
            tokenizer = read_tokenizer(Path(values["tokenizer_dir"]) / "tokenizer.json", _MEND)
        except PackagerError as error:
            raise self._backend.TritonModelException(said(error)) from error
        self._detokenizer = Detokenizer(tokenizer)

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer each request; Triton gives one at a time."""
        for request in requests:
            self._answer(request, request.get_response_sender())

    def _read(self, request: Any) -> _Asked:
        """What Triton's request holds. Raises RequestError."""
        refuse_parameters(request)
        found = {name: self._backend.get_input_tensor_by_name(request, name) for name in self._inputs}
        given = {name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None}
        for name in (name for name in _REFUSED if name in given):
            raise RequestError(f"{name} is not supported by this model server", where=name)
        if len(given["text_input"]) != 1:
            raise RequestError("text_input must be one text: batches are the ensemble's", where="text_input")
        stream = _flag(given, "stream")
        for name in ("beam_width", "num_return_sequences"):
            if name in given and given[name].item() != 1 and (stream or name == "num_return_sequences"):
                raise RequestError(f"{name} must be 1{' in a stream' * stream}", where=name)
        repeats = "exclude_input_in_output" in given and not _flag(given, "exclude_input_in_output")
        if repeats and stream:
            raise RequestError("exclude_input_in_output cannot be false in a stream", where="exclude_input_in_output")
        prompt = decoded("text_input", given["text_input"].item())
        stops = (
            tuple(decoded("stop_words", word) for word in given["stop_words"].ravel()) if "stop_words" in given else ()
        )
        return _Asked(given, tuple(filter(None, stops)), stream, prompt if repeats else "")

    def _answer(self, request: Any, sender: Any) -> None:
        try:
            for response in self._responses(self._read(request), sender):
                sender.send(response)
            sender.send(flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except RequestError as error:
            self._fail(sender, invalid(self._backend, error))
        except self._backend.TritonModelException as error:
            self._fail(sender, self._backend.TritonError(str(error)))
        except Exception as error:
            self._fail(sender, self._backend.TritonError(f"{type(error).__name__} in the model's server"))
            raise

    def _responses(self, asked: _Asked, sender: Any) -> Iterator[Any]:
        """The answer, response by response. Raises what another model answered."""
        text, stop, whole = self._detokenizer.stream(), StopText(asked.stops), ""
        identity, left, met = uuid4().hex, False, False
        for response in self._generate(asked, identity):
            if left or met:
                continue  # it was on the way when the engine was told to stop
            results, rows = self._read_tokens(response)
            if not asked.stream:
                yield self._response([asked.prefix + self._text(row, asked.stops) for row in rows], results)
                continue
            piece, met = stop.feed("".join(map(text.feed, rows[0])))
            whole += piece
            yield self._response([whole if self._whole else piece], results)
            left = bool(sender.is_cancelled())
            if left or met:
                self._stop(identity)
        if left:
            raise self._backend.TritonModelException("the request was cancelled")
        if asked.stream and not met and (rest := stop.feed(text.rest())[0] + stop.rest()):
            yield self._response([whole + rest if self._whole else rest], [])

    def _text(self, tokens: Sequence[int], stops: tuple[str, ...]) -> str:
        stream, stop = self._detokenizer.stream(), StopText(stops)
        text, met = stop.feed("".join(map(stream.feed, tokens)) + stream.rest())
        return text if met else text + stop.rest()

    def _generate(self, asked: _Asked, identity: str) -> Iterator[Any]:
        """The engine's responses, each with tokens. Raises what the models answer."""
        inputs = [
            self._backend.Tensor(theirs, asked.inputs[ours])
            for ours, theirs in _TO_PREPROCESSING.items()
            if ours in asked.inputs
        ]
        prepared = self._ask("preprocessing", identity, inputs, list(_FROM_PREPROCESSING)).exec()
        self._check(prepared)
        inputs = [
            self._backend.Tensor(_FROM_PREPROCESSING[one.name()], one.as_numpy()) for one in prepared.output_tensors()
        ]
        inputs += [
            # What Triton gives this model without its dimension of one, the engine's model takes with it.
            self._backend.Tensor(_RENAMED.get(name, name), value.reshape(1, -1) if value.ndim == 1 else value)
            for name, value in asked.inputs.items()
            if name not in _OURS
        ]
        inputs.append(self._backend.Tensor("exclude_input_in_output", np.array([[True]])))
        outputs = ["output_ids", "sequence_length", *self._results]
        for response in self._ask(self._engine, identity, inputs, outputs).exec(decoupled=True):
            self._check(response)
            if response.output_tensors():
                yield response

    def _stop(self, identity: str) -> None:
        """Have the engine end the request, as NVIDIA's BLS does: in some releases it cannot be cancelled from here."""
        values = {
            "input_ids": np.zeros((1, 1), np.int32),
            "input_lengths": np.zeros((1, 1), np.int32),
            "request_output_len": np.zeros((1, 1), np.int32),
            "stop": np.array([[True]]),
        }
        inputs = [self._backend.Tensor(name, value) for name, value in values.items()]
        for response in self._ask(self._engine, identity, inputs, ["output_ids"]).exec(decoupled=True):
            if response.has_error():
                event("not stopped", logging.WARNING, reason=response.error().message())

    def _ask(self, model: str, identity: str, inputs: list[Any], outputs: list[str]) -> Any:
        return self._backend.InferenceRequest(
            model_name=model, request_id=identity, inputs=inputs, requested_output_names=outputs
        )

    def _check(self, response: Any) -> None:
        if response.has_error():
            raise self._backend.TritonModelException(response.error().message())

    def _read_tokens(self, response: Any) -> tuple[list[Any], list[list[int]]]:
        """What goes on as it is, and the tokens of each beam."""
        found = {tensor.name(): tensor for tensor in response.output_tensors()}
        tokens, sizes = (found[name].as_numpy()[0] for name in ("output_ids", "sequence_length"))
        rows = [row[:size].tolist() for row, size in zip(tokens, sizes, strict=True)]
        return [found[name] for name in self._results if name in found], rows

    def _response(self, texts: Sequence[str], results: list[Any]) -> Any:
        text = self._backend.Tensor("text_output", np.array([[one.encode() for one in texts]], np.object_))
        return self._backend.InferenceResponse(output_tensors=[text, *results])

    def _fail(self, sender: Any, error: Any) -> None:
        response = self._backend.InferenceResponse(error=error)
        sender.send(response, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _flag(given: Mapping[str, Any], name: str) -> bool:
    return name in given and bool(given[name].item())
