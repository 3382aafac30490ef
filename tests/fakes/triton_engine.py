"""A stand-in for TensorRT-LLM's backend for Triton: the model `tensorrt_llm`, in Python, that repeats the prompt's tokens.

Responses are as model_instance_state.cc makes them: a stream has each step's tokens, one response for all has them
together (after the prompt's, unless that is excluded), the last one carries the final flag, and a request with `stop` ends
the one that has its id. What it was asked and how it ended goes to the file that STAND_IN_LOG names, a JSON line each.
"""

import json
import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

STEP = 0.01
BREAKS = 66
"""A temperature at which the engine breaks after a token."""
SCALARS = ("request_output_len", "end_id", "streaming", "exclude_input_in_output", "runtime_top_k", "temperature")


class TritonPythonModel:
    def initialize(self, args):
        self.parameters = {
            name: one["string_value"] for name, one in json.loads(args["model_config"])["parameters"].items()
        }
        self.stopped = set()
        self.note(event="loaded", path=self.parameters["gpt_model_path"])

    def execute(self, requests):
        for request in requests:
            sender, identity = request.get_response_sender(), request.request_id()
            asked = {name: self.read(request, name) for name in SCALARS}
            if self.read(request, "stop"):
                self.stopped.add(identity)
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            ids, stops = self.row(request, "input_ids"), _split(*self.row(request, "stop_words_list"))
            bads = _split(*self.row(request, "bad_words_list"))
            self.note(event="asked", ids=ids, stops=stops, bads=bads, **asked)
            threading.Thread(target=self.answer, args=(sender, identity, ids, asked, stops), daemon=True).start()

    def read(self, request, name):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy().ravel()[0].item()

    def row(self, request, name):
        return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0].tolist()

    def answer(self, sender, identity, ids, asked, stops):
        written, reason = [], "length"
        for token in self.tokens(ids, asked["end_id"]):
            time.sleep(STEP)
            if sender.is_cancelled() or identity in self.stopped:
                reason = "cancelled" if identity not in self.stopped else "stopped"
                break
            if token == asked["end_id"]:
                reason = "end"
                break
            written.append(token)
            if len(written) == asked["request_output_len"] or any(written[-len(stop) :] == stop for stop in stops):
                break
            if asked["streaming"]:
                sender.send(self.response([token]))
            if asked["temperature"] == BREAKS:
                broken = pb_utils.InferenceResponse(error=pb_utils.TritonError("the executor broke"))
                sender.send(broken, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                return
        self.note(event="ended", reason=reason, written=len(written))
        last = written[-1:] if reason == "length" else [token] if reason == "stopped" else []  # it was on the way
        whole = written if asked["exclude_input_in_output"] is not False else ids + written
        tokens = last if asked["streaming"] else whole
        sender.send(self.response(tokens), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def tokens(self, ids, end):
        yield from ids
        while end == -1:
            yield from ids
        yield end

    def response(self, tokens):
        values = {
            "output_ids": np.array([[tokens]], np.int32),
            "sequence_length": np.array([[len(tokens)]], np.int32),
            "num_output_tokens": np.array([[len(tokens)]], np.int32),
        }
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, one) for name, one in values.items()])

    def note(self, **fields):
        with Path(os.environ["STAND_IN_LOG"]).open("a") as log:
            log.write(json.dumps(fields) + "\n")


def _split(tokens, ends):
    """Words as TensorRT-LLM reads them: all tokens, and where each word ends; -1 fills up."""
    ends = [end for end in ends if end >= 0]
    return [tokens[start:end] for start, end in pairwise([0, *ends])]
