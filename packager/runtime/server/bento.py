"""The app inside a BentoML service: `bentoml serve` hosts it, the promises stay ours where it can be done.

BentoML owns /livez, /readyz and /metrics at the root, so the service answers through its hooks. It has no
stop hook that runs before the listening socket closes, so SIGTERM is taken first by us: /readyz turns 503,
the open streams drain for `drain_seconds`, then BentoML's own handler goes on.
"""

import asyncio
import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import bentoml

from ...environ import LOG_LEVEL
from ..load import open_package
from ..logs import log_to_stderr
from ..serve import allow_many_files, quiet_broken_streams
from ..supervise import Supervisor
from .app import create_app
from .keys import read_api_keys

OUR_ROUTES = "/predict,/v1/,/v2,/chat,/openapi.json"
"""Not traced: BentoML opens a span for every chunk of a stream, which costs more than the chunk."""

FIRST_BYTE_SECONDS = 3600
"""BentoML's `traffic.timeout`: a limit to the first byte, which it cannot leave out (streams are not cut).
It keeps a timer for each request this long, so a day would cost memory."""


def make_service(package: Path) -> Any:
    """The BentoML service for the package folder.

    Raises PackageError when it is none, LoadError when the API keys cannot be read, SettingError for an environment
    variable that says nothing.

    One worker: the engine has one owner. No concurrency limit of BentoML's: it knows no queue and
    answers without Retry-After.
    """
    supervisor = open_package(package)
    manifest = supervisor.manifest
    LOG_LEVEL.get()  # refused here: BentoML starts a worker that fails at its start again and again

    @bentoml.asgi_app(create_app(supervisor, manifest, read_api_keys()), path="/")
    class PackagedModel:
        @bentoml.on_startup  # type: ignore[untyped-decorator]
        async def start(self) -> None:
            log_to_stderr()
            quiet_broken_streams()
            allow_many_files()
            supervisor.start()
            _drain_first(supervisor)
            if "BENTOML_CONTAINERIZED" in os.environ:
                self._watching = asyncio.create_task(_exit_when_failed(supervisor))

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def finish(self) -> None:
            await supervisor.stop()

        async def __is_alive__(self) -> bool:
            return supervisor.alive

        async def __is_ready__(self) -> bool:
            return supervisor.ready

        async def __metrics__(self, text: str) -> str:
            return text + supervisor.metrics.text()

    service = bentoml.service(
        name=manifest.name,
        workers=1,
        http={"port": manifest.serving.port},
        tracing={"excluded_urls": OUR_ROUTES},
        traffic={"timeout": FIRST_BYTE_SECONDS},
    )
    return service(PackagedModel)


async def _exit_when_failed(supervisor: Supervisor) -> None:
    """In a container a failed load must end the process; BentoML would answer probes for ever."""
    await supervisor.failed.wait()
    logging.shutdown()
    os._exit(1)


def _drain_first(supervisor: Supervisor) -> None:
    """Put our drain before the signal handlers that uvicorn has installed."""
    loop = asyncio.get_running_loop()
    begun: list[asyncio.Task[None]] = []

    def take_over(number: signal.Signals) -> None:
        theirs = signal.getsignal(number)

        async def drain_then_theirs() -> None:
            await supervisor.drain(supervisor.manifest.serving.drain_seconds)
            if callable(theirs):
                theirs(number, None)

        def begin() -> None:
            if not begun:  # Ctrl-C reaches this process twice: from the terminal and from BentoML's parent
                begun.append(loop.create_task(drain_then_theirs()))

        def ours(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(begin)

        signal.signal(number, ours)

    for number in (signal.SIGTERM, signal.SIGINT):
        take_over(number)
