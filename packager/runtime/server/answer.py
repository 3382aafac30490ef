"""Answering a parsed request: submit it, then events or one JSON answer, and what the log will say."""

from ..generation import Generation
from ..supervise import Supervisor
from .http import Exchange
from .sse import Reply, stream_events


async def answer(exchange: Exchange, supervisor: Supervisor, reply: Reply) -> None:
    """Answer `exchange` with what the engine makes of `reply`. Raises PackagerError before the answer has begun."""
    generation = supervisor.submit(reply.request)
    try:
        if reply.stream:
            await stream_events(exchange, generation, reply.shape)
        else:
            await _whole(exchange, generation, reply)
    finally:
        generation.abort()
        _note(exchange, generation, reply)


async def _whole(exchange: Exchange, generation: Generation, reply: Reply) -> None:
    async with exchange.watching(generation.abort):
        deltas = [delta async for delta in generation]
    if deltas[-1].finish_reason == "abort":
        await exchange.answer_nobody()
    else:
        await exchange.answer_json(200, reply.whole("".join(delta.text for delta in deltas), deltas[-1]))


def _note(exchange: Exchange, generation: Generation, reply: Reply) -> None:
    usage = generation.usage
    exchange.notes |= {
        "stream": reply.stream,
        "outcome": generation.outcome,
        "queue_seconds": round(generation.queue_seconds, 4),
        "tokens_in": usage.prompt_tokens if usage else None,
        "tokens_out": usage.completion_tokens if usage else None,
    }
