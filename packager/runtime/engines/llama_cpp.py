"""llama.cpp through `xllamacpp`: GGUF weights, parallel slots, CPU or GPU.

The library's calls block, so each request runs in a worker thread and its chunks (JSON text, one
a token) come over to the event loop in batches. Returning True from the library's callback
cancels; with `return_progress` it is called after every batch of the prompt as well, so a request
can be aborted before its first token.

The library insists on an HTTP listener of its own, which knows nothing of admission or keys. It gets
a Unix socket in a private folder, a random key, and the folder is removed once it listens:
nobody can reach it.
"""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xllamacpp

from ...errors import ContextLengthError, EngineError, LoadError, PackagerError, RequestError
from ..engine import (
    Delta,
    EngineFacts,
    EngineHealth,
    EngineSetup,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Usage,
)
from ..stops import StopText
from ..threads import in_daemon_thread
from . import read_options
from .calls import Call
from .cores import CPUS, QUOTA, physical_cores
from .gguf import trained_context

_MOST_SLOTS = 256
"""llama.cpp's LLAMA_MAX_SEQ."""
_LONGEST_SOCKET_PATH = 100
"""A little below the 108 bytes of sockaddr_un."""
_ERRORS_ONLY = 1
_RANDOM_SEED = 2**32 - 1
"""llama.cpp's seeds have 32 bits, and this one means a random seed."""
_TOO_LONG = "exceed_context_size_error"


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """The spec's words. `threads` defaults to `default_threads`. `batch` is the most prompt tokens computed at once: an abort waits for one batch."""

    context_length: int | None = None
    gpu_layers: int = 0
    threads: int | None = None
    kv_cache: str = "auto"
    flash_attention: str = "auto"
    batch: int = 256


class LlamaCppEngine:
    """One xllamacpp server with as many slots as requests may run."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._options = read_options(LlamaCppOptions, setup)
        self._slots = min(setup.slots, _MOST_SLOTS)
        self._server: Any = None
        self._pool = ThreadPoolExecutor(self._slots, thread_name_prefix="llama_cpp")
        self._calls: dict[str, Call[str]] = {}
        self._reason = "the engine has not started"

    async def start(self) -> EngineFacts:
        path = self._setup.weights
        if path is None:
            raise LoadError("llama_cpp needs weights", where="model/manifest.json", mend="give `weights` in the spec")
        context = self._options.context_length or trained_context(path)
        self._server = await in_daemon_thread(lambda: self._open(path, context))
        self._reason = ""
        return EngineFacts("llama_cpp", self._setup.version, self._setup.model, context, self._slots)

    def _open(self, path: Path, context: int) -> Any:
        folder = Path(tempfile.mkdtemp(prefix="packager-"))  # mode 0700
        try:
            socket = str(folder / "engine.sock")
            if len(os.fsencode(socket)) > _LONGEST_SOCKET_PATH:
                raise LoadError(
                    "the path is too long for a Unix socket", where=socket, mend="set TMPDIR to a shorter folder"
                )
            server = xllamacpp.Server(self._parameters(path, context, socket))
            _write_one_token(server)
            return server
        except (RuntimeError, ValueError, EngineError) as error:
            raise LoadError(
                f"llama.cpp cannot load the model (its own reason stands above, on standard error): {error}",
                where=str(path),
                mend="if memory is short, lower engine.context_length or serving.max_concurrency",
            ) from error
        finally:
            shutil.rmtree(folder)

    def _parameters(self, path: Path, context: int, socket: str) -> Any:
        options = self._options
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_parallel = self._slots
        parameters.n_ctx = context * self._slots
        parameters.n_batch = parameters.n_ubatch = options.batch
        parameters.n_gpu_layers = options.gpu_layers
        threads = options.threads or default_threads()
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.flash_attn_type = _flash_attention(options.flash_attention)
        if options.kv_cache != "auto":
            parameters.cache_type_k = parameters.cache_type_v = _cache_type(options.kv_cache)
        parameters.cache_ram_mib = 0  # its default keeps up to 8 GiB of old prompts in host memory
        if self._setup.chat_template is not None:
            parameters.chat_template = self._setup.chat_template
        parameters.force_pure_content_parser = True  # text as generated: nothing moved into other fields
        parameters.verbosity = _ERRORS_ONLY
        parameters.hostnames = [socket]
        parameters.api_keys = [secrets.token_hex(32)]
        parameters.ui = parameters.endpoint_slots = parameters.endpoint_props = parameters.endpoint_metrics = False
        return parameters

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        call = Call[str](asyncio.get_running_loop())
        self._calls[request.id] = call
        work = self._pool.submit(self._run, request, call)
        reader = _Reader("prompt" if request.messages is None else "messages")
        stop = StopText(request.sampling.stop)
        met = False
        try:
            async for chunk in call.items():
                text, tokens = reader.read(chunk)
                if call.cancelled or not tokens:
                    continue
                text, met = stop.feed(text)
                call.cancelled = met
                yield Delta(text, tokens)
            await _finished(work)
            if met:
                yield Delta("", 0, "stop", reader.usage)
            else:
                yield Delta(stop.rest(), 0, *reader.end(cancelled=call.cancelled))
        finally:
            call.cancelled = True
            del self._calls[request.id]

    def _run(self, request: GenerationRequest, call: Call[str]) -> None:
        """In a worker thread: one request, start to end."""
        try:
            if call.cancelled:
                return
            body = orjson.dumps(_body(request)).decode()
            if request.messages is None:
                self._server.handle_completions(body, call.put)
            else:
                self._server.handle_chat_completions(body, call.put)
        finally:
            call.put(None)

    async def abort(self, request_id: str) -> None:
        if call := self._calls.get(request_id):
            call.cancelled = True

    async def stop(self) -> None:
        self._reason = "the engine was stopped"
        for call in self._calls.values():
            call.cancelled = True
            call.failure = EngineError(self._reason)
        last_reference, self._server = [self._server], None
        await in_daemon_thread(self._pool.shutdown)
        # The library stops its threads when the last reference goes: in a thread of ours, not in the event loop's.
        await in_daemon_thread(last_reference.clear)

    def health(self) -> EngineHealth:
        return EngineHealth(not self._reason, self._reason)


class _Reader:
    """Reads llama.cpp's chunks: text as it comes; at the end why, and how many tokens."""

    __slots__ = ("_finish", "_parameter", "_prompt", "_written")

    def __init__(self, parameter: str) -> None:
        self._parameter = parameter
        self._finish: FinishReason | None = None
        self._prompt = 0
        self._written = 0

    def read(self, chunk: str) -> tuple[str, int]:
        """The chunk's text, and how many tokens stand behind it. Raises what an error chunk says."""
        value = orjson.loads(chunk)
        if error := value.get("error"):
            raise self._failure(error)
        if progress := value.get("prompt_progress"):
            self._prompt = progress["total"]
            return "", 0
        text, before = "", self._written
        for choice in value["choices"]:
            self._finish = choice["finish_reason"] or self._finish
            text += (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
        if timings := value.get("timings"):
            self._written = timings["predicted_n"]
        if usage := value.get("usage"):
            self._prompt, self._written = usage["prompt_tokens"], usage["completion_tokens"]
        return text, self._written - before

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self._prompt, self._written)

    def end(self, *, cancelled: bool) -> tuple[FinishReason, Usage]:
        """Why the stream ended. Raises EngineError when llama.cpp does not say."""
        if self._finish is not None:
            return self._finish, self.usage
        if cancelled:
            return "abort", self.usage
        raise EngineError("llama.cpp ended the stream without a reason")

    def _failure(self, error: dict[str, Any]) -> PackagerError:
        message = str(error.get("message", error))
        if error.get("type") == _TOO_LONG:
            return ContextLengthError(
                f"the prompt has {error.get('n_prompt_tokens')} tokens; the context holds {error.get('n_ctx')}",
                where=self._parameter,
                mend="shorten it",
            )
        if error.get("code") == 400:
            return RequestError(f"llama.cpp refuses the request: {message}")
        return EngineError(f"llama.cpp failed: {message}")


async def _finished(work: "Future[None]") -> None:
    try:
        await asyncio.wrap_future(work)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise EngineError(f"llama.cpp failed: {error}") from error


def _write_one_token(server: Any) -> None:
    """Prove that the model computes, and that the library's loop runs.

    The loop starts in a thread of the library's own, some time after the constructor returned; a server that is
    dropped before that waits for its end for ever (seen on an idle machine within four tries).
    """
    chunks: list[str | None] = []
    body = orjson.dumps(_body(GenerationRequest("", prompt=" ", sampling=SamplingParams(max_tokens=1)))).decode()
    server.handle_completions(body, chunks.append)
    reader = _Reader("prompt")
    for chunk in filter(None, chunks):
        reader.read(chunk)
    reader.end(cancelled=False)


def _body(request: GenerationRequest) -> dict[str, Any]:
    """The request in the words of llama.cpp's server.

    Without stop strings: those are StopText's, because llama.cpp loses the text that it holds back for
    them when the answer ends at its limit.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "timings_per_token": True,
        "n_predict": -1 if sampling.max_tokens is None else sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": None if sampling.seed is None else sampling.seed % _RANDOM_SEED,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
    }
    if request.messages is None:
        body["prompt"] = request.prompt
    else:
        body["messages"] = [message.plain() for message in request.messages]
    return {name: value for name, value in body.items() if value is not None}


def _flash_attention(choice: str) -> Any:
    kinds = xllamacpp.llama_flash_attn_type
    return {
        "auto": kinds.LLAMA_FLASH_ATTN_TYPE_AUTO,
        "on": kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        "off": kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[choice]


def _cache_type(choice: str) -> Any:
    kinds = xllamacpp.ggml_type
    return {"f16": kinds.GGML_TYPE_F16, "q8_0": kinds.GGML_TYPE_Q8_0, "q4_0": kinds.GGML_TYPE_Q4_0}[choice]


def default_threads(cpus: Path = CPUS, quota: Path = QUOTA) -> int:
    """Threads to compute with: the physical cores this process may use, less one for the server itself.

    llama.cpp's threads spin until the slowest is done, so one that must share its core stalls all:
    a hello-sized model gave 3400 tokens a second with one thread and 3 with two on two busy cores.
    """
    return max(1, physical_cores(cpus, quota) - 1)
