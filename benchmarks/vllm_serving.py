"""What a server costs a real engine: vLLM behind packager's runner and behind its own server, against vLLM alone.

.venv-vllm/bin/python benchmarks/vllm_serving.py [--rounds 5] [--concurrency 16] [--json FILE]

Alone is the AsyncLLM that the adapter starts, with the same arguments, asked from its own process. The engine
computes with one thread on one core, as on a device of its own; the server's process and the client share the
other. A model of random weights, big enough that the engine works and not Python. The first token of one request
is asked of each in turn, on a connection of its own.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
from measure import ROOT, BenchmarkError, describe, free_port, machine, table, write_rounds
from serving_model import Shape, write_model

sys.path.insert(0, str(ROOT / "tests"))

from fakes.packages import make_package

from packager.bench.client import Client, Target, run_load
from packager.bench.connection import Origin
from packager.bench.outcome import Outcome
from packager.bench.workload import Question, random_questions
from packager.runtime.engine import EngineSetup
from packager.runtime.engines.vllm_options import Place, VllmOptions, engine_arguments

_PEERS = Path(__file__).resolve().parent / "serving_peers"
_START_SECONDS = 300.0
_ENGINE_CORE, _SERVER_CORE = 0, 1
_ALONE, _OURS, _THEIRS = "vLLM alone (AsyncLLM, in process)", "packager's runner", "vLLM's own server"
_MODEL = "hello"
_ENV = {
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""What the adapter sets, for all of them alike."""


@dataclass(frozen=True, slots=True)
class Load:
    """A round: `solo` requests one by one for their first token, then `requests` of `tokens` tokens, `concurrency` at once."""

    requests: int
    tokens: int
    concurrency: int
    words: int
    solo: int


@dataclass(slots=True)
class Results:
    """One contestant's rounds: tokens by the clock, first tokens alone and under load, seconds of processors a token."""

    speed: list[float] = field(default_factory=list)
    solo: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    engine_cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)


class Contestant:
    """A started process with an engine in it."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: IO[bytes]) -> None:
        self.name, self.results = name, Results()
        self._log = log.name
        self.process = subprocess.Popen(
            argv, env=os.environ | _ENV | dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        self._engine: psutil.Process

    def ask(self, questions: Sequence[Question], concurrency: int) -> tuple[Sequence[Outcome], float]:
        """What became of the questions, and in how many seconds."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def wait_ready(self) -> None:
        """Until it answers; then its processes get their cores. Raises BenchmarkError."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} does not start: {Path(self._log).read_text()[-3000:]}")
            time.sleep(0.2)
        self.ask(random_questions(8, 8, 16, seed=0), 4)
        parent = psutil.Process(self.process.pid)
        self._engine = max(parent.children(recursive=True), key=_cpu)
        _pin(parent.pid, _SERVER_CORE)
        _pin(self._engine.pid, _ENGINE_CORE)

    def one_round(self, load: Load, questions: Sequence[Question]) -> None:
        engine, server = _cpu(self._engine), self._others()
        outcomes, seconds = self.ask(questions, load.concurrency)
        tokens = sum(one.output_tokens or 0 for one in outcomes)
        if tokens != load.requests * load.tokens:
            raise BenchmarkError(f"{self.name} gave {tokens} tokens: {[o.failure for o in outcomes if o.failure][:1]}")
        self.results.speed.append(tokens / seconds)
        self.results.loaded += [one.ttft for one in outcomes]
        self.results.engine_cpu.append((_cpu(self._engine) - engine) / tokens)
        self.results.server_cpu.append((self._others() - server) / tokens)

    def _others(self) -> float:
        parent = psutil.Process(self.process.pid)
        return sum(_cpu(one) for one in [parent, *parent.children(recursive=True)] if one.pid != self._engine.pid)

    def stop(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for one in family:
            if one.is_running():
                one.kill()


class Alone(Contestant):
    """The engine in the process that asks it."""

    def is_ready(self) -> bool:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip() == b"ready"

    def ask(self, questions: Sequence[Question], concurrency: int) -> tuple[Sequence[Outcome], float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"questions": [(one.prompt, one.max_tokens) for one in questions], "concurrency": concurrency}
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith(b"result "):
            if not line:
                raise BenchmarkError(f"{self.name} ended: {Path(self._log).read_text()[-3000:]}")
        found = json.loads(line.removeprefix(b"result "))
        outcomes = [Outcome(number, **one) for number, one in enumerate(found["outcomes"])]
        return outcomes, found["seconds"]


class Served(Contestant):
    """The engine behind a server, asked through its OpenAI completions."""

    def __init__(self, port: int, *started: Any) -> None:
        super().__init__(*started)
        self._url = f"http://127.0.0.1:{port}"
        self._target = Target(
            Origin.parse(self._url), "completions", _MODEL, extra={"ignore_eos": True, "temperature": 0}
        )

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/v1/completions", trust_env=False).status_code == 405 and self._answers()
        except httpx.TransportError:
            return False

    def _answers(self) -> bool:
        return self.ask(random_questions(1, 4, 2, seed=0), 1)[0][0].failure is None

    def ask(self, questions: Sequence[Question], concurrency: int) -> tuple[Sequence[Outcome], float]:
        outcomes: list[Outcome] = []
        begun = time.perf_counter()
        due = [0.0] * len(questions)
        asyncio.run(run_load(Client(self._target), questions, due, concurrency, outcomes.append))
        return outcomes, time.perf_counter() - begun


def contestants(work: Path, weights: Path, context: int, slots: int) -> list[Contestant]:
    """All of them, started, the engine alone first."""
    options = {"context_length": context, "eager": True, "dtype": "float32"}
    setup = EngineSetup(_MODEL, "0", options, weights, slots)
    arguments = engine_arguments(setup, VllmOptions(**options), Place(cpu=True, quantized=False))
    package = make_package(
        work / "package", engine="vllm", options=options, weights=weights, max_concurrency=slots, max_queue=slots
    )
    ports = [free_port(), free_port()]
    runner = [sys.executable, "-m", "packager_runtime.runtime", "serve", str(package), "--port", str(ports[0])]
    own = {"PYTHONPATH": str(package / "packages"), "PACKAGER_CACHE": str(work / "cache")}
    api = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(ports[1])]
    logs = [(work / f"{number}.log").open("wb") for number in range(3)]
    return [
        Alone(_ALONE, [sys.executable, str(_PEERS / "alone.py"), json.dumps(arguments)], {}, logs[0]),
        Served(ports[0], _OURS, runner, own, logs[1]),
        Served(ports[1], _THEIRS, [*api, *_flags(arguments)], {}, logs[2]),
    ]


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """The same arguments as the flags of vLLM's server."""
    flags: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            flags += [f"--{flag}", str(value)]
    return flags


def report(found: Sequence[Contestant]) -> str:
    """The table: throughput as a ratio to the engine alone, and what the first token takes more."""
    alone = found[0].results
    rows = []
    for each in found:
        ratios = [one / other for one, other in zip(each.results.speed, alone.speed, strict=True)]
        rows.append(
            [
                each.name,
                f"{statistics.median(each.results.speed) / statistics.median(alone.speed):.3f}",
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})",
                f"{statistics.median(each.results.speed):.1f}",
                _more(each.results.solo, alone.solo),
                f"{statistics.median(each.results.loaded) * 1000:.0f} ms",
                f"{statistics.median(each.results.engine_cpu) * 1000:.2f} ms",
                f"{statistics.median(each.results.server_cpu) * 1000:.3f} ms",
            ]
        )
    head = ["server", "of alone", "rounds", "tokens/s", "first token of one request, more than alone"]
    return table([*head, "first token under load", "engine's CPU a token", "all other CPU a token"], rows)


def _more(values: Sequence[float], base: Sequence[float]) -> str:
    """The median, and that of what each is more than the base's next to it in time, with the quartiles of that."""
    more = [(one - other) * 1000 for one, other in zip(values, base, strict=True)]
    low, median, high = statistics.quantiles(more, n=4)
    return f"{statistics.median(values) * 1000:.1f} ms, {median:+.2f} ({low:+.2f} to {high:+.2f})"


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _pin(pid: int, core: int) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32, help="of one round")
    parser.add_argument("--tokens", type=int, default=32, help="of one answer")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--words", type=int, default=12, help="of one prompt")
    parser.add_argument("--solo", type=int, default=12, help="requests a round, one by one, for their first token")
    parser.add_argument("--width", type=int, default=1024, help="of the model; its layers stay 12")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single round there")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    load = Load(options.requests, options.tokens, options.concurrency, options.words, options.solo)
    shape = Shape(width=options.width, hidden=options.width * 11 // 4)
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="packager-bench-") as name, ExitStack() as stack:
        work = Path(name)
        parameters = write_model(work / "weights", shape)
        found = contestants(work, work / "weights", shape.context, options.concurrency)
        for each in found:
            stack.callback(each.stop)
        for each in found:
            each.wait_ready()
        os.sched_setaffinity(0, {_SERVER_CORE})
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for question in random_questions(load.solo, load.words, 2, seed=2 * number + 2):
                for each in found:
                    each.results.solo.append(each.ask([question], 1)[0][0].ttft)
            questions = random_questions(load.requests, load.words, load.tokens, seed=2 * number + 3)
            for each in found:
                each.one_round(load, questions)
        print(f"{load}, {parameters / 1e6:.0f} M parameters, {options.rounds} rounds, medians (least-most)\n")
        print(report(found))
    print(f"\nMachine: {describe(facts)}")
    if options.json:
        write_rounds(options.json, facts, {each.name: each.results for each in found})


if __name__ == "__main__":
    main()
