"""vLLM's executors, which live in its engine process, with one thing more: that process ends with the server.

vLLM's own stays for ever when the server is killed, and keeps the GPU's memory from the next one.
"""

import multiprocessing
import os
import threading

from vllm.v1.executor.abstract import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class OneProcess(UniProcExecutor):  # type: ignore[misc]  # vLLM has no types for us
    """The model in the engine process itself."""

    def _init_executor(self) -> None:
        _end_with_the_server()
        super()._init_executor()


class WorkerProcesses(MultiprocExecutor):  # type: ignore[misc]
    """A worker process for each GPU; they end with the engine process."""

    def _init_executor(self) -> None:
        _end_with_the_server()
        super()._init_executor()


def watched(executor: type[Executor]) -> type[Executor]:
    """The executor that watches the server in place of vLLM's own; any other as it is."""
    return {UniProcExecutor: OneProcess, MultiprocExecutor: WorkerProcesses}.get(executor, executor)


def _end_with_the_server() -> None:
    if server := multiprocessing.parent_process():

        def watch() -> None:
            server.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True, name="packager-server-watch").start()
