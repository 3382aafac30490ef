"""The loaders that loading.py compares: what each is given, and how it is started at its best settings."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from loading_files import FileSet
from measure import ROOT, BenchmarkError, run

from packager.manifest import EngineManifest, Manifest, ServingManifest, WeightsManifest

PEERS = Path(__file__).resolve().parent / "loading_peers"
BASE, OURS = "curl, one connection", "packager"
_VERSIONS = {"huggingface_hub": "2.4.0", "truss-transfer": "0.0.44"}
_TRUSS_MANIFEST = Path("/bptr")
"""The folder where truss-transfer looks for its manifest; nothing moves it."""
_YEAR_2100 = 4_102_444_800


@dataclass(frozen=True, slots=True)
class Job:
    """What to load: these files, below `origin`, into the empty folder `target`; `work` is for lists, and is not measured."""

    files: FileSet
    origin: str
    target: Path
    work: Path

    @property
    def address(self) -> str:
        return f"{self.origin}/{self.files.name}"


Command = Callable[[Job], Sequence[str | Path]]


@dataclass(frozen=True, slots=True)
class Loader:
    """How to start one. `command` writes what it needs into the job's work folder first.

    `checks` is what it compares of the bytes that came, `synced` whether they are on the disk when it ends, `again`
    whether it knows what it loaded before. `many` ones differ from another row only with several files.
    """

    name: str
    command: Command
    checks: str
    synced: bool = False
    again: bool = True
    many: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


def loaders(stack: ExitStack, work: Path, peers: Path | None) -> list[Loader]:
    """All that can run here, the base first; those that cannot are named on stderr, with the reason."""
    found = [
        Loader(BASE, _curl, "length", again=False),
        Loader("curl, 16 connections", _curl_parallel, "length", again=False, many=True),
        Loader("curl, then fsync", _after_curl(hashed=False), "length", synced=True, again=False),
        Loader("curl, then sha256 and fsync", _after_curl(hashed=True), "sha256", synced=True, again=False),
        *_aria2(),
        *_environment(stack, work, peers),
    ]
    ours = Loader(OURS, _ours(chunks=False), "sha256", synced=True, env={"PYTHONPATH": str(ROOT)})
    return [*found, ours, replace(ours, name=f"{OURS}, chunk digests known", command=_ours(chunks=True))]


def versions(peers: Sequence[Loader]) -> str:
    """Which peers were there."""
    curl = run(["curl", "--version"]).split()[1]
    aria2 = f", aria2 {run(['aria2c', '--version']).split()[2]}" if any("aria2" in each.name for each in peers) else ""
    python = [f", {name} {version}" for name, version in _VERSIONS.items() if any(name in p.name for p in peers)]
    return f"curl {curl}{aria2}{''.join(python)}"


def _curl(job: Job) -> list[str | Path]:
    lines = [f'url = "{job.address}/{file.path}"\noutput = "{job.target / file.path}"' for file in job.files.files]
    config = job.work / "curl"
    config.write_text("\n".join(lines))
    return ["curl", "--silent", "--show-error", "--fail", "--create-dirs", "--config", config]


def _curl_parallel(job: Job) -> list[str | Path]:
    return [*_curl(job), "--parallel", "--parallel-max", "16"]


def _after_curl(*, hashed: bool) -> Command:
    def command(job: Job) -> list[str | Path]:
        sums = job.work / "sums.json"
        sums.write_text(json.dumps({file.path: file.sha256 if hashed else "" for file in job.files.files}))
        curl = [shutil.which("curl") or "curl", *_curl(job)[1:]]
        return [sys.executable, "-I", PEERS / "after_curl.py", job.target, sums, *curl]

    return command


def _aria2() -> list[Loader]:
    if shutil.which("aria2c") is None:
        print("no aria2: left out, aria2c is not installed", file=sys.stderr)
        return []
    name = "aria2, 16 connections"
    return [
        Loader(name, lambda job: _aria2_command(job, checks=False), "length"),
        Loader(f"{name}, sha256 given", lambda job: _aria2_command(job, checks=True), "sha256"),
    ]


def _aria2_command(job: Job, *, checks: bool) -> list[str | Path]:
    lines = []
    for file in job.files.files:
        lines += [f"{job.address}/{file.path}", f"  out={file.path}"]
        lines += [f"  checksum=sha-256={file.sha256}"] if checks else []
    listing = job.work / "aria2"
    listing.write_text("\n".join(lines))
    quick = ["-x16", "-s16", "-j16", "--min-split-size=1M", "--file-allocation=none"]
    calm = ["--quiet", "--no-conf", "--enable-dht=false", "--continue=true", f"--check-integrity={str(checks).lower()}"]
    return ["aria2c", *quick, *calm, "--dir", job.target, "--input-file", listing]


def _environment(stack: ExitStack, work: Path, peers: Path | None) -> list[Loader]:
    """huggingface_hub and truss-transfer, in the environment `peers`, which is made if it is not there."""
    folder = peers or work / "peers"
    python = folder / "bin/python"
    try:
        if not python.exists():
            uv = [sys.executable, "-m", "uv"]
            run([*uv, "venv", "--quiet", "--python", sys.executable, folder])
            pins = [f"{name}=={version}" for name, version in _VERSIONS.items()]
            run([*uv, "pip", "install", "--quiet", "--python", python, *pins])
    except BenchmarkError as error:
        print(f"no huggingface_hub and no truss-transfer: {error}", file=sys.stderr)
        return []
    return [*_hub(python, work), *_truss(python, stack, work)]


def _hub(python: Path, work: Path) -> list[Loader]:
    quiet = {f"HF_HUB_DISABLE_{what}": "1" for what in ("PROGRESS_BARS", "TELEMETRY", "UPDATE_CHECK", "XET")}
    env = {**quiet, "HF_HOME": str(work / "hub")}

    def command(job: Job, workers: int) -> list[str | Path]:
        model = f"bench/{job.files.name}"
        return ["env", f"HF_ENDPOINT={job.origin}", python, PEERS / "hub.py", model, job.target, str(workers)]

    name = "huggingface_hub, HTTP"
    return [
        Loader(f"{name}, 8 workers", lambda job: command(job, 8), "length", env=env),
        Loader(f"{name}, 32 workers", lambda job: command(job, 32), "length", many=True, env=env),
    ]


def _truss(python: Path, stack: ExitStack, work: Path) -> list[Loader]:
    place = work / "bptr"
    place.mkdir()
    try:
        _TRUSS_MANIFEST.symlink_to(place)
    except OSError as error:
        print(
            f"no truss-transfer: {_TRUSS_MANIFEST}, where it looks, cannot be made ({error.strerror})", file=sys.stderr
        )
        return []
    stack.callback(_TRUSS_MANIFEST.unlink)

    def command(job: Job) -> list[str | Path]:
        pointers = [
            {
                "resolution": {"url": f"{job.address}/{file.path}", "expiration_timestamp": _YEAR_2100},
                "uid": file.sha256,
                "file_name": file.path,
                "hashtype": "sha256",
                "hash": file.sha256,
                "size": file.size,
            }
            for file in job.files.files
        ]
        (place / "bptr-manifest.json").write_text(json.dumps({"pointers": pointers, "models": None}))
        return [python, PEERS / "truss.py", job.target]

    env = {"TRUSS_TRANSFER_LOG": "warn"}
    few = {"TRUSS_TRANSFER_RANGE_DOWNLOAD_WORKERS_PER_FILE": "4", "TRUSS_TRANSFER_NUM_WORKERS": "32"}
    return [
        Loader("truss-transfer", command, "length", env=env),
        Loader("truss-transfer, 4 ranges, 32 files", command, "length", env={**env, **few}),
    ]


def _ours(*, chunks: bool) -> Command:
    def command(job: Job) -> list[str | Path]:
        files = job.files.files if chunks else tuple(replace(file, chunks="") for file in job.files.files)
        weights = WeightsManifest(source=f"{job.address}/", revision="", ship="on_load", entry=".", files=files)
        serving = ServingManifest("standalone", "packager", 0, 1, 0, 0)
        manifest = Manifest("bench", "0", EngineManifest("echo", "1", {}), weights, serving)
        package = job.work / f"package-{chunks}"
        (package / "model").mkdir(parents=True, exist_ok=True)
        (package / "model/manifest.json").write_bytes(manifest.to_bytes())
        return [sys.executable, PEERS / "ours.py", package, job.target]

    return command
