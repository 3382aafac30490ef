"""How long a verified load takes, against curl, aria2, huggingface_hub and truss-transfer. What each row is: docs/explanation/benchmarks.md.

python benchmarks/loading.py [--rounds 3] [--quick] [--folder DIR] [--peers DIR] [--only TEXT] [--json FILE]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loading_files import FileSet, make_sets, write_listing
from loading_loaders import BASE, Job, Loader, loaders, versions
from measure import ROOT, BenchmarkError, describe, machine, seconds, table, tree_size

_SERVER = Path(__file__).resolve().with_name("loading_server.py")
_SPAWN = Path(__file__).resolve().parent / "loading_peers/spawn.py"
_MEMORY = Path("/dev/shm")
_MB = 1_000_000
_ROOM = 3000 * _MB
_LIMIT = 25 * _MB
_MANY = 100
"""Files from which on a folder is kept to the end: ext4 without a journal looks long for inodes when many were deleted."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One table: a set of files, on a disk or in memory, from a server that limits each connection or not."""

    name: str
    files: str
    title: str
    limited: bool = False
    in_memory: bool = False
    again: bool = False
    """Whether a second load is measured too."""


SCENARIOS = (
    Scenario("one", "one", "one file", again=True),
    Scenario("shards", "shards", "eight shards", again=True),
    Scenario("small", "small", "small files", again=True),
    Scenario("limited", "part", "one file, each connection limited", limited=True),
    Scenario("memory", "one", "one file, into memory (tmpfs)", in_memory=True),
)
_WARM = Scenario("warm", "tiny", "not measured")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took: seconds by the clock and of processors, bytes of memory of its largest process."""

    wall: float
    cpu: float
    peak: int


@dataclass(slots=True)
class Results:
    """All rounds of one loader in one scenario: into an empty folder, and once more with everything there."""

    first: list[Cost] = field(default_factory=list)
    again: list[Cost] = field(default_factory=list)

    def add(self, first: Cost, again: Cost | None) -> None:
        self.first.append(first)
        self.again += [again] if again else []


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share."""

    loaders: Sequence[Loader]
    sets: Mapping[str, FileSet]
    origins: Mapping[bool, str]
    """Of the server that limits connections, and of the one that does not."""
    disk: Path
    memory: Path

    def runs_of(self, scenario: Scenario) -> list[Loader]:
        """The loaders that have a row there."""
        several = len(self.sets[scenario.files].files) > 1
        return [loader for loader in self.loaders if several or not loader.many]

    def run(self, scenario: Scenario, loader: Loader) -> tuple[Cost, Cost | None]:
        """One loader into an empty folder and, where it remembers, once more. Raises BenchmarkError."""
        target = (self.memory if scenario.in_memory else self.disk) / "target"
        job = Job(self.sets[scenario.files], self.origins[scenario.limited], target, self.disk)
        target.mkdir()
        try:
            command = loader.command(job)
            first = self._measure(loader, command)
            if (found := tree_size(target)) < job.files.size:
                raise BenchmarkError(f"{loader.name}: {found} bytes of {job.files.size} came")
            return first, self._measure(loader, command) if scenario.again and loader.again else None
        finally:
            if len(job.files.files) < _MANY:
                shutil.rmtree(target)
            else:
                target.rename(Path(tempfile.mkdtemp(prefix="kept-", dir=self.disk)) / "target")

    def _measure(self, loader: Loader, argv: Sequence[str | Path]) -> Cost:
        os.sync()  # what others wrote must not wait in this one's time
        program = shutil.which(argv[0]) or argv[0]
        spawn = [sys.executable, "-I", "-S", _SPAWN, program, *argv[1:]]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env = {**kept, "PYTHONPYCACHEPREFIX": str(self.disk / "pyc"), **loader.env}
        done = subprocess.run(spawn, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{loader.name}: {done.stderr.strip()[-2000:]}")
        wall, cpu, peak = done.stdout.split()
        return Cost(float(wall), float(cpu), int(peak))


def report(bench: Bench, scenario: Scenario, results: Mapping[str, Results]) -> str:
    """The scenario's tables, ratios first."""
    files = bench.sets[scenario.files]
    limit = f" to {_LIMIT / _MB:.0f} MB/s" if scenario.limited else ""
    title = f"### {scenario.title}{limit}: {len(files.files)} x {_amount(files)}"
    base = results[BASE].first
    rows, warm = [], []
    for loader in bench.runs_of(scenario):
        each = results[loader.name]
        kept = "yes" if loader.synced else "no"
        rows.append([loader.name, *_compared(each.first, base), loader.checks, kept])
        if each.again:
            warm.append([loader.name, *_compared(each.again, base)])
    head = ["loader", "of curl, clock", "rounds", "of curl, CPU", "clock", "CPU", "peak memory"]
    cold = table([*head, "checks", "fsync"], rows)
    again = f"\n\nOnce more, with everything there (of curl's first load):\n\n{table(head, warm)}" if warm else ""
    return f"{title}\n\n{cold}{again}"


def _compared(costs: Sequence[Cost], base: Sequence[Cost]) -> list[str]:
    """The columns that both tables have."""
    wall, cpu = ([getattr(one, name) for one in costs] for name in ("wall", "cpu"))
    ratios = [one.wall / other.wall for one, other in zip(costs, base, strict=True)]
    return [
        f"{statistics.median(wall) / statistics.median(one.wall for one in base):.2f}x",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
        f"{statistics.median(cpu) / statistics.median(one.cpu for one in base):.2f}x",
        f"{seconds(statistics.median(wall))} s ({seconds(min(wall))}-{seconds(max(wall))})",
        f"{seconds(statistics.median(cpu))} s",
        f"{max(one.peak for one in costs) / _MB:.0f} MB",
    ]


def _amount(files: FileSet) -> str:
    least, most = (pick(file.size for file in files.files) for pick in (min, max))
    return f"{most / _MB:.0f} MB" if least == most else f"{least / 1000:.0f}-{most / 1000:.0f} kB"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="smaller files, for a machine with little room")
    parser.add_argument("--quick", action="store_true", help="files of a hundredth, one round: does everything run?")
    parser.add_argument("--folder", type=Path, help="where files are served from and loaded to; default: this checkout")
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="keep the peers' environment there; default: made anew"
    )
    parser.add_argument("--only", default="", help="scenarios of these names, such as one,limited")
    parser.add_argument("--loaders", default="", help="loaders whose names hold this text, and curl")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run there")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    rounds = 1 if options.quick else options.rounds
    asked = options.only.split(",") if options.only else [each.name for each in SCENARIOS]
    chosen = [each for each in SCENARIOS if each.name in asked and _fits(each, options)]
    facts = machine()
    place = options.folder or ROOT / "dist"
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        bench = _prepare(stack, options, place, [_WARM, *chosen])
        for loader in bench.loaders:  # leaves bytecode behind, and tells early who does not run
            bench.run(_WARM, loader)
        results = {each.name: {loader.name: Results() for loader in bench.runs_of(each)} for each in chosen}
        for number in range(rounds):
            for each in chosen:
                print(f"round {number + 1} of {rounds}: {each.name}", file=sys.stderr)
                for loader in bench.runs_of(each):
                    results[each.name][loader.name].add(*bench.run(each, loader))
        print(f"{versions(bench.loaders)}; {rounds} rounds, medians (least-most)\n")
        for each in chosen:
            print(report(bench, each, results[each.name]), end="\n\n")
    print(f"Machine: {describe(facts)}")
    if options.json:
        plain = {name: {loader: asdict(one) for loader, one in each.items()} for name, each in results.items()}
        options.json.write_text(json.dumps({"machine": facts, "rounds": plain}, indent=1))


def _fits(scenario: Scenario, options: argparse.Namespace) -> bool:
    fits = not scenario.in_memory or options.quick or shutil.disk_usage(_MEMORY).free > _ROOM
    if not fits:
        print(f"{scenario.name}: left out, {_MEMORY} has less than {_ROOM / _MB:.0f} MB free", file=sys.stderr)
    return fits


def _prepare(stack: ExitStack, options: argparse.Namespace, place: Path, chosen: Sequence[Scenario]) -> Bench:
    """Files, servers and loaders, which go with `stack`."""
    disk, memory = (
        Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="packager-bench-", dir=folder)))
        for folder in (place, _MEMORY)
    )
    scale = 0.01 if options.quick else options.scale
    sets = make_sets(disk / "files", sorted({each.files for each in chosen}), scale)
    write_listing(disk / "listing.json", sets)
    found = loaders(stack, disk, options.peers)
    asked = [each for each in found if options.loaders in each.name or each.name == BASE]
    limits = {False: 0, True: _LIMIT}
    origins = {limited: _serve(stack, disk, limit) for limited, limit in limits.items()}
    return Bench(asked, sets, origins, disk, memory)


def _serve(stack: ExitStack, folder: Path, limit: int) -> str:
    """The origin of a server of its own, which ends with `stack`."""
    argv = [sys.executable, "-I", _SERVER, folder / "files", folder / "listing.json", "--limit", str(limit)]
    server = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    assert server.stdout is not None
    return f"http://127.0.0.1:{int(server.stdout.readline())}"


if __name__ == "__main__":
    main()
