"""The command that runs a conversion in the vendor's image. Pure."""

import shlex
from pathlib import Path

from ..environ import CACHE, HF_TOKEN
from ..spec.load import SpecFile
from .plan import ConvertPlan, conversion_of

_OWN = "/packager"
_INSTALL = (
    f"python3 -m venv --system-site-packages --without-pip {_OWN}"
    f" && python3 -m pip --python {_OWN}/bin/python install --quiet 'llm-packager[nvml]'"
)
"""An environment above the image's: what packager needs must not replace what TensorRT-LLM needs (huggingface_hub)."""


def docker_command(plan: ConvertPlan, file: SpecFile, store: Path) -> list[str]:
    """`docker run ...` as arguments: folders lie inside where they lie outside, so that every path means the same."""
    inner = [f"{_OWN}/bin/packager", "convert", str(file.path), "--output", str(plan.output), "--image", plan.image]
    inner += ["--upload"] if plan.upload else []
    asked = conversion_of(file)
    sources = [asked.source, *([asked.merge.source] if asked.merge else [])]
    local = [file.folder / one.removeprefix("file://") for one in sources if one.startswith("file://")]
    mounts = dict.fromkeys((file.folder, *local), ":ro") | {store.absolute(): "", plan.output.parent: ""}
    folders = [part for folder, how in mounts.items() for part in ("-v", f"{folder}:{folder}{how}")]
    shared = ["--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    settings = ["-e", f"{CACHE.name}={store.absolute()}", "-e", HF_TOKEN.name]
    script = f"{_INSTALL} && {shlex.join(inner)}"
    return [
        "docker",
        "run",
        "--rm",
        "--gpus",
        str(plan.gpus),
        *shared,
        *settings,
        *folders,
        plan.image,
        "bash",
        "-c",
        script,
    ]
