"""The layers of a large closure (vLLM: some 200 wheels, 4 GB), made cold, against what no tool can do without.

    python benchmarks/vllm_image.py [--requirement vllm==0.32.0] [--store DIR] [--rounds 2] [--docker] [--json FILE]

Needs some 15 GB of disk, with --docker some 45 GB and minutes. What each row is: docs/explanation/benchmarks.md.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from measure import (
    ROOT,
    Samples,
    copy_spec,
    describe,
    machine,
    packager,
    packager_env,
    ratio,
    run,
    seconds,
    table,
    timed,
)
from peer import Engine, Registry, base_images, engine, registry, wheel_index

sys.path.insert(0, str(ROOT))
from packager.facts import BaseFacts
from packager.image.assemble import wheel_entries
from packager.image.layers import LayerRecipe, remembered_layer
from packager.image.plan import WheelsPlan
from packager.oci.content import DeflatedContent
from packager.oci.image import Image, ImageConfig, make_image
from packager.oci.layer import Layer
from packager.oci.layout import blobs_folder, read_layout, write_layout
from packager.oci.members import decompressor
from packager.oci.parallel import cores, run_parallel
from packager.oci.reference import parse_reference
from packager.oci.registry import push_image
from packager.oci.tar import Entry
from packager.package.read import read_package
from packager.store import Store
from packager.wheels.contest import Contest, find_contests
from packager.wheels.fetch import fetch_wheels
from packager.wheels.group import group_wheels
from packager.wheels.read import read_wheel
from packager.wheels.resolve import resolve_image
from packager.wheels.wheel import Wheel

FEED = 128 * 1024
STEPS = {
    "floor": "inflate + sha256 of the same bytes",
    "cold": "layers and layout, no digest remembered",
    "again": "layout, digests remembered",
    "same": "layout, nothing changed",
    "push": "push to an empty registry",
    "docker": "docker build + uv",
    "docker push": "docker push to an empty registry",
}


@dataclass(slots=True)
class Closure:
    """The wheels, where they lie, and the layers that they make."""

    facts: BaseFacts
    wheels: Sequence[Wheel]
    paths: Mapping[str, Path]
    contests: Sequence[Contest] = ()
    plans: Sequence[WheelsPlan] = ()
    files: int = 0
    unpacked: int = 0
    steps: dict[str, Samples] = field(default_factory=lambda: {step: Samples() for step in STEPS})

    @property
    def packed(self) -> int:
        """Bytes of all wheels."""
        return sum(wheel.size for wheel in self.wheels)


def plan(closure: Closure, engine_name: str) -> None:
    """Find contests and group the wheels into layers; fails where a winner does not lie above its losers."""
    installed = {wheel.name: read_wheel(closure.paths[wheel.sha256], closure.facts) for wheel in closure.wheels}
    closure.files = sum(len(files) for files in installed.values())
    sizes = (file.source for files in installed.values() for file in files)
    closure.unpacked = sum(len(one) if isinstance(one, bytes) else one.size for one in sizes)
    closure.contests = find_contests(installed)
    groups = group_wheels(closure.wheels, closure.contests, engine=engine_name)
    closure.plans = [WheelsPlan(group.title, group.wheels, closure.facts) for group in groups]
    height = {wheel.name: (n, m) for n, group in enumerate(groups) for m, wheel in enumerate(group.wheels)}
    for contest in closure.contests:
        if any(height[loser] > height[contest.winner] for loser in contest.losers):
            raise SystemExit(f"the winner {contest.winner} does not lie above its losers: {contest.path}")


def floor(entries: Sequence[Sequence[Entry]]) -> None:
    """Inflate every wheel's files and hash both forms, layer by layer, in as many threads as packager uses."""

    def one(layer: Sequence[Entry]) -> None:
        packed, unpacked = hashlib.sha256(), hashlib.sha256()
        for entry in layer:
            content = entry.content
            if not isinstance(content, DeflatedContent):
                for raw in content.raw() if content is not None else ():
                    packed.update(raw)
                    unpacked.update(raw)
                continue
            inflater = decompressor(-15)
            for chunk in _read(content):
                packed.update(chunk)
                unpacked.update(inflater.decompress(chunk))

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(one, entries))


def _read(content: DeflatedContent) -> Iterator[bytes]:
    with content.path.open("rb", buffering=0) as file:
        for start in range(0, content.compressed, FEED):
            yield os.pread(file.fileno(), min(FEED, content.compressed - start), content.offset + start)


def build(closure: Closure, store: Store, folder: Path, reuse: Path | None = None) -> Image:
    """What the pipeline does with wheels: each layer made once for its digests, the layout written."""
    recipes = [
        LayerRecipe(one.title, one.key(), wheel_entries(one, closure.paths), sum(wheel.size for wheel in one.wheels))
        for one in closure.plans
    ]
    blobs = blobs_folder(folder)

    def make(recipe: LayerRecipe, stop: Event) -> Layer:
        return remembered_layer(recipe, store, blobs=blobs, stop=stop)

    order = sorted(range(len(recipes)), key=lambda number: -recipes[number].about)
    made = dict(zip(order, run_parallel([partial(make, recipes[n]) for n in order], cores()), strict=True))
    image = make_image(ImageConfig("amd64"), [made[number] for number in range(len(recipes))])
    write_layout(image, folder, reuse=reuse)
    return image


def one_round(closure: Closure, work: Path, digests: set[str]) -> None:
    """The floor and our steps, once each, one after the other."""
    entries = [list(wheel_entries(one, closure.paths)()) for one in closure.plans]
    with timed(closure.steps["floor"]):
        floor(entries)
    del entries
    memo = Store(work / "memo")
    shutil.rmtree(memo.root, ignore_errors=True)
    with timed(closure.steps["cold"]):
        digests.add(build(closure, memo, work / "cold").manifest_digest)
    with timed(closure.steps["same"]):
        digests.add(build(closure, memo, work / "same", reuse=work / "cold").manifest_digest)
    shutil.rmtree(work / "same")
    with registry(work / "registry") as found:
        if isinstance(found, Registry):
            with timed(closure.steps["push"]):
                push_image(read_layout(work / "cold"), parse_reference(f"{found.name}/bench/vllm:1"))
    shutil.rmtree(work / "cold")
    with timed(closure.steps["again"]):
        digests.add(build(closure, memo, work / "again").manifest_digest)
    shutil.rmtree(work / "again")


def docker(closure: Closure, work: Path, package: Path) -> str:
    """One build of the package's own Dockerfile with these requirements, and its push; or why there is none."""
    with engine(work) as found:
        if not isinstance(found, Engine):
            return found
        context = work / "context"
        shutil.copytree(package, context)
        pins = (f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in closure.wheels)
        (context / "requirements.txt").write_text("".join(pins))
        files = {wheel.file: (wheel.name, closure.paths[wheel.sha256]) for wheel in closure.wheels}
        with wheel_index(files, work / "index") as index:
            arguments = {**base_images(found, package.with_suffix(".oci"), work / "base"), "UV_DEFAULT_INDEX": index}
            words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
            argv = ["build", "--network", "host", "--no-cache", *words, "--tag", "packager-bench-large", str(context)]
            closure.steps["docker"].runs.append(found.measure(*argv))
        with registry(work / "their-registry") as to:
            if isinstance(to, Registry):
                found("tag", "packager-bench-large", f"{to.name}/bench/vllm:1")
                closure.steps["docker push"].runs.append(found.measure("push", f"{to.name}/bench/vllm:1"))
                found("rmi", f"{to.name}/bench/vllm:1")
        found("rmi", "packager-bench-large")
        return f"docker {found.version()}"


def report(closure: Closure, digests: set[str]) -> str:
    """What the closure is, and the table: each step against the floor."""
    base = closure.steps["floor"]
    rows = [
        [title, ratio(samples.wall(), base.wall()), ratio(samples.cpu(), base.cpu()), str(samples)]
        for step, title in STEPS.items()
        if (samples := closure.steps[step]).runs
    ]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = [
        f"{len(closure.wheels)} wheels, {closure.packed / 1e9:.2f} GB",
        f"{closure.files:,} files, {closure.unpacked / 1e9:.2f} GB unpacked",
        f"{len(closure.plans)} layers, {len(digests)} manifest digest(s), at most {most:.0f} MB of memory\n",
        table(["step", "of the floor, clock", "of the floor, CPU", "seconds"], rows),
        f"\n{len(closure.contests)} contested paths, every winner above its losers:",
    ]
    pairs = Counter((contest.winner, contest.losers) for contest in closure.contests)
    said += [f"- {winner} over {', '.join(losers)}: {count}" for (winner, losers), count in sorted(pairs.items())]
    theirs, pushed = (closure.steps[step].runs for step in ("docker", "docker push"))
    if theirs:
        ours = closure.steps["cold"].wall()
        said.append(f"\nDocker's build takes {ratio(theirs[0].wall, ours)} of ours by the clock")
        if pushed and closure.steps["push"].runs:
            both = ours + closure.steps["push"].wall()
            said[-1] += f", build and push {ratio(theirs[0].wall + pushed[0].wall, both)}"
            said[-1] += f" ({seconds(theirs[0].wall + pushed[0].wall)} s, ours {seconds(both)} s)"
    return "\n".join(said)


def build_small(work: Path) -> Path:
    """The package of the echo example, its image beside it: they lend facts, base and Dockerfile."""
    spec = copy_spec(ROOT / "examples/echo", work / "spec")
    argv = packager("build", spec, "--output", work / "dist", "--no-docker", "--quiet")
    run(argv, env=packager_env(work, work / "cache"))
    return next(path.parent for path in (work / "dist").glob("*/files.sha256"))


def fetch(requirements: Sequence[str], facts: BaseFacts, store: Store) -> Closure:
    """The closure for a base with these facts, its wheels in `store`."""
    wheels = resolve_image(requirements, facts)
    print(f"fetching {len(wheels)} wheels, {sum(w.size for w in wheels) / 1e9:.2f} GB", file=sys.stderr)
    return Closure(facts, wheels, fetch_wheels(wheels, store, facts=facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requirement", action="append", help="default: vllm==0.32.0")
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the wheels there")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--docker", action="store_true", help="also docker build + uv and docker push, once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run there")
    options = parser.parse_args()
    options.requirement = options.requirement or ["vllm==0.32.0"]
    facts: dict[str, Any] = machine()
    digests: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="packager-bench-") as name:
        work = Path(name)
        package = build_small(work)
        store = Store(options.store or work / "store")
        closure = fetch(options.requirement, read_package(package).lock.facts, store)
        plan(closure, options.requirement[0].partition("=")[0])
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            one_round(closure, work, digests)
        said = docker(closure, work, package) if options.docker else "not asked for (--docker)"
    print(f"`{' '.join(options.requirement)}`, {options.rounds} rounds, medians (least-most)\n")
    print(report(closure, digests))
    print(f"\nDocker: {said}\n\nMachine: {describe(facts)}")
    if options.json:
        steps = {step: samples.to_json() for step, samples in closure.steps.items() if samples.runs}
        contests = [[c.path, c.winner, list(c.losers)] for c in closure.contests]
        options.json.write_text(json.dumps({"machine": facts, "steps": steps, "contests": contests}, indent=1))


if __name__ == "__main__":
    main()
