"""The measuring client: it asks, and takes the time of every event of every answer.

What TTFT, ITL and the rest mean is said in outcome.py, what is made of them in report.py. Stricter than vLLM's
`bench serve` in one thing: a stream counts only when it gave a finish reason and [DONE], and its transfer ended.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from .answer import Answer
from .connection import Clock, Connections, Origin
from .outcome import Failure, Outcome
from .workload import Question

Api = Literal["completions", "chat", "predict"]
_PATHS: Mapping[Api, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "predict": "/predict",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: `model` is the name in the request (None for `predict`, which has none).

    `extra` are further fields of each request's body. `api_key` goes as a bearer token. A request that takes
    longer than `timeout` seconds has failed.
    """

    origin: Origin
    api: Api
    model: str | None = None
    extra: Mapping[str, Any] | None = None
    api_key: str | None = None
    timeout: float = 600.0

    def body(self, question: Question) -> bytes:
        """The request's JSON. Usage is asked for, so that tokens are the server's own count."""
        if self.api == "predict":
            fields: dict[str, Any] = {"prompt": question.prompt, "max_tokens": question.max_tokens, "stream": True}
            return json.dumps(fields | dict(self.extra or {})).encode()
        fields = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        if self.api == "chat":
            fields |= {"messages": [{"role": "user", "content": question.prompt}]}
            fields |= {"max_completion_tokens": question.max_tokens}
        else:
            fields |= {"prompt": question.prompt, "max_tokens": question.max_tokens}
        return json.dumps(fields | dict(self.extra or {})).encode()

    def headers(self, length: int) -> list[tuple[str, str]]:
        """The request's headers."""
        headers = [("host", self.origin.authority), ("content-type", "application/json")]
        headers += [("accept", "text/event-stream"), ("content-length", str(length))]
        return headers + ([("authorization", f"Bearer {self.api_key}")] if self.api_key else [])


class Client:
    """Asks one target, from one event loop. `clock` gives seconds; they become the Outcomes' times."""

    def __init__(self, target: Target, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._target = target
        self._path = target.origin.path + _PATHS[target.api]
        self._connections = Connections(target.origin, clock)

    async def ask(self, number: int, question: Question, arrived: float | None = None) -> Outcome:
        """Ask once. A failure is an Outcome too; nothing is tried again."""
        body, answer, failure = self._target.body(question), Answer(), None
        started = self.clock()
        try:
            async with asyncio.timeout(self._target.timeout):
                await self._post(body, answer)
        except TimeoutError:
            failure = Failure("timeout", f"no end after {self._target.timeout:g} s")
        except OSError as error:
            said = error.strerror or str(error)
            failure = Failure("broken" if answer.status else "connection", said)
        return answer.outcome(number, started if arrived is None else arrived, started, failure)

    def close(self) -> None:
        """End the connections that are kept open."""
        self._connections.close()

    async def _post(self, body: bytes, answer: Answer) -> None:
        connection = await self._connections.take()
        await connection.post(self._path, self._target.headers(len(body)), body, answer)
        self._connections.give_back(connection)


async def run_load(
    client: Client,
    questions: Sequence[Question],
    due: Sequence[float],
    concurrency: int | None,
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Ask every question when it is due (seconds from now), at most `concurrency` at once.

    With everything due at once that is a closed loop, with times and no bound an open one. `on_outcome` gets each
    as it ends; what it has when the call is cancelled is all there is.
    """
    gate = nullcontext() if concurrency is None else asyncio.Semaphore(concurrency)
    begun = client.clock()

    async def one(number: int, question: Question, arrived: float) -> None:
        async with gate:
            outcome = await client.ask(number, question, arrived)
        on_outcome(outcome)

    try:
        async with asyncio.TaskGroup() as tasks:
            for number, (question, after) in enumerate(zip(questions, due, strict=True)):
                if (wait := begun + after - client.clock()) > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(one(number, question, client.clock()))
    finally:
        client.close()
