"""The runtime inside Triton's Python backend: a decoupled model over the package's engine.

Triton runs the package's `triton/NAME/1/model.py` in a process of its own (the stub) and hands it requests; the inputs,
the outputs and what is refused are those of `triton.py`. The engine lives on an event loop in a thread; admission,
limits and restarts are the Supervisor's, as behind every server.
"""

import asyncio
import json
import locale
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...environ import API_KEY_FILE, API_KEYS, LOG_LEVEL
from ...errors import LoadError, PackagerError, RequestError, UnavailableError
from ..generation import Generation
from ..inputs import new_id
from ..load import open_package
from ..logs import log_to_stderr
from ..supervise import Supervisor
from .http import error_text
from .triton import INPUTS, OUTPUTS, Asked, outputs_of, parse_inputs

LOOK_SECONDS = 0.05
"""How often Triton is asked whether the clients of the open requests have left: it tells nobody by itself."""
_TYPES: Mapping[str, Any] = {"BYTES": np.object_, "UINT32": np.uint32}


class PackagedModel:
    """What Triton's Python backend drives, over the package folder `package`.

    `backend` is Triton's module `triton_python_backend_utils`, which only the stub can import.
    """

    def __init__(self, package: Path, backend: Any) -> None:
        self._package = package
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="packager-model")
        # Each answer is a word to Triton's process that waits for one back: not on the engine's loop. One thread, so that
        # nobody asks for a request that Triton has just dropped.
        self._talk = ThreadPoolExecutor(1, "packager-triton")
        self._open: dict[_Reply, Generation] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._supervisor: Supervisor
        self._watching: asyncio.Task[None]

    def initialize(self, _args: Mapping[str, str]) -> None:
        """Load the package. Raises Triton's own exception with the reason, which Triton shows and its API answers."""
        # The stub starts Python without any locale: engines that open files without an encoding would read ASCII.
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        log_to_stderr(LOG_LEVEL.get() or "info")
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._load(), self._loop).result()
        except PackagerError as error:
            self._end()
            mends = "; ".join(problem.mend for problem in error.problems if problem.mend)
            raise self._backend.TritonModelException(f"{error}{mends and f'; {mends}'}") from error

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to answer; the answers come from other threads."""
        for request in requests:
            reply = _Reply(request.get_response_sender())
            self._loop.call_soon_threadsafe(self._begin, self._read(request), reply)

    def finalize(self) -> None:
        """End what runs and give the engine back."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._end()

    async def _load(self) -> None:
        for variable in (API_KEYS, API_KEY_FILE):
            if variable.get():
                what = f"{variable.name} is set, and Triton checks no API keys"
                raise LoadError(what, mend="put a proxy in front that does, and unset it")
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

    def _read(self, request: Any) -> "_Inputs":
        """What Triton's request holds. Its memory is Triton's again when `execute` has ended."""
        tensors = {name: self._backend.get_input_tensor_by_name(request, name) for name in INPUTS}
        given = {name: tensor.as_numpy()[0] for name, tensor in tensors.items() if tensor is not None}
        return _Inputs(given, request.parameters(), request.request_id(), frozenset(request.requested_output_names()))

    def _begin(self, inputs: "_Inputs", reply: "_Reply") -> None:
        answer = asyncio.create_task(self._answer(inputs, reply))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, inputs: "_Inputs", reply: "_Reply") -> None:
        try:
            asked = parse(inputs)
            self._check_adapter(asked.request.adapter)
            self._open[reply] = self._supervisor.submit(asked.request)
            await self._write(asked, reply)
        except PackagerError as error:
            await self._fail(reply, error_text(error), _code(error))
        except Exception as error:
            await self._fail(reply, f"{type(error).__name__} in the model's server", "INTERNAL")
            raise
        finally:
            if generation := self._open.pop(reply, None):
                generation.abort()

    def _check_adapter(self, adapter: str | None) -> None:
        here = self._supervisor.facts.features.adapters if self._supervisor.facts else ()
        if adapter is not None and adapter not in here:
            what = f"lora_name names no adapter of this package, which has {', '.join(here) or 'none'}: {adapter}"
            raise RequestError(what, where="lora_name")

    async def _write(self, asked: Asked, reply: "_Reply") -> None:
        """The answer: a response for what there is each time, or one for all. Raises what the request fails with."""
        generation, text = self._open[reply], asked.prefix
        while batch := await generation.batch():
            text += "".join(delta.text for delta in batch)
            last = batch[-1]
            if last.finish_reason == "abort":
                await self._fail(reply, "the request was cancelled", "CANCELLED")
            elif last.finish_reason is not None:
                await self._send(reply, self._response(outputs_of(asked, text, last)), final=True)
            elif asked.stream and text:
                await self._send(reply, self._response({"text_output": text}))
                text = ""

    def _response(self, outputs: Mapping[str, Any]) -> Any:
        tensors = [
            self._backend.Tensor(
                name, np.array([value.encode() if isinstance(value, str) else value], _TYPES[OUTPUTS[name]])
            )
            for name, value in outputs.items()
        ]
        return self._backend.InferenceResponse(output_tensors=tensors)

    async def _fail(self, reply: "_Reply", what: str, code: str) -> None:
        error = self._backend.TritonError(what, getattr(self._backend.TritonError, code))
        await self._send(reply, self._backend.InferenceResponse(error=error), final=True)

    async def _send(self, reply: "_Reply", response: Any, *, final: bool = False) -> None:
        flags = self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        await self._loop.run_in_executor(self._talk, reply.send, response, flags)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """A request's inputs (each has one element), its parameters as JSON text, its id, the outputs that it wants."""

    tensors: Mapping[str, Any]
    parameters: str
    id: str
    outputs: frozenset[str]


class _Reply:
    """One request's way back to Triton. Used in one thread: Triton forgets the request with its last response."""

    def __init__(self, sender: Any) -> None:
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


def _left(replies: Sequence[_Reply]) -> list[_Reply]:
    return [reply for reply in replies if reply.left()]


def parse(inputs: _Inputs) -> Asked:
    """What a request asks. Raises RequestError naming what is off."""
    body = {name: _plain(name, value) for name, value in inputs.tensors.items()}
    parameters = json.loads(inputs.parameters or "{}")
    if parameters.get("id") == inputs.id:
        parameters.pop("id", None)  # of the body of `generate`: Triton answers with it by itself
    if inputs.outputs < OUTPUTS.keys():  # all of them are what Triton says when a client names none
        body |= {f"return_{name}": True for name in inputs.outputs - {"text_output"}}
    stream = body.get("stream") is True or parameters.get("stream") is True
    return parse_inputs(body | {"parameters": parameters}, new_id(), stream=stream)


def _plain(name: str, value: Any) -> Any:
    """An input's element (that it has one is Triton's to check)."""
    if not isinstance(value, bytes):
        return bool(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not UTF-8", where=name) from None


def _code(error: PackagerError) -> str:
    """Triton's name for the kind of error."""
    if isinstance(error, RequestError):
        return "INVALID_ARG"
    return "UNAVAILABLE" if isinstance(error, UnavailableError) else "INTERNAL"
