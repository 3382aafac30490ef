"""How long a build takes, against `docker build` of the same package with uv. What each row is: docs/explanation/benchmarks.md.

python benchmarks/build.py [--spec PATH] [--rounds 3] [--no-docker] [--json FILE]
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import (
    ROOT,
    Samples,
    append_line,
    copy_spec,
    describe,
    machine,
    measure,
    packager,
    packager_env,
    ratio,
    run,
    seconds,
    table,
    tree_size,
)
from peer import Engine, Registry, base_images, engine, registry, wheel_index

HELP_RUNS = 20
STEPS = {
    "cold": "cold build",
    "loaded": "cold build, until the Engine has the image",
    "first push": "first push to an empty registry",
    "same": "rebuild, nothing changed",
    "edited": "rebuild after a one-line edit",
    "pushed": "push after the edit",
}


@dataclass
class Side:
    """What one of the two spent on each step, and the bytes that its push after the edit added to the registry."""

    steps: dict[str, Samples] = field(default_factory=lambda: {step: Samples() for step in STEPS})
    pushed_bytes: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        steps = {step: samples.to_json() for step, samples in self.steps.items() if samples.runs}
        return {"steps": steps, "pushed_bytes": self.pushed_bytes}


class Ours:
    """`packager build`, with a store that has every wheel, Debian package and weights file."""

    def __init__(self, work: Path, spec: Path) -> None:
        self.side = Side()
        self.work = work
        self.spec = spec
        self.cache = work / "cache"
        self.env = packager_env(work, self.cache)
        self.dist = work / "dist"
        self._number = 0
        run(packager("build", spec, "--output", self.dist, "--no-docker", "--quiet"), env=self.env)

    @property
    def package(self) -> Path:
        """The package's folder."""
        return next(path.parent for path in self.dist.glob("*/files.sha256"))

    @property
    def layout(self) -> Path:
        """The image's folder."""
        return self.dist / f"{self.package.name}.oci"

    def forget(self) -> None:
        """Leave only what was fetched: no digest is remembered, nothing is built."""
        shutil.rmtree(self.cache / "memo", ignore_errors=True)
        shutil.rmtree(self.dist, ignore_errors=True)

    def build(self, step: str, source: Path, into: Engine | None = None) -> None:
        argv = packager("build", source, "--output", self.dist, "--quiet", "--docker" if into else "--no-docker")
        env = {**self.env, "DOCKER_HOST": into.host} if into else self.env
        self.side.steps[step].runs.append(measure(argv, env=env, others=into.cpu if into else None)[0])

    def edit(self) -> None:
        self._number += 1
        append_line(self.package / "service.py", self._number)
        self.build("edited", self.package)

    def push(self, step: str, to: Registry) -> None:
        before = tree_size(to.data)
        argv = packager("push", self.layout, "--to", f"{to.name}/bench/ours:1", "--quiet")
        self.side.steps[step].runs.append(measure(argv, env=self.env)[0])
        if step == "pushed":
            self.side.pushed_bytes.append(tree_size(to.data) - before)


class Docker:
    """`docker build` of the same package's own Dockerfile: uv, on the same base, wheels from an index on loopback."""

    def __init__(self, work: Path, ours: Ours, found: Engine, index: str) -> None:
        self.side = Side()
        self.engine = found
        self.context = work / "context"
        shutil.copytree(ours.package, self.context)
        arguments = {**base_images(found, ours.layout, work / "base"), "UV_DEFAULT_INDEX": index}
        self.arguments = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        self._number = 0

    def forget(self) -> None:
        self.engine("builder", "prune", "--all", "--force")

    def build(self, step: str, *more: str) -> None:
        argv = ["build", "--network", "host", *self.arguments, *more, "--tag", "packager-bench", str(self.context)]
        self.side.steps[step].runs.append(self.engine.measure(*argv))

    def edit(self) -> None:
        self._number += 1
        append_line(self.context / "service.py", self._number)
        self.build("edited")

    def push(self, step: str, to: Registry) -> None:
        name = f"{to.name}/bench/theirs:1"
        self.engine("tag", "packager-bench", name)
        before = tree_size(to.data)
        self.side.steps[step].runs.append(self.engine.measure("push", name))
        if step == "pushed":
            self.side.pushed_bytes.append(tree_size(to.data) - before)


def one_round(work: Path, ours: Ours, docker: Docker | None) -> str:
    """Each step once on both sides, one after the other; returns why a part was left out."""
    ours.forget()
    ours.build("cold", ours.spec)
    if docker is not None:
        docker.forget()
        docker.build("cold", "--no-cache")
        # What its build leaves is in the Engine already.
        docker.side.steps["loaded"].runs.append(docker.side.steps["cold"].runs[-1])
    with registry(work / "one") as one, registry(work / "two") as two:
        if isinstance(one, Registry) and isinstance(two, Registry):
            ours.push("first push", one)
            if docker is not None:
                docker.push("first push", two)
        ours.build("same", ours.spec)
        if docker is not None:
            docker.build("same")
        ours.edit()
        if docker is not None:
            docker.edit()
        if isinstance(one, Registry) and isinstance(two, Registry):
            ours.push("pushed", one)
            if docker is not None:
                docker.push("pushed", two)
        left_out = one if isinstance(one, str) else ""
    if docker is not None:
        ours.forget()
        ours.build("loaded", ours.spec, docker.engine)
        docker.engine("rmi", "--force", f"{ours.package.name}:latest")
    return left_out


def help_times(env: dict[str, str]) -> tuple[Samples, Samples]:
    """`packager --help` and `python -c pass`, in turn."""
    ours, bare = Samples(), Samples()
    measure(packager("--help"), env=env)  # writes bytecode
    for _ in range(HELP_RUNS):
        ours.runs.append(measure(packager("--help"), env=env)[0])
        bare.runs.append(measure([sys.executable, "-c", "pass"], env=env)[0])
    return ours, bare


def report(ours: Side, docker: Side | None) -> str:
    """The table: ratios first, then medians with their spread."""
    rows = []
    for step, title in STEPS.items():
        mine = ours.steps[step]
        theirs = docker.steps[step] if docker is not None else Samples()
        if not mine.runs:
            continue
        if not theirs.runs:
            rows.append([title, "", "", str(mine), ""])
            continue
        by_cpu = ratio(theirs.cpu(), mine.cpu())
        rows.append([title, ratio(theirs.wall(), mine.wall()), by_cpu, str(mine), str(theirs)])
    if ours.pushed_bytes:
        sent = statistics.median(ours.pushed_bytes)
        other = statistics.median(docker.pushed_bytes) if docker is not None and docker.pushed_bytes else None
        said = "" if other is None else f"{other:,.0f} bytes"
        rows.append(["stored by that push", ratio(other, sent), "", f"{sent:,.0f} bytes", said])
    return table(["step", "ratio by the clock", "ratio of CPU", "packager", "docker build + uv"], rows)


def wheels_of(package: Path, cache: Path) -> dict[str, tuple[str, Path]]:
    """The wheels of the package's lock: project and place of each, by file name."""
    sys.path.insert(0, str(ROOT))
    from packager.package.read import read_package
    from packager.store import Store

    return {wheel.file: (wheel.name, Store(cache).path(wheel.sha256)) for wheel in read_package(package).lock.wheels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--spec", type=Path, default=ROOT / "examples/hello", help="a packager.yaml or its folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-docker", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run there")
    options = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="packager-bench-") as name, ExitStack() as stack:
        work = Path(name)
        print("locking and fetching (not measured)", file=sys.stderr)
        ours = Ours(work, copy_spec(options.spec, work / "spec"))
        docker, missing = None, "asked to leave it out"
        found = missing if options.no_docker else stack.enter_context(engine(work))
        if isinstance(found, Engine):
            facts["docker"] = found.version()
            index = stack.enter_context(wheel_index(wheels_of(ours.package, ours.cache), work / "index"))
            docker = Docker(work, ours, found, index)
        else:
            missing = found
        left_out = ""
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            left_out = one_round(work, ours, docker)
        helps, bare = help_times(ours.env)
    print(f"`{options.spec.name}`, {options.rounds} rounds, medians (least-most)\n")
    print(report(ours.side, docker.side if docker else None))
    milliseconds = [seconds(samples.wall() * 1000) for samples in (helps, bare)]
    print(
        f"\n`packager --help`: {ratio(helps.wall(), bare.wall())} of `python -c pass`"
        f" ({milliseconds[0]} ms, {milliseconds[1]} ms; median of {HELP_RUNS})"
    )
    for reason in (f"The Docker column is left out: {missing}." if docker is None else "", left_out):
        if reason:
            print(f"\n{reason}")
    print(f"\nMachine: {describe(facts)}")
    if options.json:
        sides = {"packager": ours.side.to_json(), **({"docker": docker.side.to_json()} if docker else {})}
        extra = {"help": helps.to_json(), "python": bare.to_json()}
        options.json.write_text(json.dumps({"machine": facts, "spec": options.spec.name, **sides, **extra}, indent=1))


if __name__ == "__main__":
    main()
