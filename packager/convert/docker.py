"""The command that runs a conversion in the vendor's image. Pure."""

import shlex
from pathlib import Path

from .. import environ
from ..spec.load import SpecFile
from .plan import ConvertPlan, conversion_of

_OWN = "/packager"
"""An environment above the image's: what packager needs must not replace what TensorRT-LLM needs (huggingface_hub)."""
_HUB = (environ.HF_ENDPOINT, environ.HF_TOKEN)
_S3 = (
    environ.AWS_ACCESS_KEY_ID,
    environ.AWS_SECRET_ACCESS_KEY,
    environ.AWS_DEFAULT_REGION,
    environ.AWS_ENDPOINT_URL_S3,
)


def docker_command(plan: ConvertPlan, file: SpecFile, store: Path) -> list[str]:
    """`docker run ...` as arguments: folders lie inside where they lie outside, so that every path means the same.

    Settings are handed on by name: Docker leaves out those that are not set.
    """
    asked = conversion_of(file)
    sources = [asked.source, *([asked.merge.source] if asked.merge else [])]
    local = [file.folder / one.removeprefix("file://") for one in sources if one.startswith("file://")]
    texts = plan.build.calibration.dataset if plan.build.calibration else ""
    local += [Path(texts)] if texts.startswith("/") else []
    in_store = any(one.startswith("s3://") for one in (*sources, plan.upload or ""))
    mounts = dict.fromkeys((file.folder, *local), ":ro") | {store.absolute(): "", plan.output.parent: ""}
    folders = [part for folder, how in mounts.items() for part in ("-v", f"{folder}:{folder}{how}")]
    shared = ["--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    settings = ["-e", f"{environ.CACHE.name}={store.absolute()}"]
    settings += [part for one in (*_HUB, *(_S3 if in_store else ())) for part in ("-e", one.name)]
    script = " && ".join((
        f"python3 -m venv --system-site-packages --without-pip {_OWN}",
        f'python3 -m pip --python {_OWN}/bin/python install --quiet "llm-packager[nvml{",s3" if in_store else ""}]"',
        shlex.join(_inner(plan, file)),
    ))  # fmt: skip
    gpus = ["--gpus", str(plan.gpus)]
    return ["docker", "run", "--rm", *gpus, *shared, *settings, *folders, plan.image, "bash", "-c", script]


def _inner(plan: ConvertPlan, file: SpecFile) -> list[str]:
    command = [f"{_OWN}/bin/packager", "convert", str(file.path), "--output", str(plan.output), "--image", plan.image]
    return [*command, *(["--upload"] if plan.upload else [])]
