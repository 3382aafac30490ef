"""Record what vLLM's own `bench serve` makes of the same input: run with .venv-vllm, it writes vllm.json beside it.

`statistics`: a generated trace and what `calculate_metrics` says of it. `answers`: bytes of streams, with what
vLLM's request functions read from them over a real socket.
"""

import asyncio
import json
import random
from dataclasses import asdict
from pathlib import Path

import aiohttp
import vllm
from vllm.benchmarks.lib.endpoint_request_func import (
    RequestFuncInput,
    RequestFuncOutput,
    async_request_openai_chat_completions,
    async_request_openai_completions,
)
from vllm.benchmarks.serve import calculate_metrics

TARGET = Path(__file__).with_name("vllm.json")
PERCENTILES = [50.0, 90.0, 95.0, 99.0]
READ = ("success", "ttft", "itl", "latency", "output_tokens", "prompt_len", "start_time", "client_queue_time")
FUNCTIONS = {"completions": async_request_openai_completions, "chat": async_request_openai_chat_completions}


def trace(draw: random.Random) -> tuple[list[RequestFuncOutput], float]:
    """Requests of every kind: many tokens, one token, several tokens an event, failed ones, one without events."""
    outputs = []
    for number in range(40):
        gaps = [round(draw.expovariate(40), 5) for _ in range(draw.randrange(0, 60))]
        ttft = round(draw.uniform(0.01, 0.7), 5)
        outputs.append(
            RequestFuncOutput(
                success=number % 7 != 3,
                error="" if number % 7 != 3 else "it failed",
                generated_text="word",
                ttft=ttft,
                itl=gaps,
                latency=round(ttft + sum(gaps), 5),
                output_tokens=1 + len(gaps) * draw.choice([1, 1, 3]),
                prompt_len=draw.randrange(5, 2000),
                start_time=round(1000 + number * 0.11 + draw.random(), 5),
                client_queue_time=round(draw.random() / 10, 5),
            )
        )
    return outputs, 11.5


def statistics() -> dict:
    outputs, duration = trace(random.Random(3))
    metrics, lengths = calculate_metrics(outputs, outputs, duration, None, PERCENTILES, {})
    found = asdict(metrics)
    return {
        "trace": [{name: value for name, value in asdict(each).items() if name in READ} for each in outputs],
        "duration": duration,
        "metrics": {name: value for name, value in found.items() if not name.startswith("percentiles_")},
        "percentiles": {name: value for name, value in found.items() if name.startswith("percentiles_")},
        "output_lens": lengths,
    }


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def text(value: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": value, "finish_reason": finish}], "usage": None})


def chat(delta: dict, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}})
DONE = b"data: [DONE]\n\n"


def cases() -> dict[str, tuple[str, list[bytes]]]:
    whole = text("naïve ") + text("日本") + text("", "stop") + USAGE + DONE
    return {
        "an event a piece": ("completions", [text("a"), text(" b"), text("", "stop"), USAGE, DONE]),
        "events together": ("completions", [text("a") + text(" b"), text(" c") + text("", "stop") + USAGE + DONE]),
        "characters and events cut anywhere": ("completions", [whole[i : i + 3] for i in range(0, len(whole), 3)]),
        "several tokens an event": ("completions", [text("one two three"), text(" four five", "length"), USAGE, DONE]),
        "events without text": ("completions", [text(""), text("a"), text(""), text("b", "stop"), USAGE, DONE]),
        "no usage": ("completions", [text("a"), text("b", "stop"), DONE]),
        "comments between": ("completions", [b": ping\n\n", text("a"), b": ping\n\n", text("", "stop"), USAGE, DONE]),
        "a chat": (
            "chat",
            [
                chat({"role": "assistant", "content": ""}),
                chat({"content": "Hel"}),
                chat({"content": "lo"}) + chat({}, "stop"),
                USAGE,
                DONE,
            ],
        ),
        "an opening with the first token": (
            "chat",
            [chat({"role": "assistant", "content": ""}) + chat({"content": "x"}), chat({}, "stop"), USAGE, DONE],
        ),
    }


async def ask(api: str, pieces: list[bytes]) -> dict:
    """What vLLM reads when each piece is a chunk and a read of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.01)  # a read of its own
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = "chat/completions" if api == "chat" else api
    async with server, aiohttp.ClientSession() as session:
        question = RequestFuncInput("x", f"http://127.0.0.1:{port}/v1/{path}", 1, 5, "m")
        found = await FUNCTIONS[api](question, session)
    return {
        "success": found.success,
        "generated_text": found.generated_text,
        "gaps": len(found.itl),
        "output_tokens": found.output_tokens,
        "prompt_len": found.prompt_len,
    }


def main() -> None:
    answers = {
        name: {"api": api, "pieces": [piece.hex() for piece in pieces], "vllm": asyncio.run(ask(api, pieces))}
        for name, (api, pieces) in cases().items()
    }
    recorded = {"vllm": vllm.__version__, "statistics": statistics(), "answers": answers}
    TARGET.write_text(json.dumps(recorded, default=float) + "\n")


if __name__ == "__main__":
    main()
