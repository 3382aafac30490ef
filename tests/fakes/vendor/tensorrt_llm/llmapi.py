import asyncio
import json
import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from stand_in_weights import open_weights

from .configs import BuildConfig, CalibConfig, QuantAlgo, QuantConfig  # noqa: F401 -- here is where it has them

_STEP_SECONDS = 0.001
_BEST = 3.0
"""The score of the token that repeats the prompt, before penalties; no other has so much."""


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """The fields of 1.2's, in their order, as far as they are simple values."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    bad: Any = None
    bad_token_ids: list[int] | None = None
    stop: Any = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    min_p: float | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True

    @property
    def greedy(self) -> bool:
        """What the samplers do: the C++ one's defaults of top_k and top_p mean greedy, whatever the temperature."""
        return self.top_k in (None, 1) and self.top_p in (None, 0.0)


@dataclass
class KvCacheConfig:
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float = 0.9
    dtype: Literal["auto", "fp8", "nvfp4"] = "auto"


@dataclass
class CompletionOutput:
    index: int
    token_ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "timeout", "cancelled"] | None = None
    _last_token_ids_len: int = 0

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]


class RequestError(RuntimeError):
    """executor/utils.py: one request is refused by the executor."""


class RequestOutput:
    """Made by the executor; awaited step by step. It runs on until it ends or is aborted, whoever listens."""

    def __init__(self, executor: "BaseLLM", request_id: int, ids: list[int], params: SamplingParams) -> None:
        self.request_id = request_id
        self.prompt_token_ids = ids
        self.outputs = [CompletionOutput(0)]
        self.sampling_params = params
        self._executor = executor
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._done = False
        self._aborted = False
        self._task = asyncio.create_task(self._run())

    def abort(self) -> None:
        self._aborted = True
        self._executor.aborted.append(self.request_id)

    def aborted(self) -> bool:
        return self._aborted

    @property
    def finished(self) -> bool:
        return self._done

    def __aiter__(self) -> "RequestOutput":
        return self

    async def __anext__(self) -> "RequestOutput":
        if self._done:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        tokens, reason = item
        (output,) = self.outputs
        output._last_token_ids_len = len(output.token_ids)
        output.token_ids.extend(tokens)
        if reason is not None:
            output.finish_reason, self._done = reason, True
        return self

    async def _run(self) -> None:
        params, written = self.sampling_params, list[int]()
        draw = self._executor.draws(params)
        answer = [*self.prompt_token_ids, params.end_id] if params.end_id != -1 else self.prompt_token_ids * 1000
        async with self._executor.begun:
            self._executor.running.add(self.request_id)
            self._executor.begun.notify_all()
        try:
            self._executor.enqueue(self.prompt_token_ids)
            for place, next_one in enumerate(answer):
                await self._executor.step(len(written))
                if self._aborted:
                    self._queue.put_nowait(([], "cancelled"))
                    return
                token = next_one if next_one == params.end_id else self._choose(next_one, place, written, draw)
                if token == params.end_id or token in (params.stop_token_ids or ()):
                    self._queue.put_nowait(([token], "stop"))
                    return
                written.append(token)
                self._queue.put_nowait(([token], "length" if len(written) == params.max_tokens else None))
                if len(written) == params.max_tokens:
                    return
        except Exception as error:  # noqa: BLE001 - whoever awaits the output raises it
            self._queue.put_nowait(error)
        finally:
            async with self._executor.begun:
                self._executor.running.discard(self.request_id)
                self._executor.begun.notify_all()

    def _choose(self, best: int, place: int, written: list[int], draw: Random) -> int:
        """One of the prompt's tokens: after penalties the likeliest, or drawn from those that the filters leave."""
        params, shape = self.sampling_params, Random(place)
        scores = {token: min(shape.gauss(0, 1), _BEST - 0.5) for token in sorted(set(self.prompt_token_ids))}
        scores[best] = _BEST
        for token in set(written) & scores.keys():
            scores[token] -= (params.presence_penalty or 0) + (params.frequency_penalty or 0) * written.count(token)
            factor = params.repetition_penalty or 1
            scores[token] *= 1 / factor if scores[token] > 0 else factor
        ranked = sorted(scores, key=lambda token: scores[token], reverse=True)
        if params.greedy:
            return ranked[0]
        heat, left, reached = params.temperature or 1.0, list[tuple[int, float]](), 0.0
        likely = {token: math.exp((scores[token] - scores[ranked[0]]) / heat) for token in ranked}
        for token in ranked[: params.top_k or None]:
            if left and (reached >= (params.top_p or 1.0) or likely[token] < (params.min_p or 0.0)):
                break
            left.append((token, likely[token]))
            reached += likely[token] / sum(likely.values())
        return draw.choices(*zip(*left, strict=True))[0]


class GenerationExecutorProxy:
    """executor/proxy.py: what computes are processes of MPI, each a future that is done when its process has ended."""

    def __init__(self) -> None:
        self.mpi_futures: list[Future[None]] = [Future()]

    def shutdown(self) -> None:
        for one in self.mpi_futures:
            if not one.done():
                one.set_result(None)
            elif error := one.exception():
                raise error


class BaseLLM:
    latest: "BaseLLM"
    failure: Exception | None = None
    """What the next LLM raises when it is made."""

    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: Literal["auto", "slow"] = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        if failure := BaseLLM.failure:
            BaseLLM.failure = None
            raise failure
        for key in kwargs:
            if key not in self.valid:
                raise ValueError(f"{type(self).__name__} got invalid argument: {key}")
        open_weights(model)
        self.model, self.tokenizer = Path(model), tokenizer
        self.tensor_parallel_size, self.kwargs = tensor_parallel_size, kwargs
        self.requests: list[RequestOutput] = []
        self.running: set[int] = set()
        self.begun = asyncio.Condition()
        self.aborted: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails_after: int | None = None
        self.error: Exception = RuntimeError("the executor broke")
        self.shut = False
        self._executor = GenerationExecutorProxy()
        type(self).latest = BaseLLM.latest = self

    valid: frozenset[str] = frozenset()

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        if self.shut:
            raise RuntimeError("LLM is shutting down")
        params = sampling_params or SamplingParams()
        if params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        self.check(inputs, params)
        asyncio.get_running_loop()
        result = RequestOutput(self, len(self.requests), list(inputs), params)
        self.requests.append(result)
        return result

    def check(self, ids: list[int], params: SamplingParams) -> None:
        """`_check_arguments`."""

    def enqueue(self, ids: list[int]) -> None:
        """What the executor makes sure of, in C++: trtGptModel.h and llmRequest.h."""

    def draws(self, params: SamplingParams) -> Random:
        """The numbers that a request draws: the seed that none gave is 0, for all of them."""
        return Random(params.seed or 0)

    async def step(self, written: int) -> None:
        await self.gate.wait()
        await asyncio.sleep(_STEP_SECONDS)
        if written == self.fails_after:
            raise self.error

    async def running_are(self, count: int) -> None:
        """Until so many requests run."""
        async with self.begun:
            await self.begun.wait_for(lambda: len(self.running) == count)

    def shutdown(self) -> None:
        self.shut = True
        self._executor.shutdown()


_COMMON = {"pipeline_parallel_size", "context_parallel_size", "kv_cache_config", "max_batch_size", "max_input_len"}
_COMMON |= {"max_seq_len", "max_beam_width", "max_num_tokens", "enable_chunked_prefill", "lora_config", "backend"}


class _TrtLLM(BaseLLM):
    valid = frozenset(_COMMON | {"build_config", "quant_config", "calib_config", "workspace", "fast_build"})

    def __init__(self, model: str | Path, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(model, tokenizer, **kwargs)
        cache = kwargs.get("kv_cache_config")
        assert cache is None or cache.dtype == "auto", "KvCacheConfig.dtype is not supported by the TensorRT backend"

    def check(self, ids: list[int], params: SamplingParams) -> None:
        longest = json.loads((self.model / "config.json").read_text())["build_config"]["max_seq_len"]
        if len(ids) + params.max_tokens > longest:
            raise ValueError(f"The sum of prompt length ({len(ids)}) should not exceed max_seq_len ({longest})")

    def enqueue(self, ids: list[int]) -> None:
        built = json.loads((self.model / "config.json").read_text())["build_config"]
        most = min(built["max_seq_len"] - 1, built["max_num_tokens"], self.kwargs.get("max_num_tokens", 8192))
        if len(ids) > most:
            raise RequestError(f"Prompt length ({len(ids)}) exceeds maximum input length ({most}).")


class LLM(BaseLLM):
    valid = frozenset(_COMMON | {"cuda_graph_config", "attn_backend", "load_format", "sampler_type", "stream_interval"})
    _drawing = Random()  # its TorchSampler has one generator for all

    def draws(self, _: SamplingParams) -> Random:
        return self._drawing
