"""TensorRT-LLM's `tensorrt_llm_bls` for Triton: asks preprocessing and the engine by itself, and keeps a stream's text whole.

The ensemble decodes each piece of a stream alone, which loses the spaces of some tokenizers and breaks characters of
several tokens. Here one decoder follows the stream; it also ends at stop words that are tokenized otherwise than alone.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import numpy as np

from ...environ import LOG_LEVEL
from ...errors import PackagerError, RequestError
from ...manifest import ServingManifest, read_manifest
from ..engines.converted import read_tokenizer
from ..engines.decode import Detokenizer
from ..logs import event, log_to_stderr
from ..stops import StopText
from .triton_backend import LOOK_SECONDS, said
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
_MEND = "put tokenizer.json of the source model into the folder"
_STOPS = 100
"""How often the engine is asked to end a request, before that is given up."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request's inputs by name, copied, and what of them is read here."""

    inputs: Mapping[str, Any]
    stops: tuple[str, ...]
    stream: bool
    prefix: str
    """What stands before the text."""


class _Reply:
    """One request's way back to Triton, which forgets the request with its last response: nothing is asked or sent then."""

    def __init__(self, sender: Any) -> None:
        self.id = uuid4().hex
        self.left = False
        self._sender = sender
        self._lock = threading.Lock()
        self._closed = False
        self._begun = self._last = monotonic()
        self._answered = False

    def send(self, response: Any) -> None:
        with self._lock:
            if not self._closed:
                self._answered, self._last = True, monotonic()
                self._sender.send(response)

    def end(self, flags: int, *response: Any) -> None:
        """The last response, or none."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._sender.send(*response, flags=flags)

    def has_left(self) -> bool:
        """Whether its client has left since this was asked last."""
        with self._lock:
            left = not self._closed and not self.left and bool(self._sender.is_cancelled())
            self.left |= left
        return left

    def overdue(self, serving: ServingManifest) -> str:
        """Which time limit it has passed, in words; empty when none."""
        now, pause = monotonic(), serving.token_gap_seconds if self._answered else serving.first_token_seconds
        if serving.total_seconds and now - self._begun > serving.total_seconds:
            return f"the answer took longer than {serving.total_seconds} s"
        if pause and now - self._last > pause:
            return f"the engine gave no {'further ' * self._answered}token for {pause} s"
        return ""


class Bls:
    """What Triton's Python backend drives. `backend` is Triton's module, which only its process can import."""

    def __init__(self, package: Path, backend: Any) -> None:
        self._package = package
        self._backend = backend
        self._inputs: tuple[str, ...]
        self._results: tuple[str, ...]
        self._engine = ""
        self._whole = False
        self._detokenizer: Detokenizer
        self._serving: ServingManifest
        self._open: set[_Reply] = set()
        self._ended = threading.Event()
        self._watch: threading.Thread

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the tokenizer. Raises Triton's own exception with the reason."""
        values, config = read_parameters(args), json.loads(args["model_config"])
        self._inputs = tuple(one["name"] for one in config["input"])
        self._results = tuple(one["name"] for one in config["output"] if one["name"] != "text_output")
        self._engine = values["tensorrt_llm_model_name"]
        self._whole = values["accumulate_tokens"] == "true"
        log_to_stderr(LOG_LEVEL.get() or "info")
        try:
            self._serving = read_manifest(self._package).serving
            tokenizer = read_tokenizer(Path(values["tokenizer_dir"]) / "tokenizer.json", _MEND)
        except PackagerError as error:
            raise self._backend.TritonModelException(said(error)) from error
        self._detokenizer = Detokenizer(tokenizer)
        self._watch = threading.Thread(target=self._look, daemon=True, name="packager-watch")
        self._watch.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to answer; each answer comes from a thread of its own, which waits for the engine most of the time."""
        most = self._serving.max_concurrency + self._serving.max_queue
        for request in requests:
            reply = _Reply(request.get_response_sender())
            try:
                asked = self._read(request)
            except RequestError as error:
                self._fail(reply, invalid(self._backend, error))
                continue
            if len(self._open) < most:
                self._open.add(reply)
                threading.Thread(target=self._answer, args=(asked, reply), daemon=True).start()
            else:
                what = f"{most} requests run and wait: no more are taken now"
                self._fail(reply, self._backend.TritonError(what, self._backend.TritonError.UNAVAILABLE))

    def finalize(self) -> None:
        """Nothing runs any more: Triton has waited for it."""
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        """Have the engine end the requests whose clients have left, of which Triton tells nobody, and those that take too long.

        An error that the engine answers after a first response does not arrive here (seen with Triton 2.51): without a
        limit such a request would be open for ever.
        """
        while not self._ended.wait(LOOK_SECONDS):
            for reply in list(self._open):
                if reply.has_left():
                    self._stop(reply)
                elif what := reply.overdue(self._serving):
                    self._fail(reply, self._backend.TritonError(what))
                    self._open.discard(reply)
                    self._stop(reply)

    def _read(self, request: Any) -> _Asked:
        """What Triton's request holds. Its memory is Triton's again when `execute` has ended."""
        refuse_parameters(request.parameters(), request.request_id())
        found = {name: self._backend.get_input_tensor_by_name(request, name) for name in self._inputs}
        given = {name: tensor.as_numpy().copy() for name, tensor in found.items() if tensor is not None}
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

    def _answer(self, asked: _Asked, reply: _Reply) -> None:
        try:
            for response in self._responses(asked, reply):
                reply.send(response)
            reply.end(self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except self._backend.TritonModelException as error:
            self._fail(reply, self._backend.TritonError(str(error)))
        except Exception as error:
            self._fail(reply, self._backend.TritonError(f"{type(error).__name__} in the model's server"))
            raise
        finally:
            self._open.discard(reply)

    def _responses(self, asked: _Asked, reply: _Reply) -> Iterator[Any]:
        """The answer, response by response. Raises what another model answered."""
        text, stop, met, whole = self._detokenizer.stream(), StopText(asked.stops), False, ""
        for response in self._generate(asked, reply.id):
            if met or reply.left:
                continue  # it was on the way when the engine was told to stop
            results, rows = self._read_tokens(response)
            if not asked.stream:
                yield self._response([asked.prefix + self._text(row, asked.stops) for row in rows], results)
                continue
            piece, met = stop.feed("".join(map(text.feed, rows[0])))
            whole += piece
            yield self._response([whole if self._whole else piece], results)
            if met:
                self._stop(reply)
        if reply.left:
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

    def _stop(self, reply: _Reply) -> None:
        """Have the engine end the request, without waiting for it."""
        threading.Thread(target=self._send_stop, args=(reply,), daemon=True).start()

    def _send_stop(self, reply: _Reply) -> None:
        """As NVIDIA's BLS does: in some releases a request of a model's own cannot be cancelled otherwise.

        The engine's queue may be full just then, so it is sent again.
        """
        values = {
            "input_ids": np.zeros((1, 1), np.int32),
            "input_lengths": np.zeros((1, 1), np.int32),
            "request_output_len": np.zeros((1, 1), np.int32),
            "stop": np.array([[True]]),
        }
        reason = ""
        for _ in range(_STOPS):
            inputs = [self._backend.Tensor(name, value) for name, value in values.items()]
            answers = list(self._ask(self._engine, reply.id, inputs, ["output_ids"]).exec(decoupled=True))
            reason = next((one.error().message() for one in answers if one.has_error()), "")
            if not reason or self._ended.wait(LOOK_SECONDS):
                return
        event("not stopped", logging.WARNING, reason=reason)

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

    def _fail(self, reply: _Reply, error: Any) -> None:
        reply.end(self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL, self._backend.InferenceResponse(error=error))


def _flag(given: Mapping[str, Any], name: str) -> bool:
    return name in given and bool(given[name].item())
