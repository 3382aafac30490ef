"""Our own runner: one process, uvicorn without middleware, and a stop that loses nothing.

First signal (SIGTERM or SIGINT): /readyz answers 503 and new requests are refused, open ones go on for
`drain_seconds`, what is left then ends with a typed error, and the process exits 0.
A second signal ends the process at once. A load that fails exits 1 with its reason in the log, once.
"""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
import uvloop

from ..errors import LoadError
from ..store import Store
from .load import open_package
from .logs import event, log_to_stderr
from .server.app import create_app
from .server.bounds import Bounds
from .server.keys import ApiKeys, read_api_keys
from .server.protocol import BoundedProtocol
from .server.sse import BrokenStreamError
from .supervise import Supervisor

_LAST_WRITES = 5
"""Seconds that connections have, after the drain, to take the last bytes of their answers."""


def serve(package: Path, host: str = "127.0.0.1", port: int | None = None, store: Store | None = None) -> int:
    """Serve the package folder until a stop signal; gives the process's exit status.

    `port` None means the manifest's, 0 any free one (the log says which). Raises PackageError when the
    folder is no package, LoadError when the API keys cannot be read or the address cannot be listened on,
    SettingError for an environment variable that says nothing.
    """
    log_to_stderr(everything=True)
    supervisor = open_package(package, store)
    config = server_config(supervisor, read_api_keys())
    listener = _listen(host, supervisor.manifest.serving.port if port is None else port)
    allow_many_files()
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(supervisor, config, listener))


def server_config(supervisor: Supervisor, keys: ApiKeys | None = None, bounds: Bounds | None = None) -> uvicorn.Config:
    """The configuration of uvicorn in our runner. `keys` None lets everybody ask; `bounds` None means the manifest's."""
    within = bounds or Bounds(body=supervisor.manifest.serving.max_body)
    quiet_broken_streams()
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what is no HTTP is told by BoundedProtocol
    return uvicorn.Config(
        create_app(supervisor, supervisor.manifest, keys, within),
        http=cast("type[asyncio.Protocol]", partial(BoundedProtocol, within)),
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=cast("int", within.idle_seconds),
        timeout_graceful_shutdown=_LAST_WRITES,
    )


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to us: its own handler closes the door before /readyz can say 503."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(supervisor: Supervisor, config: uvicorn.Config, listener: socket.socket) -> int:
    host, port = listener.getsockname()[:2]
    server = _Server(config)
    stopping = _stop_signal()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    event("listening", model=supervisor.manifest.name, host=host, port=port)
    failed = asyncio.create_task(supervisor.failed.wait())
    ends: set[asyncio.Future[Any]] = {serving, stopping, failed}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    failed.cancel()
    if stopping.done():
        await supervisor.drain(supervisor.manifest.serving.drain_seconds)
    server.should_exit = True
    await serving
    return 0 if supervisor.alive else 1


def _stop_signal() -> "asyncio.Future[None]":
    """Done at the first stop signal; the next one finds its default action again and ends the process."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        event("stop signal", signal=number.name)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:  # the last two: a port over 65535, a host that is no name
        why = error.strerror if isinstance(error, OSError) else error
        raise LoadError(
            f"cannot listen: {why}", where=f"{host}:{port}", mend="choose another --host or --port"
        ) from error


def allow_many_files() -> None:
    """Take all the file descriptors that the system would give: containers often begin with 1024 of many more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a system that does not give what it says: then it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _BrokenStreams(logging.Filter):
    """Drops uvicorn's traceback for a stream that we broke off: our own log has its reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], BrokenStreamError))


_BROKEN_STREAMS = _BrokenStreams()


def quiet_broken_streams() -> None:
    """Keep uvicorn from logging the exception that ends a failed stream. Idempotent."""
    logging.getLogger("uvicorn.error").addFilter(_BROKEN_STREAMS)
