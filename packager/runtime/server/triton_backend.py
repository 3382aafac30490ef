"""The runtime inside Triton's Python backend: a decoupled model over the package's engine.

Triton runs the package's `triton/NAME/1/model.py` in a process of its own (the stub) and hands it requests; the inputs,
the outputs and what is refused are those of `triton.py`. The engine lives on an event loop in a thread; admission,
limits and restarts are the Supervisor's, as behind every server.
"""

import asyncio
import json
import locale
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import PackagerError, RequestError, UnavailableError
from ..generation import Generation
from ..inputs import new_id
from ..load import open_package
from ..logs import log_to_stderr
from ..supervise import Supervisor
from .http import error_text
from .keys import refuse_api_keys
from .triton import INPUTS, OUTPUTS, Asked, outputs_of, parse_inputs
from .triton_memory import unname_region

LOOK_SECONDS = 0.05
"""How often Triton is asked whether the clients of the open requests have left: it tells nobody by itself."""
_TYPES: Mapping[str, Any] = {"BYTES": np.object_, "UINT32": np.uint32}


class PackagedModel:
    """What Triton's Python backend drives, over the package folder `package`.

    `backend` is Triton's module `triton_python_backend_utils`, which only the stub can import. `inputs` and `outputs` are
    the model's, `outputs` with their types; each response of a stream has what is new, or with `whole` all that there is.
    """

    inputs: Collection[str] = INPUTS.keys()
    outputs: Mapping[str, str] = OUTPUTS
    whole = False

    def __init__(self, package: Path, backend: Any) -> None:
        self._package = package
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="packager-model")
        # Each answer is a word to Triton's process that waits for one back: not on the engine's loop. One thread, so that
        # nobody asks for a request that Triton has just dropped.
        self._talk = ThreadPoolExecutor(1, "packager-triton")
        self._open: dict[Reply, Generation] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._supervisor: Supervisor
        self._watching: asyncio.Task[None]

    def initialize(self, _args: Mapping[str, str]) -> None:
        """Load the package. Raises Triton's own exception with the reason, which Triton shows and its API answers."""
        unname_region()
        # The stub starts Python without any locale: engines that open files without an encoding would read ASCII.
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        self._thread.start()
        try:
            log_to_stderr()
            asyncio.run_coroutine_threadsafe(self._load(), self._loop).result()
        except PackagerError as error:
            self._end()
            raise self._backend.TritonModelException(said(error)) from error

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to answer; the answers come from other threads."""
        for request in requests:
            reply = Reply(request.get_response_sender(), request.request_id())
            self._loop.call_soon_threadsafe(self._begin, self._read(request), reply)

    def finalize(self) -> None:
        """End what runs and give the engine back."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._end()

    def is_ready(self) -> bool:
        """Whether requests are taken: Triton's releases since the spring of 2026 ask it for GET .../ready of the model."""
        return self._supervisor.ready

    def abort(self, identity: str) -> None:
        """End the requests that a client gave this id. On the engine's loop."""
        for reply, generation in self._open.items():
            if reply.id == identity:
                generation.abort()

    async def _load(self) -> None:
        refuse_api_keys("Triton")
        self._supervisor = open_package(self._package)
        self._supervisor.start()
        try:
            await self._supervisor.loaded()
        except PackagerError:
            await self._supervisor.stop()
            raise
        self._watching = asyncio.create_task(self._watch())

    async def _stop(self) -> None:
        self._watching.cancel()
        await self._supervisor.stop()
        if self._answers:  # their last words are on the way
            await asyncio.wait(self._answers)

    def _end(self) -> None:
        self._talk.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _watch(self) -> None:
        """Abort the requests whose clients have left."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            replies = list(self._open)
            left = await self._loop.run_in_executor(self._talk, _left, replies)
            for reply in left:
                if reply in self._open:
                    self._open[reply].abort()

    def _read(self, request: Any) -> "Inputs":
        """What Triton's request holds. Its memory is Triton's again when `execute` has ended."""
        tensors = {name: self._backend.get_input_tensor_by_name(request, name) for name in self.inputs}
        given = {name: tensor.as_numpy().tolist() for name, tensor in tensors.items() if tensor is not None}
        wanted = frozenset(request.requested_output_names())
        return Inputs(given, request.parameters(), taken(request), request.request_id(), wanted)

    def parse(self, inputs: "Inputs") -> Asked:
        """What a request asks. Raises RequestError naming what is off."""
        return parse(inputs)

    def _begin(self, inputs: "Inputs", reply: "Reply") -> None:
        answer = asyncio.create_task(self.answer(inputs, reply))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def answer(self, inputs: "Inputs", reply: "Reply") -> None:
        """Send every response to one request."""
        try:
            asked = self.parse(inputs)
            self._check_adapter(asked.request.adapter)
            self._open[reply] = self._supervisor.submit(asked.request)
            await self._write(asked, reply)
        except PackagerError as error:
            await self.fail(reply, error_text(error), _code(error))
        except Exception as error:
            await self.fail(reply, f"{type(error).__name__} in the model's server", "INTERNAL")
            raise
        finally:
            if generation := self._open.pop(reply, None):
                generation.abort()

    def _check_adapter(self, adapter: str | None) -> None:
        here = self._supervisor.facts.features.adapters if self._supervisor.facts else ()
        if adapter is not None and adapter not in here:
            what = f"lora_name names no adapter of this package, which has {', '.join(here) or 'none'}: {adapter}"
            raise RequestError(what, where="lora_name")

    async def _write(self, asked: Asked, reply: "Reply") -> None:
        """The answer: a response for what there is each time, or one for all. Raises what the request fails with."""
        generation, text = self._open[reply], asked.prefix
        while batch := await generation.batch():
            text += "".join(delta.text for delta in batch)
            last = batch[-1]
            if last.finish_reason == "abort":
                await self.fail(reply, "the request was cancelled", "CANCELLED")
            elif last.finish_reason is not None:
                await self._send(reply, self._response(outputs_of(asked, text, last)), final=True)
            elif asked.stream and text:
                await self._send(reply, self._response({"text_output": text}))
                text = text if self.whole else ""

    def _response(self, outputs: Mapping[str, Any]) -> Any:
        tensors = [
            self._backend.Tensor(
                name, np.array([value.encode() if isinstance(value, str) else value], _TYPES[self.outputs[name]])
            )
            for name, value in outputs.items()
        ]
        return self._backend.InferenceResponse(output_tensors=tensors)

    async def fail(self, reply: "Reply", what: str, code: str) -> None:
        """End a request with an error; `code` is Triton's name for its kind."""
        error = self._backend.TritonError(what, getattr(self._backend.TritonError, code))
        await self._send(reply, self._backend.InferenceResponse(error=error), final=True)

    async def _send(self, reply: "Reply", response: Any, *, final: bool = False) -> None:
        flags = self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        await self._loop.run_in_executor(self._talk, reply.send, response, flags)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A request's inputs (the elements of each), its parameters as JSON text, its id, the outputs that it wants.

    `taken` are parameters that Triton took out of the others.
    """

    tensors: Mapping[str, list[Any]]
    parameters: str
    taken: Mapping[str, Any]
    id: str
    outputs: frozenset[str]

    def named_parameters(self) -> dict[str, Any]:
        """The parameters by name, without what Triton answers with by itself: the id, of the body of `generate`.

        Raises RequestError for another id than the request's.
        """
        found: dict[str, Any] = json.loads(self.parameters or "{}")
        if found.pop("id", self.id) != self.id:
            raise RequestError("id is not supported by this model server but as the request's own", where="id")
        return {**found, **self.taken}


class Reply:
    """One request's way back to Triton. Used in one thread: Triton forgets the request with its last response.

    `id` is the client's, or empty.
    """

    def __init__(self, sender: Any, identity: str) -> None:
        self.id = identity
        self._sender = sender
        self._closed = False

    def send(self, response: Any, flags: int) -> None:
        """Send a response; flags that are not 0 make it the last one."""
        if not self._closed:
            self._closed = bool(flags)
            self._sender.send(response, flags)

    def left(self) -> bool:
        """Whether its client has left."""
        return not self._closed and bool(self._sender.is_cancelled())


def _left(replies: Sequence[Reply]) -> list[Reply]:
    return [reply for reply in replies if reply.left()]


def parse(inputs: Inputs) -> Asked:
    """What a request of the vLLM backend's form asks. Raises RequestError naming what is off."""
    body = {name: plain(name, value) for name, (value,) in inputs.tensors.items()}
    parameters = inputs.named_parameters()
    if inputs.outputs < OUTPUTS.keys():  # all of them are what Triton says when a client names none
        body |= {f"return_{name}": True for name in inputs.outputs - {"text_output"}}
    stream = body.get("stream") is True or parameters.get("stream") is True
    return parse_inputs(body | {"parameters": parameters}, new_id(), stream=stream)


def taken(request: Any) -> dict[str, Any]:
    """The parameters that Triton takes for itself, as far as a model is told of them; it does nothing with them here."""
    found = {"timeout": request.timeout(), "sequence_id": request.correlation_id()}
    return {name: value for name, value in found.items() if value}


def plain(name: str, value: Any) -> Any:
    """An input's element as JSON has it. Raises RequestError."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not UTF-8", where=name) from None


def said(error: PackagerError) -> str:
    """What Triton is told of a load that failed."""
    mends = "; ".join(problem.mend for problem in error.problems if problem.mend)
    return f"{error}{mends and f'; {mends}'}"


def _code(error: PackagerError) -> str:
    """Triton's name for the kind of error."""
    if isinstance(error, RequestError):
        return "INVALID_ARG"
    return "UNAVAILABLE" if isinstance(error, UnavailableError) else "INTERNAL"
