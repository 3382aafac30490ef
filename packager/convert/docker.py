"""The command that runs a conversion in the vendor's image. Pure."""

import posixpath
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from .. import environ
from ..spec.load import SpecFile
from ..weights.mirrors import mirrored
from .describe import Told
from .plan import ConvertPlan, conversion_of

_OWN = "/packager"
"""An environment above the image's: what packager needs must not replace what TensorRT-LLM needs (huggingface_hub)."""
_SETTINGS = (environ.WEIGHTS_MIRRORS, environ.HF_ENDPOINT, environ.HF_TOKEN, environ.HUGGING_FACE_HUB_TOKEN)
_S3 = (
    environ.AWS_ACCESS_KEY_ID,
    environ.AWS_SECRET_ACCESS_KEY,
    environ.AWS_SESSION_TOKEN,
    environ.AWS_DEFAULT_REGION,
    environ.AWS_ENDPOINT_URL_S3,
)
"""Not a profile: it stands in files of this machine."""


def docker_command(plan: ConvertPlan, file: SpecFile, store: Path, told: Told, mirrors: Mapping[str, str]) -> list[str]:
    """`docker run ...` as arguments: folders lie inside where they lie outside, so that every path means the same.

    Settings are handed on by name: Docker leaves out those that are not set. `told` is for engine.json, and its image, if
    it names one, the one to run; `mirrors` are those that the settings name.
    """
    asked = conversion_of(file)
    tokenizer = file.spec.weights.tokenizer if file.spec.weights else None
    named = [one for one in (asked.source, asked.merge and asked.merge.source, tokenizer) if one]
    sources = [mirrored(one, "", mirrors)[0] for one in named]
    local = [_folder(file, one) for one in sources if one.startswith("file://")]
    texts = plan.build.calibration.dataset if plan.build.calibration else ""
    local += [Path(texts)] if texts.startswith("/") else []
    in_store = any(one.startswith("s3://") for one in (*sources, plan.upload or ""))
    written = [store.absolute(), plan.output.parent]
    written += [_folder(file, plan.upload)] if plan.upload and plan.upload.startswith("file://") else []
    mounts = dict.fromkeys((file.folder, *local), ":ro") | dict.fromkeys(written, "")
    folders = [part for folder, how in mounts.items() for part in ("-v", f"{folder}:{folder}{how}")]
    shared = ["--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    settings = ["-e", f"{environ.CACHE.name}={store.absolute()}"]
    settings += [part for one in (*_SETTINGS, *(_S3 if in_store else ())) for part in ("-e", one.name)]
    extras, image = f"nvml{',s3' if in_store else ''}", told.image or plan.image
    script = " && ".join((
        f"python3 -m venv --system-site-packages --without-pip {_OWN}",
        f'python3 -m pip --python {_OWN}/bin/python install --quiet "llm-packager[{extras}]=={version("llm-packager")}"',
        shlex.join(_inner(plan, file, image, told.memory_mib)),
    ))  # fmt: skip
    gpus = ["--gpus", str(plan.gpus)]
    return ["docker", "run", "--rm", *gpus, *shared, *settings, *folders, image, "bash", "-c", script]


def _folder(file: SpecFile, address: str) -> Path:
    return Path(posixpath.normpath(file.folder / address.removeprefix("file://")))


def _inner(plan: ConvertPlan, file: SpecFile, image: str, memory_mib: int | None) -> list[str]:
    command = [f"{_OWN}/bin/packager", "convert", str(file.path), "--output", str(plan.output), "--image", image]
    command += [] if memory_mib is None else ["--gpu-memory", str(memory_mib)]
    return [*command, *(["--upload"] if plan.upload else [])]
