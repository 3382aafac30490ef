import asyncio
import dataclasses
import json
import random
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from stand_in_weights import open_weights

from ... import computing
from ...messages import GenerationConfig
from ...tokenizer import EOS, Tokenizer
from ..managers.session_manager import SessionManager
from .exceptions import ErrorCode, RequestError, SafeRunException


@dataclasses.dataclass
class GenOut:
    response: Any
    input_token_len: Any
    generate_token_len: Any
    finish_reason: Any = None
    token_ids: Any = None
    logprobs: Any = None
    logits: Any = None
    last_hidden_state: Any = None
    cache_block_ids: Any = None
    routed_experts: Any = None
    cached_tokens: Any = 0
    logprob_token_ids: Any = None


@dataclasses.dataclass(slots=True)
class PreprocessedRequest:
    session: Any
    inputs: Any
    input_token_len: Any
    gen_config: Any
    adapter_name: Any
    consumed: Any = False


class AsyncEngine:
    def __init__(
        self,
        model_path,
        model_name=None,
        backend="turbomind",
        backend_config=None,
        chat_template_config=None,
        max_log_len=None,
        trust_remote_code=False,
        speculative_config=None,
        allowed_media_domains=None,
        **kwargs,
    ):
        if computing.REFUSAL is not None:
            raise computing.REFUSAL
        computing.MADE.append(self)
        self.model_name = model_name
        self.tokenizer = Tokenizer(model_path, trust_remote_code)
        config = json.loads((Path(model_path) / "config.json").read_text())
        open_weights(model_path)
        self.session_len = backend_config.session_len or config["max_position_embeddings"]
        backend_config.session_len = self.session_len
        self.trusted = trust_remote_code
        if backend == "turbomind":
            from ...turbomind.turbomind import TurboMind as Inner
        else:
            from ...pytorch.engine.engine import Engine as Inner
        self.engine = Inner.from_pretrained(
            model_path, engine_config=backend_config, trust_remote_code=trust_remote_code
        )
        self.backend_config = self.engine.engine_config
        self.backend = backend
        self.session_mgr = SessionManager()
        self.session_mgr.build_request_handle_pool(self.engine, self.backend_config.max_batch_size)

    def start_loop(self, loop, use_async_api=False):
        self.session_mgr.attach_event_loop(loop)
        if hasattr(self.engine, "start_loop"):
            assert use_async_api, "a pipeline is for synchronous or for asynchronous use"
            return self.engine.start_loop()
        return True

    def close(self):
        self.engine.close()

    async def preprocess(
        self,
        messages,
        session_id,
        gen_config=None,
        tools=None,
        reasoning_effort=None,
        do_preprocess=True,
        adapter_name=None,
        input_ids=None,
        enable_thinking=None,
        chat_template_kwargs=None,
        media_io_kwargs=None,
        mm_processor_kwargs=None,
        **kwargs,
    ):
        assert (messages is not None) ^ (input_ids is not None)
        if gen_config.response_format is not None:
            _check(gen_config.response_format)
        if len(input_ids) >= self.session_len:
            raise RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED)
        config = self._determine_gen_config(gen_config)
        return PreprocessedRequest(session_id, {"input_ids": input_ids}, len(input_ids), config, adapter_name)

    def _determine_gen_config(self, gen_config) -> GenerationConfig:
        config = deepcopy(gen_config)
        config.stop_token_ids = [EOS]
        if not config.do_sample:
            config.top_k, config.temperature, config.repetition_penalty = 1, 1.0, 1.0
        elif config.random_seed is None:
            config.random_seed = random.getrandbits(64)
        return config

    @asynccontextmanager
    async def _safe_run(self, handle, session, **kwargs):
        generator = handle.async_stream_infer(session.session_id, **kwargs)
        try:
            yield generator
        except (asyncio.CancelledError, GeneratorExit) as error:
            await asyncio.shield(handle.async_cancel(session.session_id))
            raise SafeRunException from error
        except Exception as error:
            await handle.async_cancel(session.session_id)
            raise RequestError(ErrorCode.INTERNAL_ERROR) from error
        finally:
            await generator.aclose()

    async def generate(self, request, stream_response=True):
        if request.consumed:
            raise RequestError(ErrorCode.REQUEST_CONFLICT)
        request.consumed = True
        session, config, prompt = request.session, request.gen_config, request.input_token_len
        text = _Text()
        written, failure = 0, None
        async with (
            session.request_handle() as handle,
            self._safe_run(
                handle, session, **request.inputs, gen_config=config, stream_output=stream_response
            ) as steps,
        ):
            async for status, ids, logprobs in steps:
                if status == "error":
                    failure = RequestError(ErrorCode.INTERNAL_ERROR)
                    break
                stopped = bool(ids) and ids[-1] in config.stop_token_ids and not config.ignore_eos
                new = ids[:-1] if stopped else ids
                if ids:
                    written += len(new)
                    said = logprobs[:-1] if logprobs and stopped else logprobs
                    yield GenOut(text.feed(new), prompt, written, token_ids=new, logprobs=said)
                if status != "success":
                    reason = "abort" if status == "cancel" else "stop" if stopped else "length"
                    yield GenOut("", prompt, written, reason, token_ids=[])
        self.session_mgr.remove(session)
        if failure is not None:
            raise failure


class _Text:
    """What lmdeploy's incremental detokenization gives: nothing while a character may be incomplete, also at the end."""

    def __init__(self):
        self._raw = b""
        self._given = 0

    def feed(self, ids):
        self._raw += bytes(one for one in ids if one < 256)
        text = self._raw.decode(errors="replace")
        if text.endswith("�"):
            return ""
        new, self._given = text[self._given :], len(text)
        return new


def _check(form):
    """As ensure_response_format_compilable: it raises ValueError, which becomes a refusal."""
    try:
        if form["type"] == "json_schema":
            json.loads(form["json_schema"])
    except ValueError as error:
        raise RequestError(ErrorCode.INVALID_REQUEST, f"Unsupported response format: {error}") from error
