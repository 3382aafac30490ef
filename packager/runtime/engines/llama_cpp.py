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
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xllamacpp

from ...errors import EngineError, LoadError, RequestError
from ..engine import (
    SAMPLING,
    Delta,
    EngineFacts,
    EngineHealth,
    EngineSetup,
    Features,
    GenerationRequest,
    OutputKind,
    SamplingParams,
)
from ..stops import HeldLogprobs, StopText
from ..threads import in_daemon_thread
from . import read_options
from .calls import Call
from .cores import CPUS, QUOTA, physical_cores
from .forced_call import ForcedCall, forced_call
from .gguf import read_header
from .llama_cpp_words import ChunkReader, write_request

_MOST_SLOTS = 256
"""llama.cpp's LLAMA_MAX_SEQ."""
_LONGEST_SOCKET_PATH = 100
"""A little below the 108 bytes of sockaddr_un."""
_ERRORS_ONLY = 1
_MOST_LOGPROBS = 20
"""OpenAI's limit; llama.cpp has none."""
_OUTPUTS: frozenset[OutputKind] = frozenset(("json_object", "json_schema", "grammar"))
_TOOLS = re.compile(r"\btools\b")
"""A chat template that knows tools has this name in it."""


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
        header = read_header(path)
        context = self._options.context_length or header.context_length
        own = self._setup.chat_template
        templates = header.chat_templates if own is None else (own,)
        features = _features(templates)
        self._server = await in_daemon_thread(lambda: self._open(path, context, features))
        self._reason = ""
        return EngineFacts("llama_cpp", self._setup.version, self._setup.model, context, self._slots, features)

    def _open(self, path: Path, context: int, features: Features) -> Any:
        folder = Path(tempfile.mkdtemp(prefix="packager-"))  # mode 0700
        try:
            socket = str(folder / "engine.sock")
            if len(os.fsencode(socket)) > _LONGEST_SOCKET_PATH:
                raise LoadError(
                    "the path is too long for a Unix socket", where=socket, mend="set TMPDIR to a shorter folder"
                )
            parameters = self._parameters(path, context, socket)
            # Without tools the text comes as it was generated; with them, whatever the model says of its thoughts too.
            parameters.force_pure_content_parser = not features.tools
            server = xllamacpp.Server(parameters)
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
        parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
        parameters.prefill_assistant = False  # it would go on with a last message of the assistant's
        parameters.verbosity = _ERRORS_ONLY
        parameters.hostnames = [socket]
        parameters.api_keys = [secrets.token_hex(32)]
        parameters.ui = parameters.endpoint_slots = parameters.endpoint_props = parameters.endpoint_metrics = False
        return parameters

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        call = Call[str](asyncio.get_running_loop())
        self._calls[request.id] = call
        answer = _Answer(request)
        work = self._pool.submit(self._run, request, call, answer.forced)
        try:
            async for chunk in call.items():
                delta = answer.read(chunk, wanted=not call.cancelled)
                call.cancelled = call.cancelled or answer.met
                if delta is not None:
                    yield delta
            await _finished(work, unread=answer.chunks == 0 and request.messages is not None)
            yield answer.end(cancelled=call.cancelled)
        finally:
            call.cancelled = True
            del self._calls[request.id]

    def _run(self, request: GenerationRequest, call: Call[str], forced: ForcedCall | None) -> None:
        """In a worker thread: one request, start to end."""
        try:
            if call.cancelled:
                return
            body = write_request(request, forced)
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


class _Answer:
    """From llama.cpp's chunks to Deltas: stop strings, what they hold back, and a call that was forced."""

    def __init__(self, request: GenerationRequest) -> None:
        self.forced = forced_call(request.tools)
        self.met = False
        self.chunks = 0
        self._reader = ChunkReader(request)
        self._stop = StopText(request.sampling.stop)
        self._held = HeldLogprobs() if request.sampling.logprobs is not None else None

    def read(self, chunk: str, *, wanted: bool) -> Delta | None:
        """What the chunk adds; None when that is nothing, or is not wanted any more."""
        self.chunks += 1
        piece, tokens, logprobs, calls = self._reader.read(chunk)
        if not wanted or not (tokens or piece or calls):
            return None
        text, self.met = self._stop.feed(piece)
        if self._held is not None:
            logprobs = self._held.feed(logprobs, piece, text)
        if self.forced is not None:
            text, calls = "", self.forced.feed(text)
        return Delta(text, tokens, None, None, logprobs, calls)

    def end(self, *, cancelled: bool) -> Delta:
        """The last Delta. Raises EngineError when llama.cpp does not say why it ended, or a forced call never began."""
        if self.met:
            return Delta("", 0, "stop", self._reader.usage)
        reason, usage = self._reader.end(cancelled=cancelled)
        text, logprobs = self._stop.rest(), self._held.rest() if self._held is not None else ()
        if self.forced is None:
            return Delta(text, 0, reason, usage, logprobs)
        calls = self.forced.feed(text)
        if reason == "stop" and not self.forced.begun:
            raise EngineError("llama.cpp ended the answer without the call that its grammar demands")
        return Delta("", 0, "tool_calls" if reason == "stop" else reason, usage, logprobs, calls)


async def _finished(work: "Future[None]", *, unread: bool) -> None:
    """The end of the worker's part; `unread`: of a chat of which llama.cpp has not given a single chunk."""
    try:
        await asyncio.wrap_future(work)
    except (RuntimeError, ValueError, AttributeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[-1]
        if unread and not isinstance(error, AttributeError):
            raise RequestError(f"the chat template refuses the messages: {said}", where="messages") from error
        raise EngineError(f"llama.cpp failed: {said}") from error


def _features(templates: Sequence[str]) -> Features:
    """What a model with these chat templates can do."""
    tools = any(_TOOLS.search(template) for template in templates)
    return Features(SAMPLING, _MOST_LOGPROBS, _OUTPUTS, tools, bool(templates))


def _write_one_token(server: Any) -> None:
    """Prove that the model computes, and that the library's loop runs.

    The loop starts in a thread of the library's own, some time after the constructor returned; a server that is
    dropped before that waits for its end for ever (seen on an idle machine within four tries).
    """
    chunks: list[str | None] = []
    request = GenerationRequest("", prompt=" ", sampling=SamplingParams(max_tokens=1))
    server.handle_completions(write_request(request, None), chunks.append)
    reader = ChunkReader(request)
    for chunk in filter(None, chunks):
        reader.read(chunk)
    reader.end(cancelled=False)


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
