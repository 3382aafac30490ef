"""How well `packager bench` measures: against a server that writes into each event when it was sent.

Both processes read one clock (CLOCK_MONOTONIC), so what the client says of an event minus what the event says is
the client's error, with the way through the loopback in it. Server and client have a core each, before all others
where the system allows it (root). Beside it the same with httpx, which packager has anyway.
"""

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx
from measure import ROOT, describe, machine, table

sys.path.insert(0, str(ROOT))

from packager.bench.client import Client, Target, run_load
from packager.bench.connection import Origin
from packager.bench.report import percentile
from packager.bench.workload import Question

_SERVER_CORE, _CLIENT_CORE = 0, 1
_LOADS = ((1, 10.0), (16, 10.0), (64, 20.0), (64, 10.0))
"""Streams, and milliseconds between the events of each."""
Times = list[tuple[float, float]]
"""Of one stream: when each event was sent, and when the client says it came. Its first pair is the request's own."""


@dataclass(frozen=True, slots=True)
class Load:
    streams: int
    gap: float
    events: int


class Stamping:
    """Sends `max_tokens` events with the time in each, `gap` seconds apart; the request's own arrival is in the first."""

    def __init__(self, gap: float) -> None:
        self._gap = gap

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                count = json.loads(await reader.readexactly(int(length.partition(b":")[2])))["max_tokens"]
                await self._answer(writer, count)
        except asyncio.IncompleteReadError:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, count: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        due = time.perf_counter()
        for number in range(count):
            due += self._gap
            await asyncio.sleep(due - time.perf_counter())
            finish = '"length"' if number == count - 1 else "null"
            text = f'data: {{"choices":[{{"text":" {time.perf_counter():.9f}","finish_reason":{finish}}}]}}\n\n'
            writer.write(f"{len(text):x}\r\n{text}\r\n".encode())
        done = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))


async def serve(gap: float) -> None:
    server = await asyncio.start_server(Stamping(gap), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def take_core(core: int) -> None:
    os.sched_setaffinity(0, {core})
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


async def with_packager(port: int, load: Load) -> list[Times]:
    found: list[Times] = []
    client = Client(Target(Origin.parse(f"http://127.0.0.1:{port}"), "completions", "m"))
    outcomes: list = []
    questions = [Question("x", load.events)] * load.streams
    await run_load(client, questions, [0.0] * load.streams, None, outcomes.append)
    for each in outcomes:
        assert each.failure is None, each.failure
        came = itertools.accumulate(each.itl, initial=each.started + each.ttft)
        found.append(list(zip(map(float, each.text.split()), came, strict=True)))
    return found


async def with_httpx(port: int, load: Load) -> list[Times]:
    async def one(client: httpx.AsyncClient) -> Times:
        times: Times = []
        rest = b""
        body = {"prompt": "x", "max_tokens": load.events}
        async with client.stream("POST", f"http://127.0.0.1:{port}/", json=body) as response:
            async for piece in response.aiter_raw():
                at = time.perf_counter()
                *events, rest = (rest + piece).split(b"\n\n")
                tokens = [event for event in events if not event.endswith(b"[DONE]")]
                times += [(float(json.loads(event[6:])["choices"][0]["text"]), at) for event in tokens]
        return times

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as client:
        return list(await asyncio.gather(*(one(client) for _ in range(load.streams))))


Way = Callable[[int, Load], Coroutine[None, None, list[Times]]]
WAYS: dict[str, Way] = {"packager": with_packager, "httpx": with_httpx}


def measure(way: Way, load: Load) -> list[str]:
    """One row: the cost of an event, and how late events and how wrong gaps are, in milliseconds."""
    argv = [sys.executable, __file__, "--serve", str(load.gap)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        wall, cpu = time.perf_counter(), time.process_time()
        streams = asyncio.run(way(port, load))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        process.terminate()
    events = sum(map(len, streams))
    late = [(came - sent) * 1000 for times in streams for sent, came in times]
    wrong = [abs((b[1] - a[1]) - (b[0] - a[0])) * 1000 for times in streams for a, b in itertools.pairwise(times)]
    cost = f"{cpu / events * 1e6:.0f} us"
    return [f"{events / wall:,.0f}", cost, f"{cpu / wall:.0%}", *_spread(late), *_spread(wrong)]


def _spread(values: Sequence[float]) -> list[str]:
    ordered = sorted(values)
    return [f"{percentile(ordered, each):.2f}" for each in (50, 99, 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of one row")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        take_core(_SERVER_CORE)
        asyncio.run(serve(options.serve))
        return
    facts = machine()
    take_core(_CLIENT_CORE)
    rows = []
    for streams, gap in _LOADS:
        load = Load(streams, gap / 1000, round(options.seconds * 1000 / gap))
        rows += [[f"{streams} x {1000 / gap:.0f}/s", name, *measure(way, load)] for name, way in WAYS.items()]
    head = ["streams", "client", "events/s", "CPU an event", "busy"]
    spread = ["median", "p99", "most"]
    print(table([*head, *(f"late, {each}" for each in spread), *(f"gap off, {each}" for each in spread)], rows))
    print(f"\nMilliseconds. Machine: {describe(facts)}")


if __name__ == "__main__":
    main()
