"""How long an engine goes on after its stream was aborted: from `abort` to the stream's end, when its slot is free.

    .venv-ENGINE/bin/python benchmarks/aborts.py [--count 200]    # .venv for llama_cpp

Small models of the conformance suite, a slot's worth of other streams running beside. The budget is 100 ms at the 99th
percentile; what a large model adds is one step of its own.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/conformance")]

from asking import ask  # noqa: E402
from cases import CASES, SLOTS, Case  # noqa: E402

from packager.runtime.engine import Delta, Engine  # noqa: E402

PROMPT = "w " * 40


async def measure(case: Case, count: int) -> list[float]:
    """Milliseconds of each abort, half of them before the first token."""
    with tempfile.TemporaryDirectory() as folder:
        engine = case.open(Path(folder))
        await engine.start()
        beside = [asyncio.create_task(_run(engine, f"beside{number}")) for number in range(SLOTS - 1)]
        took: list[float] = []
        for number in itertools.count():
            if len(took) == count:
                break
            milliseconds, reason = await _abort(engine, f"r{number}", tokens=number % 2)
            took += [milliseconds] if reason == "abort" else []  # else the answer was quicker than we were
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await engine.stop()
    return took


async def _run(engine: Engine, name: str) -> None:
    """Streams without end."""
    while True:
        async for _ in engine.stream(ask(name, prompt=PROMPT, max_tokens=100)):
            pass


async def _abort(engine: Engine, name: str, *, tokens: int) -> tuple[float, str | None]:
    stream = engine.stream(ask(name, prompt=PROMPT, max_tokens=150))
    for _ in range(tokens):
        await anext(stream)
    rest = asyncio.create_task(_last(stream))
    await asyncio.sleep(0)  # the stream has begun
    begun = perf_counter()
    await engine.abort(name)
    reason = await rest
    return (perf_counter() - begun) * 1000, reason


async def _last(stream: AsyncIterator[Delta]) -> str | None:
    deltas = [delta async for delta in stream]
    return deltas[-1].finish_reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    print("| engine | aborts | median | 99th percentile | longest |\n|---|---|---|---|---|")
    for case in (case for case in CASES if case.whole and case.kind != "echo"):
        took = sorted(asyncio.run(measure(case, count)))
        high = took[min(count - 1, int(count * 0.99))]
        print(f"| {case.id} | {count} | {statistics.median(took):.1f} ms | {high:.1f} ms | {took[-1]:.1f} ms |")


if __name__ == "__main__":
    main()
