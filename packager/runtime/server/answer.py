"""Answering a parsed request: submit it, then events or one JSON answer, and what the log will say."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from ...errors import PackagerError, RequestError
from ..engine import GenerationRequest
from ..generation import Generation
from ..supervise import Supervisor
from .choices import Choices, stream_choices, whole_choices
from .http import Exchange, HttpError
from .sse import Reply, stream_events


async def answer(exchange: Exchange, supervisor: Supervisor, reply: Reply | Choices) -> None:
    """Answer `exchange` with what the engine makes of `reply`. Raises PackagerError before the answer has begun."""
    requests = (reply.request,) if isinstance(reply, Reply) else reply.requests
    _check_adapter(exchange, supervisor, requests[0].adapter)
    generations = _submit(supervisor, requests)
    leave = partial(_abort, generations)
    try:
        if reply.stream:
            async with exchange.watching(leave):
                if isinstance(reply, Reply):
                    await stream_events(exchange, generations[0], reply.shape)
                else:
                    await stream_choices(exchange, generations, reply)
        else:
            async with exchange.watching(leave):
                value = await _whole(generations, reply)
            await (exchange.answer_nobody() if value is None else exchange.answer_json(200, value))
    finally:
        leave()
        note(exchange, generations, stream=reply.stream)


def _check_adapter(exchange: Exchange, supervisor: Supervisor, adapter: str | None) -> None:
    """An adapter that is not there is a model that is not there."""
    here = supervisor.facts.features.adapters if supervisor.facts else ()
    if supervisor.facts is not None and adapter is not None and adapter not in here:
        names = ", ".join([supervisor.manifest.name, *here])
        where = "model" if exchange.path.startswith("/v1/") else "adapter"
        raise HttpError(404, f"the model {adapter!r} does not exist here; this server has {names}", where=where)


def _submit(supervisor: Supervisor, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """All of them, or none."""
    if supervisor.facts is not None:
        serving = supervisor.manifest.serving
        most = min(supervisor.facts.slots, serving.max_concurrency) + serving.max_queue
        if len(requests) > most:
            what = f"{len(requests)} choices are more than the {most} requests this server takes"
            raise RequestError(what, where="n")
    generations: list[Generation] = []
    try:
        for request in requests:
            generations.append(supervisor.submit(request))  # noqa: PERF401 - those before one that fails must be ended
    except PackagerError:
        _abort(generations)
        raise
    return generations


async def _whole(generations: Sequence[Generation], reply: Reply | Choices) -> Any:
    """The whole answer; None when the client has left, which alone ends one early."""
    if isinstance(reply, Choices):
        return await whole_choices(generations, reply)
    deltas = [delta async for delta in generations[0]]
    if deltas[-1].finish_reason == "abort":
        return None
    return reply.whole("".join(delta.text for delta in deltas), deltas[-1])


def _abort(generations: Sequence[Generation]) -> None:
    for generation in generations:
        generation.abort()


def note(exchange: Exchange, generations: Sequence[Generation], *, stream: bool) -> None:
    """Leave in the exchange what the log will say of its generations."""
    usages = [generation.usage for generation in generations if generation.usage]
    firsts = [one.first_token_seconds for one in generations if one.first_token_seconds is not None]
    outcomes = [generation.outcome for generation in generations]
    exchange.notes |= {
        "stream": stream,
        "outcome": next((one for one in ("error", "abort", None) if one in outcomes), outcomes[0]),
        "queue_seconds": round(max(generation.queue_seconds for generation in generations), 4),
        "first_token_seconds": round(min(firsts), 4) if firsts else None,
        "tokens_in": sum(usage.prompt_tokens for usage in usages) if usages else None,
        "tokens_out": sum(usage.completion_tokens for usage in usages) if usages else None,
    }
    if len(generations) > 1:
        exchange.notes["choices"] = len(generations)
