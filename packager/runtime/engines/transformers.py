"""Hugging Face transformers on torch: safetensors, also quantized with bitsandbytes; CPU or GPU.

Requests that run at once are computed together on either device, a token each in every forward, and come and go
between forwards (transformers_batching.py): on a CPU as on a GPU they share the reading of the weights, which is
what a token costs. The library's own continuous batching is not used. It draws for all requests from one
generator, knows no penalties and gives no alternatives; and without flash attention, which no wheel on the index
brings, each token attends to the keys of all requests. Measured with transformers 5.23.0, decoded tokens a
second, this against that:

- H200, 7.2 billion bfloat16 parameters: 32 requests of 128 tokens 440 : 379, of 1024 tokens 454 : 282, of 4096
  tokens 425 : 68. Its CUDA graphs, which allow no sampling of one's own: 935, 379 and 97.
- one CPU core, 168 million bfloat16 parameters, 8 requests of 512 tokens, with their prompts: 24 : 12. One after
  another: 11.

A model whose layers keep more than keys and values (linear attention, Mamba) computes a token for one request after
another. Every batch of another shape rounds differently, so a seed gives the same text as long as no two tokens
are likely to within rounding.

An aborted stream ends at once; the forward that runs then is its last.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...errors import ContextLengthError, EngineError, LoadError, RequestError
from ..engine import (
    SAMPLING,
    Delta,
    EngineFacts,
    EngineHealth,
    EngineSetup,
    Features,
    GenerationRequest,
    Usage,
)
from ..threads import in_daemon_thread
from . import read_options
from .calls import Call
from .transformers_answer import Answer
from .transformers_batching import Batcher
from .transformers_load import Loaded, TransformersOptions, load, release
from .transformers_sampling import MOST_ALTERNATIVES


class TransformersEngine:
    """One model, one thread that computes. What a request leaves out comes from the model's generation_config.json."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._options = read_options(TransformersOptions, setup)
        self._model: Loaded | None = None
        self._batcher: Batcher | None = None
        self._prompts = ThreadPoolExecutor(1, thread_name_prefix="transformers-prompts")
        self._calls: dict[str, Call[Delta]] = {}
        self._reason = "the engine has not started"

    async def start(self) -> EngineFacts:
        setup, folder = self._setup, self._setup.weights
        if folder is None:
            raise LoadError(
                "transformers needs weights", where="model/manifest.json", mend="give `weights` in the spec"
            )
        self._model = model = await in_daemon_thread(lambda: load(folder, setup, self._options))
        self._batcher = Batcher(model.network, model.bounds)
        self._reason = ""
        features = Features(sampling=SAMPLING, logprobs=MOST_ALTERNATIVES, chat=model.template is not None)
        return EngineFacts("transformers", setup.version, setup.model, model.context_length, setup.slots, features)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        model, batcher = self._model, self._batcher
        if model is None or batcher is None:
            raise EngineError(self._reason)
        loop = asyncio.get_running_loop()
        call = self._calls[request.id] = Call[Delta](loop)
        prompt, written = 0, 0
        try:
            tokens = await loop.run_in_executor(self._prompts, _tokens, model, request)
            prompt = len(tokens)
            room = model.context_length - prompt
            limit = room if request.sampling.max_tokens is None else min(room, request.sampling.max_tokens)
            batcher.add(Answer(model.words, call, tokens, replace(request.sampling, max_tokens=limit)))
            async for delta in call.items():
                if call.cancelled or call.failure:
                    break
                written += delta.tokens
                yield delta
                if delta.finish_reason:
                    return
            if call.failure:
                raise call.failure
            yield Delta("", 0, "abort", Usage(prompt, written))
        finally:
            call.cancelled = True
            del self._calls[request.id]

    async def abort(self, request_id: str) -> None:
        if call := self._calls.get(request_id):
            call.cancelled = True
            call.put(None)

    async def stop(self) -> None:
        self._reason = "the engine was stopped"
        for call in self._calls.values():
            call.failure = EngineError(self._reason)
            call.put(None)
        batcher, self._batcher, self._model = self._batcher, None, None
        await in_daemon_thread(self._prompts.shutdown)
        if batcher is not None:
            await in_daemon_thread(batcher.stop)
            del batcher
            await in_daemon_thread(release)

    def health(self) -> EngineHealth:
        reason = self._reason or (self._batcher.reason if self._batcher else "")
        return EngineHealth(not reason, reason)


def _tokens(model: Loaded, request: GenerationRequest) -> list[int]:
    """The request's prompt. Special tokens at its start come from the tokenizer for a prompt, and from the template for messages."""
    where = "prompt" if request.messages is None else "messages"
    if request.messages is None:
        tokens: list[int] = model.tokenizer(request.prompt or "")["input_ids"]
    elif model.template is None:
        raise RequestError("the model has no chat template", where=where, mend="send a prompt")
    else:
        tokens = model.tokenizer(model.template.render(request.messages), add_special_tokens=False)["input_ids"]
    if not tokens:
        raise RequestError("the prompt has no tokens", where=where, mend="send some text")
    if len(tokens) >= model.context_length:
        raise ContextLengthError(
            f"the prompt has {len(tokens)} tokens; the context holds {model.context_length}, "
            "with at least one for the answer",
            where=where,
            mend="shorten it",
        )
    if max(tokens) >= model.tokens:  # on a GPU this would be the end of the engine
        name = model.tokenizer.convert_ids_to_tokens(max(tokens))
        raise RequestError(f"the model has no token {name!r}", where=where, mend="leave it out")
    return tokens
