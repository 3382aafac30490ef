"""A route that the engine's own HTTP server answers, under our admission, limits, drain and metrics.

That server is an ASGI app in this process. One exchange with it is made a stream of Deltas, so that a Generation can
own it as it owns any other request: it waits for a slot, is ended when its client leaves, fails when the engine dies
or the server stops, and is counted. What the app sends passes through as it is, but for one thing: a stream in which
it tells of an error does not end as if it were complete.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator

from ...errors import EngineError, PackagerError, RequestError, UnavailableError
from ..engine import ASGI, Delta, GenerationRequest, Usage
from ..generation import Generation
from ..supervise import Supervisor
from .answer import note
from .http import Exchange, Message, Scope
from .sse import break_off, leave_off

_MOST_WAITING = 16
"""Pieces that the app may send ahead of their reader."""
_GRACE = 1.0
"""Seconds that the app has to notice that its client left, before its task is cancelled."""
_ERRORS = (b'data: {"error"', b"event: error")
"""How vLLM, and OpenAI's own server, tell of an error in a stream."""
_PROMPT = re.compile(rb'"prompt_tokens":\s*(\d+)')
_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d+)')
"""Outside of text: there, a quote has a backslash before it."""
_HOP = frozenset((b"connection", b"date", b"server", b"transfer-encoding", b"x-request-id"))
"""Headers that are the connection's, or that we set."""


class NativeCall:
    """One exchange with the app: `stream` runs it and `abort` ends it, as a Generation wants it of an engine.

    `head` is the answer's status and headers, once there is a Delta; `take` gives the bytes that came since.
    """

    def __init__(self, app: ASGI, scope: Scope, body: bytes) -> None:
        self.head: tuple[int, list[tuple[bytes, bytes]]] = (0, [])
        self.complete = False
        self._app = app
        # 2.3: the app asks `receive` whether the client is there, and does not wait for a failing `send`.
        self._scope = {**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}
        self._body: bytes | None = body
        self._task: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()
        self._sent: deque[Message | None] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._pieces: list[bytes] = []
        self._usage = Usage(0, 0)
        self._events = 0

    @property
    def streamed(self) -> bool:
        """Whether the answer has events."""
        return self._events > 0

    def take(self) -> bytes:
        """What the app has sent, and nobody has taken yet."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    async def stream(self, _request: GenerationRequest) -> AsyncIterator[Delta]:
        """Run the exchange: a Delta for each piece of the answer, with its events as its count of tokens.

        Raises EngineError when the app fails, and after its whole answer when that is a 5xx; RequestError after a 4xx.
        """
        self._task = task = asyncio.ensure_future(self._app(self._scope, self._receive, self._send))
        task.add_done_callback(lambda _: self._put(None))
        try:
            while (message := await self._next()) is not None:
                if message["type"] == "http.response.start":
                    self.head = (message["status"], list(message.get("headers", ())))
                elif not self._gone.is_set():
                    yield Delta("", self._read(message))
            yield self._last(task)
        finally:
            self._gone.set()
            self._room.set()
            await asyncio.wait({task}, timeout=_GRACE)
            task.cancel()

    async def abort(self, _request_id: str) -> None:
        """Tell the app that its client has left, and end it if it does not heed that."""
        self._gone.set()
        self._room.set()
        if self._task is not None:
            asyncio.get_running_loop().call_later(_GRACE, self._task.cancel)

    def _read(self, message: Message) -> int:
        """Keep a piece of the answer; gives how many events it has. Raises EngineError when it tells of an error."""
        data: bytes = message.get("body", b"")
        if data.startswith(_ERRORS):
            raise EngineError("the engine's own server told of an error in the stream")
        self.complete = not message.get("more_body", False)
        self._pieces.append(data)
        if (prompt := _PROMPT.findall(data)) and (completion := _COMPLETION.findall(data)):
            self._usage = Usage(int(prompt[-1]), int(completion[-1]))
        events = data.count(b"data: {")
        self._events += events
        return events

    def _last(self, task: "asyncio.Future[None]") -> Delta:
        status, _ = self.head
        if self._gone.is_set():
            return Delta("", 0, "abort", self._usage)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise EngineError(f"the engine's own server failed: {type(error).__name__}") from error
        if not self.complete:
            raise EngineError("the engine's own server did not end its answer")
        if status >= 400:
            what = f"the engine's own server answered {status}"
            raise RequestError(what) if status < 500 else EngineError(what)
        return Delta("", 0 if self._events else self._usage.completion_tokens, "stop", self._usage)

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if not self._gone.is_set():
            self._put(message)
            await self._room.wait()

    def _put(self, message: Message | None) -> None:
        self._sent.append(message)
        self._news.set()
        if len(self._sent) >= _MOST_WAITING:
            self._room.clear()

    async def _next(self) -> Message | None:
        while not self._sent:
            self._news.clear()
            await self._news.wait()
        message = self._sent.popleft()
        self._room.set()
        return message


async def answer_natively(exchange: Exchange, supervisor: Supervisor) -> None:
    """Answer with the engine's own server. Raises PackagerError before the answer has begun."""
    body = await exchange.body()
    app = supervisor.facts.native if supervisor.facts else None
    if app is None:
        raise UnavailableError(f"the model is {supervisor.state}", mend="ask /readyz when it takes requests")
    call = NativeCall(app, exchange.scope, body)
    generation = supervisor.submit(GenerationRequest(exchange.id, prompt=""), call)
    try:
        await pass_on(exchange, generation, call)
    finally:
        generation.abort()
        note(exchange, [generation], stream=call.streamed)


async def pass_on(exchange: Exchange, generation: Generation, call: NativeCall) -> None:
    """Answer with what the app sends, as it comes. The exchange's body must have been read."""
    async with exchange.watching(generation.abort):
        try:
            while batch := await generation.batch():
                if batch[-1].finish_reason == "abort":
                    await leave_off(exchange)
                    return
                await _forward(exchange, call, more=batch[-1].finish_reason is None)
        except PackagerError as error:
            if not call.complete:
                await break_off(exchange, error)
            await _forward(exchange, call, more=False)  # its own words for what it refuses


async def _forward(exchange: Exchange, call: NativeCall, *, more: bool) -> None:
    if not exchange.status:
        status, headers = call.head
        kept = [(name.lower(), value) for name, value in headers if name.lower() not in _HOP]
        content_type = next((value for name, value in kept if name == b"content-type"), b"application/octet-stream")
        await exchange.start(status, content_type, [one for one in kept if one[0] != b"content-type"])
    await exchange.write(call.take(), more=more)
