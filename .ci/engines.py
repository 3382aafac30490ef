"""Make the engines' environments, and run the conformance suite and the adapters' own tests in each.

    python .ci/engines.py make|test [ENGINE ...]

One environment per engine, `.venv-ENGINE`: their pins conflict. PyTorch's CPU build is on no index: it comes from
where pip's `find-links` (or `extra-index-url`) points, which uv is told. `.venv-triton` holds no engine but a
tritonserver: the tests of `make test` start it.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements" / "engines"
ENGINES = ("transformers", "vllm", "ctranslate2")
ENVIRONMENTS = (*ENGINES, "triton")
OTHERS = {"transformers": ("tests/unit/convert/test_convert_merge.py",)}
"""Tests that need what only this engine's environment has."""
HANGING = ("-o", "faulthandler_timeout=1200", "-o", "faulthandler_exit_on_timeout=true")
"""As in the Makefile: a test that hangs ends the run, and shows where."""
UV = str(ROOT / ".venv/bin/uv")


def main(command: str, chosen: tuple[str, ...]) -> int:
    actions = {"make": make, "test": test, "pin": pin}
    return max(actions[command](engine) for engine in chosen or (ENGINES if command == "test" else ENVIRONMENTS))


def make(engine: str) -> int:
    python, stamp = python_of(engine), ROOT / f".venv-{engine}" / ".ready"
    requirements = FOLDER / f"{engine}.txt"
    want = hashlib.sha256(requirements.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == want:
        return 0
    say(f"setting up .venv-{engine} with requirements/engines/{requirements.name}")
    own = str(ROOT / ".venv/bin/python")
    run(UV, "venv", "--quiet", "--clear", "--python", own, str(python.parent.parent))
    install = [UV, "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    run(*install, "--require-hashes", "-r", str(requirements), *find_links())
    run(*install, "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(want)
    return 0


def test(engine: str) -> int:
    if not python_of(engine).exists():
        say(f"{engine}: conformance not run here: there is no .venv-{engine} (`make engines` sets it up)")
        return int(os.environ.get("PACKAGER_TEST_STRICT") == "1")
    say(f"{engine}: conformance in .venv-{engine}")
    env = os.environ | {"PACKAGER_TEST_ENGINE": engine, "TOKENIZERS_PARALLELISM": "false"}
    # Warnings of the engines' own libraries are theirs.
    argv = [
        str(python_of(engine)),
        "-m",
        "pytest",
        "tests/conformance",
        "tests/unit/runtime/engines",
        *OTHERS.get(engine, ()),
        "-o",
        "filterwarnings=default",
        "-p",
        "no:warnings",
        *HANGING,
    ]
    return int(subprocess.run(argv, cwd=ROOT, env=env, check=False).returncode != 0)


def pin(engine: str) -> int:
    """Pin requirements/engines/ENGINE.in to name, version and sha256, without naming any index."""
    flags = ["--quiet", "--upgrade", "--generate-hashes", "--no-annotate", "--no-header"]
    flags += ["--no-emit-index-url", "--no-emit-find-links"]
    flags += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_36", "--extra", "serve"]
    overrides = FOLDER / f"{engine}.overrides"
    flags += ["--overrides", str(overrides)] if overrides.exists() else []
    sources = ["pyproject.toml", str(FOLDER / f"{engine}.in")]
    run(UV, "pip", "compile", *flags, *find_links(), *sources, "--output-file", str(FOLDER / f"{engine}.txt"))
    return 0


def python_of(engine: str) -> Path:
    return ROOT / f".venv-{engine}" / "bin" / "python"


def find_links() -> list[str]:
    """What pip is configured with, which uv does not read."""
    found = os.environ.get("PIP_FIND_LINKS", "").split()
    return [part for place in found for part in ("--find-links", place)]


def run(*argv: str) -> None:
    if subprocess.run(argv, cwd=ROOT, check=False).returncode:
        sys.exit(
            "cannot set the environment up; if torch was not found: its CPU build is where pip's find-links must point"
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], tuple(sys.argv[2:])))
