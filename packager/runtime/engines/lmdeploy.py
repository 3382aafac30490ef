"""LMDeploy through its AsyncEngine: TurboMind, or the PyTorch engine where that was asked for.

Both compute in threads of this process (the PyTorch engine on several GPUs: in Ray's). Requests become LMDeploy's in
lmdeploy_requests.py, the engine is opened in lmdeploy_open.py.
"""

# Sets what the imports below read; it must come first.
from . import lmdeploy_environment  # noqa: F401

# isort: split

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from lmdeploy.serve.core.exceptions import RequestError as LmdeployError

from ...errors import EngineError, LoadError, PackagerError, RequestError
from ..engine import (
    Delta,
    EngineFacts,
    EngineHealth,
    EngineSetup,
    GenerationRequest,
    OutputForm,
    OutputKind,
    SamplingParams,
)
from ..threads import in_daemon_thread
from . import read_options
from .answer import Answer
from .chat_template import read_chat_template
from .decode import Detokenizer
from .lmdeploy_open import open_llm
from .lmdeploy_options import PYTORCH, LmdeployOptions
from .lmdeploy_requests import Prompts, features, generation_config, logprobs_of, read_defaults, translated

_PROBE_SECONDS = 0.5
_CLOSE_SECONDS = 2.0
"""How long streams may take to end before the engine below them is closed."""
_FORMS: frozenset[OutputKind] = frozenset({"json_object", "json_schema", "regex"})


class LmdeployEngine:
    """One AsyncEngine, with as many sequences as requests may run."""

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._options = read_options(LmdeployOptions, setup)
        self._model: _Model | None = None
        self._opening: asyncio.Future[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._open: dict[str, _Run] = {}
        self._stopped = False
        self._reason = "the engine has not started"

    async def start(self) -> EngineFacts:
        setup, weights = self._setup, self._setup.weights
        if weights is None:
            raise LoadError("lmdeploy needs weights", where="model/manifest.json", mend="give `weights` in the spec")
        template = read_chat_template(weights, setup.chat_template)
        defaults = read_defaults(weights)
        opening = in_daemon_thread(lambda: open_llm(setup, self._options, weights))
        self._opening = asyncio.ensure_future(opening)
        llm = await asyncio.shield(self._opening)
        if self._stopped:
            raise LoadError("the engine was stopped while it started")
        llm.start_loop(asyncio.get_running_loop(), use_async_api=True)
        self._model = model = _Model(llm, Prompts(llm.tokenizer, template, llm.session_len), defaults)
        self._reason = ""
        try:
            outputs = await self._prove()
        except PackagerError as error:
            raise LoadError(f"the model is loaded, but does not run: {error}", where=str(weights)) from error
        self._watcher = asyncio.create_task(self._watch(model))
        can = features(llm.backend, outputs, chat=template is not None, logprobs=model.tokens is not None)
        return EngineFacts(
            "lmdeploy", setup.version, setup.model, llm.session_len, setup.slots, can, backend=llm.backend
        )

    async def _prove(self) -> frozenset[OutputKind]:
        """Have the model write a token, and one in a form: the forms of output that it can keep to.

        TurboMind has none with a tokenizer that its grammars cannot read, and says so only in its log.
        """
        one = SamplingParams(max_tokens=1)
        async for _ in self._steps(_Run([0], one), GenerationRequest("start", "-", sampling=one)):
            pass
        form = OutputForm("regex", "[a-z]")
        with suppress(RequestError):
            request = GenerationRequest("start", "-", sampling=one, output=form)
            async for _ in self._steps(_Run([0], one), request):
                pass
            return _FORMS
        return frozenset()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        run = self._open[request.id] = _Run([], request.sampling)
        try:
            run.ids = await self._alive().prompts.token_ids(request)
            run.answer.prompt_tokens = len(run.ids)
            async with aclosing(self._steps(run, request)) as steps:
                async for step in steps:
                    if run.aborted and step.finish_reason is None:
                        await run.abort()  # the first may have come before LMDeploy had begun
                        continue
                    delta = run.delta(step, self._alive().tokens)
                    yield delta
                    if delta.finish_reason is not None:
                        return
            if not run.aborted:
                raise EngineError(self._reason or "LMDeploy ended the stream without a reason")
            yield run.answer.unbegun()
        finally:
            del self._open[request.id]

    async def _steps(self, run: "_Run", request: GenerationRequest) -> AsyncGenerator[Any]:
        """The request's steps as LMDeploy's GenOut, each with what it added; none when it was aborted before.

        Raises EngineError, RequestError. Closing it ends the request.
        """
        model = self._alive()
        llm = model.llm
        config = generation_config(request, model.defaults, llm.session_len - len(run.ids))
        run.session = session = llm.session_mgr.get()
        where = "response_format" if request.output else ""
        try:
            prepared = await llm.preprocess(None, session, gen_config=config, input_ids=run.ids)
            if run.aborted:
                return
            async with aclosing(llm.generate(prepared, stream_response=True)) as steps:
                async for step in steps:
                    if request.output is not None and prepared.gen_config.response_format is None:
                        raise RequestError("LMDeploy cannot keep to this form of the output", where=where)
                    if step.finish_reason == "abort" and not run.aborted:
                        raise EngineError(self._reason or "LMDeploy ended the request by itself")
                    yield step
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError  # which LMDeploy has swallowed
        except LmdeployError as error:
            raise translated(error, where) from error
        finally:
            llm.session_mgr.remove(session)

    def _alive(self) -> "_Model":
        """What streams need of the started engine. Raises EngineError when it does not serve."""
        if self._model is None or self._reason:
            raise EngineError(self._reason)
        return self._model

    async def _watch(self, model: "_Model") -> None:
        """Ask LMDeploy how it is until it is not well."""
        while not self._reason:
            await asyncio.sleep(_PROBE_SECONDS)
            said = await model.llm.engine.get_health_status()
            if not said["alive"]:
                self._reason = self._reason or f"LMDeploy failed: {said['message']}"

    async def abort(self, request_id: str) -> None:
        if run := self._open.get(request_id):
            run.aborted = True
            await run.abort()

    async def stop(self) -> None:
        """Streams end first: the engine must not be taken from below them."""
        self._reason, self._stopped = "the engine was stopped", True
        model, self._model = self._model, None
        if self._watcher is not None:
            self._watcher.cancel()
        if model is None:
            if self._opening is not None:  # nothing ends the loading
                self._opening.add_done_callback(_close_late)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._open:
                    await asyncio.gather(*(run.abort() for run in self._open.values()))
                    await asyncio.sleep(0.01)
        if model.llm.backend == PYTORCH:
            model.llm.close()  # it cancels tasks of this event loop
        else:
            await in_daemon_thread(model.llm.close)

    def health(self) -> EngineHealth:
        if not self._reason and self._watcher is not None and self._watcher.done():
            self._reason = f"LMDeploy does not say how it is: {self._watcher.exception()}"
        return EngineHealth(not self._reason, self._reason)


class _Model:
    """What is known of the model once it is loaded."""

    def __init__(self, llm: Any, prompts: Prompts, defaults: dict[str, Any]) -> None:
        self.llm = llm
        self.prompts = prompts
        self.defaults = defaults
        tokenizer = getattr(llm.tokenizer.model.model, "backend_tokenizer", None)
        self.tokens = None if tokenizer is None else Detokenizer(tokenizer)


class _Run:
    """One open request."""

    __slots__ = ("_before", "_held", "_top", "aborted", "answer", "ids", "session")

    def __init__(self, ids: list[int], sampling: SamplingParams) -> None:
        self._top = sampling.logprobs
        self.answer = Answer("LMDeploy", sampling.stop)
        self.ids = ids
        self._before: list[int] = []  # the last token whose text LMDeploy has given
        self._held: list[int] = []  # those after it
        self.session: Any = None
        self.aborted = False

    async def abort(self) -> None:
        """Tell LMDeploy, where it computes; nothing to it otherwise."""
        if self.session is not None:
            await self.session.async_abort()

    def delta(self, step: Any, tokens: Detokenizer | None) -> Delta:
        """What a step of LMDeploy's added."""
        logprobs = () if self._top is None or tokens is None else logprobs_of(step, self._top, tokens)
        text = step.response if tokens is None else step.response + self._rest(step, tokens)
        return self.answer.delta(text, len(step.token_ids or ()), step.finish_reason, logprobs)

    def _rest(self, step: Any, tokens: Detokenizer) -> str:
        """At the end the text that LMDeploy still holds back, which it never gives.

        While an answer ends within a character, it gives none of a step's text, and a step may have many tokens.
        """
        ids = list(step.token_ids or ())
        if step.response:
            self._before, self._held = ids[-1:], []
        else:
            self._held += ids
        if step.finish_reason not in ("stop", "length") or not self._held:
            return ""
        return tokens.added_text(self._before or self.ids[-1:], self._held)


def _close_late(opening: "asyncio.Future[Any]") -> None:
    """Close what was loaded after nobody wanted it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
