"""CTranslate2: converted model folders, on CPU or GPU.

The library has no continuous batching: it computes each request by itself, in one of `inter_threads` workers
that share one copy of the weights (on a GPU too, where each has its own CUDA stream and cache). So there are as
many workers as slots, and a request never waits for another one's tokens. Each of our threads sits in one
blocking call, whose callback comes after every token and stops the generation when it returns True.

A prompt is computed in one piece before the first token: an abort waits for that.
The library's seed is one for the whole process and read once a thread, so no request has a seed of its own.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from ...errors import ContextLengthError, EngineError, LoadError, RequestError
from ..engine import (
    Delta,
    EngineFacts,
    EngineHealth,
    EngineSetup,
    Features,
    FinishReason,
    GenerationRequest,
    Likely,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from ..stops import HeldLogprobs, StopText
from ..threads import in_daemon_thread
from . import read_options
from .calls import Call
from .converted import Converted, read_converted
from .cores import physical_cores

_SAMPLING = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "logprobs", "ignore_eos"}
)
_ALTERNATIVES = 20
_MOST_LOGITS = 2**25
"""Logits that one request may make the library keep: it keeps those of every step until the end (about 300 MiB)."""


@dataclass(frozen=True, slots=True)
class CTranslate2Options:
    """The spec's words. `threads` compute each request; by default the physical cores shared among the slots.

    `compute_type` `auto` is what the folder was converted to, or float32 in place of 16-bit floats where
    the device has none (the library says so on standard error); every other word is taken as it is, or refused.
    A converted folder does not say what context its model was trained for.
    """

    context_length: int = 2048
    compute_type: str = "auto"
    threads: int | None = None


class CTranslate2Engine:
    """One Generator with as many workers as requests may run. Greedy unless a request says how to sample."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._options = read_options(CTranslate2Options, setup)
        self._model: _Model | None = None
        self._pool = ThreadPoolExecutor(setup.slots, thread_name_prefix="ctranslate2")
        self._calls: dict[str, Call[Delta]] = {}
        self._reason = "the engine has not started"

    async def start(self) -> EngineFacts:
        setup, options = self._setup, self._options
        folder = setup.weights
        if folder is None:
            raise LoadError("ctranslate2 needs weights", where="model/manifest.json", mend="give `weights` in the spec")
        self._model = model = await in_daemon_thread(lambda: _open(folder, setup, options))
        self._reason = ""
        features = Features(sampling=_SAMPLING, logprobs=_ALTERNATIVES, chat=model.folder.template is not None)
        return EngineFacts("ctranslate2", setup.version, setup.model, options.context_length, setup.slots, features)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        if self._model is None:
            raise EngineError(self._reason)
        call = self._calls[request.id] = Call[Delta](asyncio.get_running_loop())
        work = self._pool.submit(_answer, self._model, request, call)
        try:
            async for delta in call.items():
                if not call.cancelled:
                    yield delta
            last = await _finished(work)
            yield Delta("", 0, "abort", last.usage) if call.cancelled else last
        finally:
            call.cancelled = True
            del self._calls[request.id]

    async def abort(self, request_id: str) -> None:
        if call := self._calls.get(request_id):
            call.cancelled = True

    async def stop(self) -> None:
        self._reason = "the engine was stopped"
        for call in self._calls.values():
            call.failure = EngineError(self._reason)
            call.cancelled = True
        last_reference, self._model = [self._model], None
        await in_daemon_thread(self._pool.shutdown)
        # The library joins its workers and frees the weights when the last reference goes: not in the event loop.
        await in_daemon_thread(last_reference.clear)

    def health(self) -> EngineHealth:
        return EngineHealth(not self._reason, self._reason)


@dataclass(frozen=True, slots=True)
class _Model:
    """What every request needs of the loaded model."""

    generator: Any
    folder: Converted
    context_length: int


def _open(folder: Path, setup: EngineSetup, options: CTranslate2Options) -> _Model:
    converted = read_converted(folder, setup.chat_template)
    threads = options.threads or max(1, physical_cores() // setup.slots)
    try:
        generator = ctranslate2.Generator(
            str(folder),
            device="auto",
            compute_type="default" if options.compute_type == "auto" else options.compute_type,
            inter_threads=setup.slots,
            intra_threads=threads,
        )
        # A model that is loaded has written a token.
        generator.generate_batch([[converted.vocabulary[0]]], max_length=1, include_prompt_in_result=False)
    except (RuntimeError, ValueError, MemoryError) as error:
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        can = ", ".join(sorted(ctranslate2.get_supported_compute_types(device)))
        raise LoadError(
            f"CTranslate2 cannot load the model: {error}",
            where=str(folder),
            mend=f"convert it again if it is broken; compute types of this machine ({device}): {can}",
        ) from error
    return _Model(generator, converted, options.context_length)


def _answer(model: _Model, request: GenerationRequest, call: Call[Delta]) -> Delta:
    """In a worker thread: one request, start to end. Gives the last Delta."""
    try:
        if call.cancelled:
            return Delta("", 0, "abort", Usage(0, 0))
        ids = model.folder.prompt(request)
        room = model.context_length - len(ids)
        if room <= 0:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens; the context holds {model.context_length}, "
                "with at least one for the answer",
                where="prompt" if request.messages is None else "messages",
                mend="shorten it",
            )
        prompt = model.folder.tokens(ids)
        limit = min(request.sampling.max_tokens or room, room)
        words = _words(request.sampling, limit, len(model.folder.vocabulary))
        writer = _Writer(model.folder, request, call)
        model.generator.generate_batch(
            [prompt], max_length=limit, end_token=list(writer.ends), callback=writer.on_step, **words
        )
        return writer.last(len(prompt))
    finally:
        call.put(None)


async def _finished(work: "Future[Delta]") -> Delta:
    try:
        return await asyncio.wrap_future(work)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise EngineError(f"CTranslate2 failed: {error}") from error


def _words(sampling: SamplingParams, limit: int, vocabulary: int) -> dict[str, Any]:
    """The request's sampling in the library's words.

    Its top_k 1 is greedy and 0 takes all tokens; it refuses more than there are, and a top_p of 0.
    Its repetition penalty looks at the answer, not at the prompt.
    """
    words: dict[str, Any] = {"include_prompt_in_result": False, "repetition_penalty": sampling.repetition_penalty or 1}
    given = (sampling.temperature, sampling.top_p, sampling.top_k)
    if given != (None, None, None) and sampling.temperature != 0 and sampling.top_p != 0:
        words["sampling_topk"] = (sampling.top_k or 0) if (sampling.top_k or 0) < vocabulary else 0
        words["sampling_topp"] = 1 if sampling.top_p is None else sampling.top_p
        words["sampling_temperature"] = 1 if sampling.temperature is None else sampling.temperature
    if sampling.logprobs is not None:
        words["return_scores"] = True
        words["return_logits_vocab"] = sampling.logprobs > 0
        if sampling.logprobs and limit * vocabulary > _MOST_LOGITS:
            raise RequestError(
                f"logprobs with alternatives are limited to {_MOST_LOGITS // vocabulary} tokens with this model",
                where="logprobs",
                mend=f"ask for `max_tokens` of {_MOST_LOGITS // vocabulary} at most, or for no alternatives",
            )
    return words


class _Writer:
    """Makes Deltas of the library's steps, in the thread of the worker that computes them.

    It must not hold the generator: the library drops its callback in that thread, some time after the answer,
    and a generator that goes there waits for its own thread, which aborts the process.
    """

    __slots__ = ("_call", "_folder", "_held", "_logprobs", "_met", "_reason", "_stop", "_text", "_written", "ends")

    def __init__(self, folder: Converted, request: GenerationRequest, call: Call[Delta]) -> None:
        self._call = call
        self._folder = folder
        self._text = folder.detokenizer.stream()
        self._stop = StopText(request.sampling.stop)
        self._held = HeldLogprobs()
        self._logprobs = request.sampling.logprobs
        self._reason: FinishReason = "abort"
        self._met = False
        self._written = 0
        self.ends = frozenset[int]() if request.sampling.ignore_eos else folder.ends

    def on_step(self, step: Any) -> bool:
        """Called by the library after every token; True stops it."""
        if self._call.cancelled:
            return True
        self._written += 1
        ended = step.token_id in self.ends
        piece = "" if ended else self._text.feed(step.token_id)
        text, self._met = self._stop.feed(piece)
        if self._met or ended:
            self._reason = "stop"
        elif step.is_last:
            self._reason = "length"
        likely = () if self._logprobs is None else (self._likely(step, self._logprobs),)
        delta = Delta(text, 1, logprobs=self._held.feed(likely, piece, text))
        return self._call.put(delta) or self._met

    def last(self, prompt: int) -> Delta:
        """The end: what was held back, why it ended, and the tokens, with the one that ended it."""
        usage = Usage(prompt, self._written)
        if self._met:
            return Delta("", 0, "stop", usage)
        piece = self._text.rest()
        text, met = self._stop.feed(piece)
        if met:
            return Delta(text, 0, "stop", usage, self._held.feed((), piece, text))
        return Delta(text + self._stop.rest(), 0, self._reason, usage, self._held.rest())

    def _likely(self, step: Any, count: int) -> TokenLogprob:
        token_bytes = self._folder.detokenizer.token_bytes
        token = Likely(token_bytes(step.token_id), step.log_prob)
        if not count:
            return TokenLogprob(token)
        logits = step.logits.to(ctranslate2.DataType.float32).to_device(ctranslate2.Device.cpu)
        scores = np.asarray(logits)[0, : len(self._folder.vocabulary)]
        best = np.argpartition(-scores, count - 1)[:count]
        best = best[np.argsort(-scores[best], kind="stable")]
        logprobs = scores[best] - scores[step.token_id] + step.log_prob
        return TokenLogprob(token, tuple(map(Likely, map(token_bytes, best.tolist()), logprobs.tolist())))
