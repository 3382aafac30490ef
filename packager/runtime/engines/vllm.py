"""vLLM through its AsyncLLM: safetensors in every quantization that vLLM reads, LoRA adapters by name.

The model runs in a process of vLLM's (vllm_process.py). Requests become vLLM's in vllm_requests.py.
"""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ...errors import EngineError, LoadError, PackagerError
from ..engine import (
    ASGI,
    SAMPLING,
    Delta,
    EngineFacts,
    EngineHealth,
    EngineSetup,
    Features,
    GenerationRequest,
    SamplingParams,
)
from . import read_options
from .answer import Answer
from .decode import Detokenizer
from .vllm_logs import one_line
from .vllm_options import MOST_LOGPROBS, Place, VllmOptions, engine_arguments
from .vllm_process import ON_CPU, EngineProcess
from .vllm_requests import REFUSALS, Prompts, first_requests, logprobs_of, lora_requests, refusal, sampling_params


class VllmEngine:
    """One AsyncLLM, with as many sequences as requests may run."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._options = read_options(VllmOptions, setup)
        self._adapters = lora_requests(setup.adapters)
        self._process = EngineProcess()
        self._model: _Model | None = None
        self._open: dict[str, _Run] = {}
        self._reason = "the engine has not started"

    async def start(self) -> EngineFacts:
        setup, weights = self._setup, self._setup.weights
        if weights is None:
            raise LoadError("vllm needs weights", where="model/manifest.json", mend="give `weights` in the spec")
        place = Place(ON_CPU, _quantized(weights), _gguf(weights) if setup.quantization == "gguf" else None)
        llm = await self._process.open(engine_arguments(setup, self._options, place))
        model = _Model(llm, setup.chat_template)
        try:
            await self._prove(llm)
        except PackagerError as error:
            raise LoadError(f"the model is loaded, but does not run: {error}", where=str(weights)) from error
        features = await model.features(tuple(self._adapters))
        self._model, self._reason = model, ""
        return EngineFacts("vllm", setup.version, setup.model, model.context, setup.slots, features)

    async def _prove(self, llm: Any) -> None:
        """Have the model write tokens, and load every adapter, so that what is wrong with them is found now."""
        for sampling in first_requests():
            async for _ in self._process.steps("start", [0], sampling):
                pass
        for name, adapter in self._adapters.items():
            try:
                await llm.add_lora(adapter)
            except Exception as error:
                raise LoadError(f"the adapter {name}: {one_line(error)}", where=adapter.lora_path) from error

    async def native_app(self) -> ASGI:
        """The started engine's own OpenAI server, over the same model (see vllm_native.py).

        Raises EngineError when the engine does not serve, LoadError for a tool parser that vLLM does not have.
        """
        from .vllm_native import native_app  # it brings a web framework

        return await native_app(self._alive().llm, self._setup, self._options.tool_parser)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        run = self._open[request.id] = _Run(request.sampling)
        try:
            model = self._alive()
            ids = await model.prompts.token_ids(request)
            self._alive()
            run.answer.prompt_tokens = len(ids)
            if run.aborted:
                yield run.answer.unbegun()
                return
            params = sampling_params(request, model.defaults, model.context - len(ids))
            adapter = None if request.adapter is None else self._adapters[request.adapter]
            async with aclosing(self._process.steps(request.id, ids, params, adapter)) as steps:
                async for step in steps:
                    if step.finish_reason == "abort" and not run.aborted:
                        raise EngineError(self._reason or "vLLM ended the request by itself")
                    delta = run.delta(step, model.tokens)
                    yield delta
                    if delta.finish_reason is not None:
                        return
            raise EngineError("vLLM ended the stream without a reason")
        except REFUSALS as error:
            raise refusal(error, "response_format" if request.output else "") from error
        finally:
            del self._open[request.id]

    def _alive(self) -> "_Model":
        """What streams need of the started engine. Raises EngineError when it does not serve."""
        if self._model is None or not self.health().alive:
            raise EngineError(self._reason)
        return self._model

    async def abort(self, request_id: str) -> None:
        if run := self._open.get(request_id):
            run.aborted = True
            await self._process.abort([request_id])

    async def stop(self) -> None:
        self._reason = "the engine was stopped"
        self._model = None
        await self._process.abort(self._open)
        await self._process.close()

    def health(self) -> EngineHealth:
        if not self._reason:
            self._reason = self._process.death()
        return EngineHealth(not self._reason, self._reason)


class _Model:
    """What is known of the model once it is loaded."""

    def __init__(self, llm: Any, template: str | None) -> None:
        self.llm = llm
        self.context: int = llm.model_config.max_model_len
        self.defaults: dict[str, Any] = llm.model_config.get_diff_sampling_param()
        self.prompts = Prompts(llm.renderer, template, self.context)
        tokenizer = getattr(llm.get_tokenizer(), "backend_tokenizer", None)
        self.tokens = None if tokenizer is None else Detokenizer(tokenizer)

    async def features(self, adapters: tuple[str, ...]) -> Features:
        """What it can do. Without a tokenizer of the `tokenizers` library the bytes of a token are not known."""
        return Features(
            sampling=SAMPLING if self.tokens is not None else SAMPLING - {"logprobs"},
            logprobs=MOST_LOGPROBS if self.tokens is not None else 0,
            outputs=frozenset({"json_object", "json_schema", "grammar", "regex"}),
            chat=await self.prompts.has_template(),
            adapters=adapters,
        )


class _Run:
    """One open request."""

    __slots__ = ("_top", "aborted", "answer")

    def __init__(self, sampling: SamplingParams) -> None:
        self._top = sampling.logprobs
        self.answer = Answer("vLLM", sampling.stop)
        self.aborted = False

    def delta(self, step: Any, tokens: Detokenizer | None) -> Delta:
        """What a step of vLLM's added."""
        logprobs = () if self._top is None or tokens is None else logprobs_of(step, self._top, tokens)
        return self.answer.delta(step.text, len(step.token_ids), step.finish_reason, logprobs)


def _gguf(weights: Path) -> Path:
    """The folder's one GGUF file. Raises LoadError for none, several, and without a GPU."""
    if ON_CPU:
        what = "GGUF in vLLM needs a GPU: the plugin that reads it has its kernels for CUDA alone"
        raise LoadError(
            what, where=str(weights), mend="run it on a GPU, or build the package with the engine llama_cpp"
        )
    found = sorted(weights.glob("*.gguf"))
    if len(found) != 1:
        mend = "build the package again"
        raise LoadError(f"the weights have {len(found)} .gguf files, not one", where=str(weights), mend=mend)
    return found[0]


def _quantized(weights: Path) -> bool:
    """Whether the weights' own config says how they are quantized: vLLM follows that."""
    try:
        config = json.loads((weights / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(f"config.json cannot be read: {error}", where=str(weights)) from error
    return isinstance(config, dict) and bool(config.get("quantization_config"))
