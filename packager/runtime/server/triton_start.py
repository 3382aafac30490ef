"""`python -m packager_runtime.runtime.server.triton_start PACKAGE tritonserver OPTION...`: weights, then Triton.

TensorRT-LLM's backend finds engine and tokenizer by the paths in its models' configuration. So the weights come first,
verified, then a model repository that is the package's with these paths, and then this process becomes Triton, whose
signals and exit status are its own. A failure before that exits 1, its reason is the log's last line.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...environ import cache_root
from ...errors import LoadError, PackagerError
from ...manifest import MANIFEST_PATH, Manifest, read_manifest
from ...store import Store
from ...weights.compiled import parse_build
from ...weights.leases import Leasing, names_of
from ...weights.load import ensure_weights
from ..load import take_lease
from ..loading import Loading, following
from ..logs import event, log_to_stderr
from ..machine import refuse_mismatch
from .keys import refuse_api_keys

CONFIG = "config.pbtxt"
ENGINE, TOKENIZER = "gpt_model_path", "tokenizer_dir"
PATHS: Mapping[str, tuple[str, ...]] = {
    "preprocessing": (TOKENIZER, ENGINE),
    "tensorrt_llm": (ENGINE, TOKENIZER),
    "postprocessing": (TOKENIZER,),
    "tensorrt_llm_bls": (TOKENIZER,),
}
"""The parameters of each model that are the folder of the weights, in which engine and tokenizer stand."""


def main(arguments: list[str] | None = None) -> int:
    """Become Triton; what is given back is the exit status of a failure before that."""
    parser = argparse.ArgumentParser(
        prog="packager_runtime.triton_start", description="Load the weights, start Triton."
    )
    parser.add_argument("package", type=Path, help="the package: the folder with model/manifest.json")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="tritonserver and its options")
    chosen = parser.parse_args(arguments)
    # The first process of a container has no default action for it; what was loaded so far stays.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    try:
        log_to_stderr(everything=True)
        command = prepare(chosen.package.absolute(), chosen.command)
        event("starting", command=" ".join(command))
        become(command)
    except PackagerError as error:
        mend = next((problem.mend for problem in error.problems if problem.mend), "")
        event("failed", logging.ERROR, reason=str(error), mend=mend)
    return 1


def prepare(package: Path, command: Sequence[str]) -> tuple[str, ...]:
    """Load the package's weights and give the command that starts Triton on them.

    The lease on them is held until the process that this one becomes has ended. Raises PackageError, MismatchError
    before anything is fetched, LoadError, FetchError or IntegrityError.
    """
    refuse_api_keys("Triton")
    manifest, store = read_manifest(package), Store(cache_root())
    if manifest.weights is None:
        raise LoadError("the package has no weights", where=MANIFEST_PATH, mend="build the package again")
    leasing = Leasing(store, manifest.name, names_of(manifest))
    take_lease(leasing, store)
    leasing.bequeath()
    loading = Loading()
    with following(loading):
        loading.phase("resolve")
        refuse_mismatch(manifest)
        weights = ensure_weights(manifest, package, store, watch=loading) / manifest.weights.entry
    repository = write_repository(package / "triton", weights, Path(tempfile.mkdtemp(prefix="packager-triton-")))
    return launch(manifest, command, repository)


def write_repository(models: Path, weights: Path, target: Path) -> Path:
    """The package's model repository with the paths of the weights, in the folder `target`, which is given back.

    Raises LoadError where a configuration has a variable of NVIDIA's templates that nobody filled in.
    """
    for model in sorted(path for path in models.iterdir() if path.is_dir()):
        config = (model / CONFIG).read_text("utf-8")
        config += "".join(_parameter(name, str(weights.absolute())) for name in PATHS.get(model.name, ()))
        for number, line in enumerate(config.splitlines(), 1):
            if "${" in line:
                what = f"a variable was not filled in: {line.strip()}"
                raise LoadError(what, where=f"{model / CONFIG}:{number}", mend="write its value there")
        folder = target / model.name
        folder.mkdir()
        (folder / CONFIG).write_text(config, "utf-8")
        if (model / "1").is_dir():
            (folder / "1").symlink_to(model / "1")
        else:
            (folder / "1").mkdir()  # Triton wants one of models without files, too
    return target


def _parameter(name: str, value: str) -> str:
    """One more parameter: in protobuf's text format an entry of a map may stand anywhere."""
    text = json.dumps(value, ensure_ascii=False)
    return f'parameters {{\n  key: "{name}"\n  value {{\n    string_value: {text}\n  }}\n}}\n'


def launch(manifest: Manifest, command: Sequence[str], repository: Path) -> tuple[str, ...]:
    """The command that serves the repository: Triton, or for an engine that is split one Triton for each part.

    So many processes are started as NVIDIA's launch_triton_server.py starts them: the first one serves, the others
    have the engine alone.
    """
    program, *options = command
    one = (program, f"--model-repository={repository}", *options)
    compiled = manifest.weights.compiled if manifest.weights else None
    ranks = parse_build(compiled).mapping.world_size if compiled else 1
    if ranks == 1:
        return one
    words = ["mpirun", "--allow-run-as-root"]
    for rank in range(ranks):
        words += [":"] if rank else []
        words += ["-n", "1", *one, f"--backend-config=python,shm-region-prefix-name=prefix{rank}_"]
        words += ["--model-control-mode=explicit", "--load-model=tensorrt_llm"] if rank else []
    return tuple(words)


def become(command: tuple[str, ...]) -> None:
    """Replace this process. Raises LoadError where the program is not there."""
    try:
        os.execvp(command[0], command)  # noqa: S606 -- no shell
    except OSError as error:
        what = f"{command[0]} cannot be started: {error.strerror}"
        raise LoadError(what, mend="build the image on a base that has Triton and TensorRT-LLM") from error


if __name__ == "__main__":
    sys.exit(main())
