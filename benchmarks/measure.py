"""What the benchmarks share: measuring a command, medians, the facts of the machine, tables."""

import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class BenchmarkError(Exception):
    """A measured command failed; the text says which, and what it said."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one run cost: seconds by the clock, and seconds of processors (user and system), where that is known."""

    wall: float
    cpu: float | None


@dataclass(slots=True)
class Samples:
    """The runs of one step, over all rounds."""

    runs: list[Spent] = field(default_factory=list)

    def wall(self) -> float:
        """Median seconds by the clock."""
        return statistics.median(run.wall for run in self.runs)

    def cpu(self) -> float | None:
        """Median seconds of processors; None where it is not known."""
        known = [run.cpu for run in self.runs if run.cpu is not None]
        return statistics.median(known) if known else None

    def to_json(self) -> dict[str, list[float | None]]:
        """Every run, in order."""
        return {"wall": [run.wall for run in self.runs], "cpu": [run.cpu for run in self.runs]}

    def __str__(self) -> str:
        walls = [run.wall for run in self.runs]
        cpu = self.cpu()
        spread = f" ({seconds(min(walls))}-{seconds(max(walls))})" if len(walls) > 1 else ""
        return f"{seconds(self.wall())} s{spread}" + ("" if cpu is None else f", CPU {seconds(cpu)} s")


def seconds(value: float) -> str:
    """Three figures are more than a shared machine can repeat."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """The output of a command that is not measured. Raises BenchmarkError when it fails."""
    done = subprocess.run([str(a) for a in argv], env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(map(str, argv[:4]))} ...: {done.stderr.strip()[-2000:]}")
    return done.stdout


def measure(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    others: Callable[[], float | None] | None = None,
) -> tuple[Spent, str]:
    """Run a command; what it cost with all its children, and its output. Raises BenchmarkError when it fails.

    `others` tells the processor seconds that processes which work for the command (a daemon) have used so far,
    or None when that is not known; then this run's are not known either.
    """
    before = others() if others else 0.0
    start = time.perf_counter()
    # Output goes to files: reading pipes would be work of this process, in the middle of the measurement.
    out, err = os.memfd_create("out"), os.memfd_create("err")
    try:
        with subprocess.Popen([str(a) for a in argv], env=env, cwd=cwd, stdout=out, stderr=err) as process:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        after = others() if others else 0.0
        said, complaint = (os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace") for fd in (out, err))
    finally:
        os.close(out)
        os.close(err)
    if process.returncode != 0:
        raise BenchmarkError(f"{' '.join(map(str, argv[:4]))} ...: {complaint.strip()[-2000:]}")
    if before is None or after is None:
        return Spent(wall, None), said
    return Spent(wall, usage.ru_utime + usage.ru_stime + after - before), said


@contextmanager
def timed(samples: Samples) -> Iterator[None]:
    """Measure a block of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    samples.runs.append(Spent(time.perf_counter() - wall, time.process_time() - cpu))


def tree_cpu(pid: int) -> float:
    """Processor seconds of a process and all below it, ended ones too, as long as their parents waited for them."""
    parents, used = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        number = int(folder.name)
        parents[number] = int(fields[1])
        used[number] = sum(int(ticks) for ticks in fields[11:15])
    tree, size = {pid}, 0
    while len(tree) > size:
        size = len(tree)
        tree |= {child for child, parent in parents.items() if parent in tree}
    return sum(used.get(number, 0) for number in tree) / os.sysconf("SC_CLK_TCK")


def packager_env(work: Path, cache: Path) -> dict[str, str]:
    """The environment to run packager in: its own store, and bytecode kept, as where it is installed."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "PACKAGER_OFFLINE", "DOCKER_HOST")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PACKAGER_CACHE": str(cache), "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(work / "pyc")}


def packager(*argv: str | Path) -> list[str | Path]:
    """The command line of packager, by this interpreter."""
    return [sys.executable, "-m", "packager", *argv]


def machine() -> dict[str, Any]:
    """What a reader must know of the machine; no paths, no names of hosts."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model or platform.machine(),
        "memory_gb": round(pages / 1e9),
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}, Linux {platform.release()}",
        "python": platform.python_version(),
        "uv": run([_uv(), "--version"]).split()[1],
        "inflate": "isal" if _installed("isal") else "zlib",
        "load_1m": round(os.getloadavg()[0], 1),
    }


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_rounds(path: Path, facts: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write every single round there: of each contestant the lists that its results (a dataclass with slots) hold."""
    rounds = {name: {each: getattr(one, each) for each in one.__slots__} for name, one in results.items()}
    path.write_text(json.dumps({"machine": facts, "rounds": rounds}, indent=1))


def describe(facts: Mapping[str, Any]) -> str:
    """The facts in one line."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())


def ratio(theirs: float | None, ours: float | None) -> str:
    """How many times as much the other one is."""
    if theirs is None or ours is None:
        return ""
    if not ours:
        return "∞"
    times = theirs / ours
    return f"{times:.0f}x" if times >= 10 else f"{times:.1f}x" if times >= 1 else f"{times:.2g}x"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tree_size(folder: Path) -> int:
    """Bytes of all files below `folder`, each once however many names it has."""
    found = {(s.st_dev, s.st_ino): s.st_size for s in (p.lstat() for p in folder.rglob("*") if p.is_file())}
    return sum(found.values())


def append_line(path: Path, number: int) -> None:
    """The one-line edit: a comment at the end of a Python file, another one each time."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"# edit {number}\n")


def copy_spec(spec: Path, target: Path) -> Path:
    """The folder of the spec at `spec` (a file or a folder), copied, without what was built there."""
    source = spec if spec.is_dir() else spec.parent
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("dist", "safetensors", "__pycache__"))
    return target if spec.is_dir() else target / spec.name


def _uv() -> str:
    from uv import find_uv_bin

    return str(find_uv_bin())


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
