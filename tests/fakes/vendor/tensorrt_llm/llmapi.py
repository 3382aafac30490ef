import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


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
        """`_greedy_decoding`."""
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
        params, written = self.sampling_params, 0
        answer = [*self.prompt_token_ids, params.end_id] if params.end_id != -1 else self.prompt_token_ids * 1000
        async with self._executor.begun:
            self._executor.running.add(self.request_id)
            self._executor.begun.notify_all()
        try:
            for token in answer:
                await self._executor.step(written)
                if self._aborted:
                    self._queue.put_nowait(([], "cancelled"))
                    return
                if token == params.end_id or token in (params.stop_token_ids or ()):
                    self._queue.put_nowait(([token], "stop"))
                    return
                written += 1
                self._queue.put_nowait(([token], "length" if written == params.max_tokens else None))
                if written == params.max_tokens:
                    return
        except Exception as error:  # noqa: BLE001 - whoever awaits the output raises it
            self._queue.put_nowait(error)
        finally:
            async with self._executor.begun:
                self._executor.running.discard(self.request_id)
                self._executor.begun.notify_all()


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

    async def step(self, written: int) -> None:
        await self.gate.wait()
        await asyncio.sleep(0)
        if written == self.fails_after:
            raise self.error

    async def running_are(self, count: int) -> None:
        """Until so many requests run."""
        async with self.begun:
            await self.begun.wait_for(lambda: len(self.running) == count)

    def shutdown(self) -> None:
        self.shut = True


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


class LLM(BaseLLM):
    valid = frozenset(_COMMON | {"cuda_graph_config", "attn_backend", "load_format", "sampler_type", "stream_interval"})
