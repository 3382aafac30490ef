"""Pin requirements/*.in to name, version and sha256, without naming any index."""

import subprocess
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header",
    "--no-emit-index-url", "--no-emit-find-links", "--quiet", "--upgrade",
]  # fmt: skip
EXTRAS = ["--extra", "serve", "--extra", "bentoml", "--extra", "llama_cpp", "--extra", "s3", "--extra", "nvml"]


def main() -> None:
    pin("core", [])
    pin("dev", [*EXTRAS, "--constraint", "requirements/core.txt"])
    pin("truss", ["--extra", "serve", "--extra", "llama_cpp"])


def pin(name: str, more: list[str]) -> None:
    target = f"requirements/{name}.txt"
    argv = [find_uv_bin(), "pip", "compile", *FLAGS, *more, "pyproject.toml", f"requirements/{name}.in", "-o", target]
    subprocess.run(argv, cwd=ROOT, check=True)
    print(target)


if __name__ == "__main__":
    main()
