"""The walk-throughs' load tests: vLLM against transformers at 1, 2, 4, 16 and 32 requests at once, beside their articles' numbers.

.venv-vllm/bin/python benchmarks/walkthroughs.py [--rounds 3] [--tokens 32] [--width 512] [--quick] [--json FILE]

Each is a package under packager's runner with a small model of the walk-through's architecture, asked by `packager
bench`'s client. transformers stands there twice: one request at a time, as the articles had it, and with packager's
batching. Every engine computes with one thread; servers share one core, the client has another. Only one is asked at
a time; rounds are interleaved.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from measure import ROOT, BenchmarkError, describe, free_port, machine, table, write_rounds

sys.path.insert(0, str(ROOT / "tests"))

from fakes.models import Size, write_model
from fakes.packages import make_package

from packager.bench.client import Client, Target, run_load
from packager.bench.connection import Origin
from packager.bench.outcome import Outcome
from packager.bench.report import percentile
from packager.bench.workload import Question, random_questions

_START_SECONDS = 300.0
_SERVER_CORE, _CLIENT_CORE = 0, 1
_SLOTS, _CONTEXT = 32, 512
_MODEL = "hello"
_FEWEST = 4
"""Requests of one measurement; more where more are asked at once."""
NAIVE, BATCHED, VLLM = "transformers, one at a time", "transformers, packager's batching", "vLLM"
_ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TORCH_COMPILE_DISABLE": "1"}


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk-through. `claims` is what its article says of vLLM against transformers, by requests at once."""

    name: str
    shape: str
    concurrency: tuple[int, ...]
    claims: Mapping[int, str]


WALKS = (
    Walk(
        "Qwen1.5-1.8B-Chat",
        "qwen2",
        (1, 2, 4, 16, 32),
        {1: "throughput 2x, latency 1/2", 32: "throughput 6x, p95 a token -88 %"},
    ),
    Walk("Phi-2", "phi", (1,), {1: "tokens/s 1.95x, latency 1/2.25"}),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What one request is: words of its prompt, tokens of its answer."""

    words: int
    tokens: int


@dataclass(slots=True)
class Results:
    """One contestant at one number of requests at once, a value a round: tokens a second, the median answer's
    seconds, and the seconds a token (an answer's by its tokens) of the 95th percentile.
    """

    speed: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    token: list[float] = field(default_factory=list)


class Contestant:
    """A package under packager's runner, with an engine in the environment `python`."""

    def __init__(self, name: str, python: Path, package: Path, walk: Walk) -> None:
        self.name = name
        self.results = {each: Results() for each in walk.concurrency}
        self._log = package.with_suffix(".log")
        port = free_port()
        argv = [str(python), "-m", "packager_runtime.runtime", "serve", str(package), "--port", str(port)]
        own = {"PYTHONPATH": str(package / "packages"), "PACKAGER_CACHE": str(package.with_suffix(".cache"))}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(argv, env=os.environ | _ENV | own, stdout=log, stderr=log)
        self._url = f"http://127.0.0.1:{port}"
        whole = {"ignore_eos": True, "temperature": 0}
        self._target = Target(Origin.parse(self._url), "completions", _MODEL, extra=whole)

    def wait_ready(self) -> None:
        """Until it answers; then its processes get their core. Raises BenchmarkError."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} does not start: {self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        self.ask(random_questions(8, 8, 8, seed=0), 4)  # warm
        for one in self._family():
            for thread in Path(f"/proc/{one.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {_SERVER_CORE})

    def measure(self, load: Load, concurrency: int, seed: int) -> None:
        count = max(_FEWEST, concurrency)
        outcomes, seconds = self.ask(random_questions(count, load.words, load.tokens, seed), concurrency)
        tokens = sum(one.output_tokens or 0 for one in outcomes)
        if tokens != count * load.tokens:
            raise BenchmarkError(f"{self.name} gave {tokens} tokens: {[o.failure for o in outcomes if o.failure][:1]}")
        results = self.results[concurrency]
        results.speed.append(tokens / seconds)
        results.latency.append(statistics.median(one.latency for one in outcomes))
        results.token.append(percentile(sorted(one.latency / load.tokens for one in outcomes), 95))

    def ask(self, questions: Sequence[Question], concurrency: int) -> tuple[Sequence[Outcome], float]:
        """What became of the questions, and in how many seconds."""
        outcomes: list[Outcome] = []
        begun = time.perf_counter()
        due = [0.0] * len(questions)
        asyncio.run(run_load(Client(self._target), questions, due, concurrency, outcomes.append))
        return outcomes, time.perf_counter() - begun

    def stop(self) -> None:
        family = self._family()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for one in family:
            if one.is_running():
                one.kill()

    def _family(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            return []
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/readyz", trust_env=False, timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def contestants(work: Path, walk: Walk, size: Size) -> list[Contestant]:
    """The three of them with one model, started."""
    weights = write_model(work / f"{walk.shape}-weights", walk.shape, size=size, context_length=_CONTEXT)
    vllm = {"context_length": _CONTEXT, "dtype": "float32", "eager": True, "kv_cache_gib": 1, "prefix_caching": False}
    own = {"dtype": "float32", "threads": 1}
    found = []
    for name, engine, options, slots in (
        (NAIVE, "transformers", own, 1),
        (BATCHED, "transformers", own, _SLOTS),
        (VLLM, "vllm", vllm, _SLOTS),
    ):
        folder = work / f"{walk.shape}-{len(found)}"
        package = make_package(
            folder, engine=engine, options=options, weights=weights, max_concurrency=slots, max_queue=_SLOTS
        )
        found.append(Contestant(name, ROOT / f".venv-{engine}" / "bin/python", package, walk))
    return found


def run(walk: Walk, load: Load, size: Size, rounds: int) -> Mapping[str, Mapping[int, Results]]:
    """All rounds of one walk-through: results by contestant, then by requests at once."""
    with tempfile.TemporaryDirectory(prefix="packager-bench-") as name, ExitStack() as stack:
        found = contestants(Path(name), walk, size)
        for each in found:
            stack.callback(each.stop)
        for each in found:
            each.wait_ready()
        stack.enter_context(on_core(_CLIENT_CORE))
        for number in range(rounds):
            print(f"{walk.name}: round {number + 1} of {rounds}", file=sys.stderr)
            for concurrency in walk.concurrency:
                for each in found:
                    each.measure(load, concurrency, seed=1 + 100 * number + concurrency)
        return {each.name: each.results for each in found}


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this process on one core meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def report(walk: Walk, found: Mapping[str, Mapping[int, Results]]) -> str:
    """The table: how many times vLLM's throughput is the others', and what the article says."""
    rows = []
    for concurrency in walk.concurrency:
        naive, batched, vllm = (found[name][concurrency] for name in (NAIVE, BATCHED, VLLM))
        speeds = [statistics.median(each.speed) for each in (naive, batched, vllm)]
        less = statistics.median(one / other - 1 for one, other in zip(vllm.token, naive.token, strict=True))
        rows.append(
            [
                str(concurrency),
                _ratio(vllm.speed, naive.speed),
                _ratio(vllm.speed, batched.speed),
                _ratio(batched.speed, naive.speed),
                _ratio(vllm.latency, naive.latency),
                f"{less:+.0%}",
                ", ".join(f"{speed:.0f}" for speed in speeds),
                walk.claims.get(concurrency, ""),
            ]
        )
    head = ["at once", "vLLM of one at a time", "vLLM of packager's batching", "packager's batching of one at a time"]
    rest = ["an answer's time, vLLM of one at a time", "p95 a token", "tokens/s of the three", "the article"]
    return table([*head, *rest], rows)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The median of the rounds' ratios, with least and most."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=32, help="of one prompt")
    parser.add_argument("--tokens", type=int, default=32, help="of one answer")
    parser.add_argument("--width", type=int, default=512, help="of the model; its layers stay 12")
    parser.add_argument(
        "--quick", action="store_true", help="one round, with a model of two layers: to see that it runs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single round there")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    size = Size() if options.quick else Size(options.width, options.width * 11 // 4 // 32 * 32, 12)
    rounds = 1 if options.quick else options.rounds
    load = Load(options.words, options.tokens)
    facts = machine()
    results = {}
    for walk in WALKS:
        found = run(walk, load, size, rounds)
        print(f"\n{walk.name} ({walk.shape}, {size}): {load}, {rounds} rounds, medians (least-most)\n")
        print(report(walk, found), flush=True)
        results |= {
            f"{walk.name}: {name}, {number} at once": one for name, by in found.items() for number, one in by.items()
        }
    print(f"\nMachine: {describe(facts)}")
    if options.json:
        write_rounds(options.json, facts, results)


if __name__ == "__main__":
    main()
