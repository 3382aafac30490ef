"""What a streamed token costs the server: packager against BentoML's own streaming API, Truss's server and FastAPI.

All servers stream the same mock engine in their own process (packager's echo, without delay), pinned to one core;
the client has another one. A server's cost is the processor time of its process tree, so a busy machine disturbs
it less than the clock. The rounds are interleaved; the ratios compare medians of one run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measure import BenchmarkError, describe, free_port, machine, ratio, table, tree_cpu, write_rounds
from serving_servers import BASE, CEILING, LEAST, Server, servers
from streams import Ran, StreamError, first_tokens, request, run_streams

_START_SECONDS = 120.0
_SERVER_CORE, _CLIENT_CORE = 0, 1
_SOLO_TOKENS = 4
"""Of an answer whose first token is timed: what comes after it would keep the client busy."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the client asks for."""

    streams: int
    tokens: int
    seconds: float
    solo: int


@dataclass(slots=True)
class Results:
    """One server's rounds: tokens a second of one core, by the clock, how busy the client was; first tokens, seconds."""

    per_core: list[float] = field(default_factory=list)
    by_clock: list[float] = field(default_factory=list)
    client_busy: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


class Running:
    """A started server, pinned to its core."""

    def __init__(self, server: Server, work: Path, load: Load) -> None:
        self.server, self.load, self.results = server, load, Results()
        self.events, self.solo_events = load.tokens + server.extra, _SOLO_TOKENS + server.extra
        self.port = free_port()
        self.question, self.solo_question = self._question(load.tokens), self._question(_SOLO_TOKENS)
        self._log = work / f"{self.port}.log"
        argv = [part.format(port=self.port, events=self.events) for part in server.argv]
        own = {"PACKAGER_CACHE": str(work / "cache"), "BENTOML_DO_NOT_TRACK": "true"}
        own |= {name: value.format(port=self.port) for name, value in server.env.items()}
        with self._log.open("wb") as log, pinned(_SERVER_CORE):
            self.process = subprocess.Popen(argv, cwd=server.cwd, env=os.environ | own, stdout=log, stderr=log)

    def _question(self, tokens: int) -> bytes:
        body = {"prompt": " ".join(["word"] * tokens), **self.server.body}
        return request(self.server.path, json.dumps(body).encode())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def wait_ready(self) -> None:
        """Until a first stream is right. Raises BenchmarkError."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                first_tokens(self.port, self.question, self.events, 1)
                return
            except (OSError, StreamError) as error:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    said = self._log.read_text(errors="replace")[-2000:]
                    raise BenchmarkError(f"{self.server.name}: {error!r}\n{said}") from error
                time.sleep(0.2)

    def one_round(self) -> None:
        if self.server.name != CEILING:
            self.results.first += first_tokens(self.port, self.solo_question, self.solo_events, self.load.solo)
        before = tree_cpu(self.process.pid)
        ran = run_streams(self.port, self.question, self.events, self.load.streams, self.load.seconds)
        self._note(ran, tree_cpu(self.process.pid) - before)

    def _note(self, ran: Ran, cpu: float) -> None:
        tokens = ran.answers * self.load.tokens
        self.results.per_core.append(tokens / cpu)
        self.results.by_clock.append(tokens / ran.wall)
        self.results.client_busy.append(ran.cpu / ran.wall)


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run this process, and what it starts meanwhile, on one core."""
    cores = sorted(os.sched_getaffinity(0) | {_SERVER_CORE, _CLIENT_CORE})
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(cores))


def report(runs: Sequence[Running]) -> str:
    """The table, ratios first."""
    by_name = {each.server.name: each.results for each in runs}
    base, least = by_name[BASE], by_name[LEAST]
    rows = []
    for name, results in by_name.items():
        median = statistics.median(results.per_core)
        added = _milliseconds(results.first, least.first)
        rows.append(
            [
                name,
                ratio(median, statistics.median(base.per_core)),
                _spread([one / other for one, other in zip(results.per_core, base.per_core, strict=True)], ".1f"),
                f"{_spread([each / 1000 for each in results.per_core], '.0f')} k",
                added,
                f"{statistics.median(results.by_clock) / 1000:.0f} k",
                f"{statistics.median(results.client_busy):.0%}",
            ]
        )
    head = ["server", "ratio", "ratios of rounds", "tokens/s/core", "first token", "tokens/s by clock", "client busy"]
    return table(head, rows)


def _milliseconds(first: Sequence[float], least: Sequence[float]) -> str:
    """What the first token took more, in the median and in the quicker tenth, which others on the machine disturb less."""
    if not first:
        return ""
    median, tenth = ((_quantile(first, n) - _quantile(least, n)) * 1000 for n in (5, 1))
    return f"{median:+.2f} ms ({tenth:+.2f})"


def _quantile(values: Sequence[float], tenths: int) -> float:
    return statistics.quantiles(values, n=10)[tenths - 1]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256, help="of one answer")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one server in one round")
    parser.add_argument("--solo", type=int, default=50, help="answers a round, alone, for the time to the first token")
    parser.add_argument("--only", default="", help="servers whose names hold this text, and those they are compared to")
    parser.add_argument("--no-environment", action="store_true", help="leave out Truss and FastAPI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single round there")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed")
    load = Load(options.streams, options.tokens, options.seconds, options.solo)
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="packager-bench-") as name, ExitStack() as stack:
        work = Path(name)
        runs = []
        for server in servers(work, load.streams, environment=not options.no_environment):
            if options.only in server.name or server.name in (BASE, LEAST):
                runs.append(Running(server, work, load))
                stack.callback(runs[-1].stop)
        stack.enter_context(pinned(_CLIENT_CORE))
        for each in runs:
            each.wait_ready()
            run_streams(each.port, each.question, each.events, load.streams, 0.5)  # warm
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for each in runs:
                each.one_round()
    print(f"{load.streams} streams of {load.tokens} tokens, {options.rounds} rounds, medians (least-most)\n")
    print(report(runs))
    print(f"\nMachine: {describe(facts)}")
    if options.json:
        write_rounds(options.json, facts, {each.server.name: each.results for each in runs})


if __name__ == "__main__":
    main()
