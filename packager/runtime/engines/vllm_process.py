"""The life of vLLM's AsyncLLM and of the process behind it: its start, its death, its end."""

# Sets what the imports below read; it must come first.
from .vllm_environment import FOLDER

# isort: split

import asyncio
import multiprocessing
import os
import re
import signal
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import UUID

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.utils.system_utils import kill_process_tree
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.executor import Executor

from ...errors import EngineError, LoadError
from ..threads import in_daemon_thread
from .cores import physical_cores
from .vllm_executors import watched
from .vllm_family import Family, ended
from .vllm_logs import one_line

ON_CPU: bool = current_platform.is_cpu()
_NAME = "EngineCore"
"""What vLLM calls the process that it starts from this one; that one starts the workers of more than one GPU."""
_STOP_SECONDS = 1.0
"""How long vLLM's process has to end by itself. It needs that only to abort requests; Python then takes seconds to
take its modules apart. What it holds goes back to the system when it is killed."""
_POLL_SECONDS = 0.05
_EXIT = re.compile(rf"'{_NAME}': (-?\d+)")
_LONGEST_SOCKET_PATH = 107
"""Bytes: sockaddr_un of Linux. vLLM names its sockets by a UUID."""
_ADVICE = "if memory is short, lower engine.context_length, engine.gpu_memory or serving.max_concurrency"


def check_sockets(folder: Path) -> None:
    """Raises LoadError where vLLM's sockets cannot be made there."""
    longest = str(folder / str(UUID(int=0)))
    if len(os.fsencode(longest)) > _LONGEST_SOCKET_PATH:
        what, mend = "the path is too long for a Unix socket", "set TMPDIR to a shorter folder"
        raise LoadError(what, where=longest, mend=mend)


class EngineProcess:
    """One AsyncLLM, opened and closed once.

    It is made in a thread, because its constructor returns when the model is loaded. Its own tasks begin with the
    first request, on the event loop that makes it.
    """

    def __init__(self) -> None:
        self._llm: Any = None
        self._opening: asyncio.Future[Any] | None = None
        self._closing = False
        self._strangers: set[int | None] = set()
        self._family: Family | None = None
        self._logged = 0

    async def open(self, arguments: Mapping[str, Any]) -> Any:
        """Start vLLM with these keywords of AsyncEngineArgs; gives the AsyncLLM. Raises LoadError with vLLM's reason."""
        check_sockets(Path(os.environ["VLLM_RPC_BASE_PATH"]))
        FOLDER.enter()
        self._logged = FOLDER.causes()
        self._strangers = {process.pid for process in multiprocessing.active_children()}
        self._opening = asyncio.ensure_future(in_daemon_thread(partial(self._make, arguments)))
        llm = await asyncio.shield(self._opening)
        if self._closing:
            raise LoadError("the engine was stopped while it started")
        self._llm, self._family = llm, Family(self._core())
        return llm

    def _make(self, arguments: Mapping[str, Any]) -> Any:
        """In a thread, whose signal mask vLLM's processes inherit: Ctrl-C is for the server, which drains."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        if ON_CPU:
            # vLLM computes on one thread unless it is told; one core is left to the server.
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, physical_cores() - 1)))
        if arguments["enforce_eager"]:
            # vLLM's own word leaves its helper functions to be compiled at the first request that needs one.
            os.environ["TORCH_COMPILE_DISABLE"] = "1"
        try:
            config = AsyncEngineArgs(**arguments).create_engine_config()
            if self._closing:
                return None
            executor = watched(Executor.get_class(config))
            return AsyncLLM(config, executor_class=executor, log_stats=False, log_requests=False)
        except Exception as error:
            why = f"vLLM cannot start: {self._why(error)}"
            raise LoadError(why, where=str(arguments["model"]), mend=_ADVICE) from error

    def _why(self, error: Exception) -> str:
        if cause := FOLDER.root_cause(self._logged):
            return cause
        exited = _EXIT.search(str(error))
        return one_line(error) if exited is None else f"its process {ended(int(exited[1]))}"

    async def steps(self, request_id: str, ids: list[int], params: Any, lora: Any = None) -> AsyncGenerator[Any]:
        """One request's steps as vLLM's CompletionOutput, each with what it added. Raises EngineError, and REFUSALS.

        Closing it, and cancelling its task, end the request.
        """
        outputs = self._llm.generate(tokens_input(ids), params, request_id, lora_request=lora)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output.outputs[0]
        except EngineDeadError as error:
            raise EngineError(self.death() or str(error)) from error
        except EngineGenerateError as error:
            raise EngineError(f"vLLM failed: {one_line(error.__cause__ or error)}") from error

    async def abort(self, request_ids: Iterable[str]) -> None:
        """End requests: each gives a last step that says so. Unknown ids are nothing to it."""
        if self._llm is not None:
            await self._llm.abort(list(request_ids))

    def death(self) -> str:
        """What it died of; empty while it lives. Cheap."""
        if self._llm is None or self._family is None:
            return ""
        if loss := self._family.loss():
            return loss
        if not self._llm.errored:
            return ""
        return f"vLLM failed: {FOLDER.root_cause(self._logged) or 'it does not say why'}"

    async def close(self) -> None:
        """Give everything back, the processes too, also in the middle of a start. Idempotent."""
        if self._closing:
            return
        self._closing = True
        llm, self._llm = self._llm, None
        opening, self._opening = self._opening, None
        if opening is None:
            return
        if llm is None:
            llm = await self._interrupted(opening)
        if llm is not None:
            if llm.output_handler is not None:
                llm.output_handler.cancel()  # else it may log the end that we make as a failure
            await in_daemon_thread(partial(self._end, llm))
        FOLDER.leave()

    def _end(self, llm: Any) -> None:
        """In a thread."""
        llm.shutdown(timeout=_STOP_SECONDS)
        if self._family is not None:
            self._family.bury()

    async def _interrupted(self, opening: "asyncio.Future[Any]") -> Any:
        """End a start, which nothing but the death of its process ends; gives what it made all the same."""
        while not opening.done():
            for process in self._children():
                kill_process_tree(process.pid or 0)
            await asyncio.wait({opening}, timeout=_POLL_SECONDS)
        return None if opening.exception() else opening.result()

    def _core(self) -> BaseProcess:
        if not (found := self._children()):
            raise LoadError("vLLM's process ended as soon as it had started", mend=_ADVICE)
        return found[0]

    def _children(self) -> list[BaseProcess]:
        found = multiprocessing.active_children()
        return [one for one in found if one.name.startswith(_NAME) and one.pid not in self._strangers]
