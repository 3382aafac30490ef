"""The two files of a package that are prose or a program for others: README.md and Dockerfile.

Every value that reaches them passed the spec's grammar (no line breaks), and is quoted where it is free text.
"""

import json
import re

from ..lock.lockfile import Lock
from ..manifest import Manifest, WeightsManifest
from ..recipes import RECIPES
from ..spec.model import ModelSpec
from . import triton


def cpu_builds(lock: Lock) -> str:
    """`name==version` of what the requirements hold in a build without CUDA, which common indexes lack; else empty."""
    pins = (line.partition(" ")[0] for line in lock.requirements)
    return ", ".join(pin for pin in pins if pin.endswith("+cpu"))


def dockerfile(manifest: Manifest, lock: Lock) -> str:
    """A Dockerfile for people who build with Docker; it stands on the image that Dockerfile.base builds.

    uv comes from an image that holds it at /uv, as Astral publishes one; `Dockerfile.base` has a
    target that makes it too.
    """
    env = "".join(f"ENV {name}={_quoted(value)}\n" for name, value in sorted(manifest.image.env.items()))
    builds, arguments, options = cpu_builds(lock), "", ""
    if builds:
        arguments = f"# The index that has {builds}: --build-arg UV_INDEX=URL\nARG UV_INDEX\n"
        options = ' "--index-strategy", "unsafe-best-match",'  # what is taken is what has the hash
    return f"""\
# docker build -t {manifest.name} .
# BASE: docker build -f Dockerfile.base --target base -t packager-base .   UV: --target uv -t packager-uv
ARG BASE=packager-base
ARG UV=packager-uv
FROM ${{UV}} AS uv
FROM ${{BASE}}
USER 0
WORKDIR /app
COPY requirements.txt /app/requirements.txt
# Another index than uv's default: --build-arg UV_DEFAULT_INDEX=URL (it stays in the history: no secrets)
ARG UV_DEFAULT_INDEX
{arguments}RUN --mount=type=bind,from=uv,source=/uv,target=/uv \\
    ["/uv", "pip", "install", "--system", "--break-system-packages", "--no-cache",{options} "--require-hashes", "-r", "/app/requirements.txt"]
COPY . /app
ENV PYTHONPATH=/app/packages
{env}USER 65532
EXPOSE {" ".join(map(str, ports(manifest)))}
ENTRYPOINT {json.dumps(list(serve_command(manifest, "python3", "/app")))}
"""


def _quoted(value: str) -> str:
    """`value` as one word of a Dockerfile's ENV, where `$` would name a variable."""
    return '"' + re.sub(r'[\\"$]', r"\\\g<0>", value) + '"'


def serve_command(manifest: Manifest, interpreter: str, folder: str) -> tuple[str, ...]:
    """The command that serves the package at `folder` inside its image."""
    if manifest.serving.server == "triton":
        return triton.serve_command(manifest, interpreter, folder)
    anywhere = ("--host", "0.0.0.0", "--port", str(manifest.serving.port))  # noqa: S104  # a container listens to its network
    if manifest.serving.server == "bentoml":
        return (interpreter, "-m", "bentoml", "serve", folder, *anywhere)
    return (interpreter, "-m", "packager_runtime.runtime", "serve", folder, *anywhere)


def ports(manifest: Manifest) -> tuple[int, ...]:
    """TCP ports that the image listens on."""
    return triton.ports(manifest) if manifest.serving.server == "triton" else (manifest.serving.port,)


def system_packages(spec: ModelSpec) -> list[str]:
    """The Debian packages that the engine and the spec's author ask for, beside what every base has."""
    engine = RECIPES[spec.engine.kind].debian_packages(gpu=spec.hardware.gpu is not None)
    return sorted({*engine, *spec.image.system_packages})


_CREDENTIALS = {"hf": "HF_TOKEN", "s3": "AWS's usual variables and files", "https": "~/.netrc"}
"""Where each kind of source looks for a login, should it want one."""


def _loading(manifest: Manifest) -> str:
    """What a package needs that fetches its weights when it starts."""
    weights = manifest.weights
    if weights is None or weights.ship != "on_load":
        return ""
    tokenizer = manifest.tokenizer
    schemes = {one.source.partition("://")[0] for one in (weights, tokenizer) if one is not None}
    logins = " or ".join(_CREDENTIALS[scheme] for scheme in sorted(schemes & _CREDENTIALS.keys()))
    login = f"; a login, where one is needed: {logins}" if logins else ""
    origins = f"its weights from {_origin(weights)}"
    if tokenizer is not None:
        origins += f"\nand their tokenizer from {_origin(tokenizer)}"
    return f"""
When it starts it fetches {origins} into PACKAGER_CACHE,
verifies them, and finds them there the next time{login}. To fetch without starting:

    PYTHONPATH=packages python -m packager_runtime.fetch .
"""


def _origin(weights: WeightsManifest) -> str:
    return f"{weights.source} at {weights.revision}" if weights.revision else weights.source


_HERE = """\
Serve it here, with nothing but these requirements{any}:

    pip install --require-hashes -r requirements.txt
{bentoml}    PYTHONPATH=packages python -m packager_runtime.runtime serve .   # packager's own runner
"""
_BENTOML = "    bentoml serve                                                    # from inside this folder\n"

_TRITON = """\
Its image serves it with Triton Inference Server, which the base brings: `triton/` is the model repository. Where a
tritonserver is, whose Python has these requirements, the same is served here:

    pip install --require-hashes -r requirements.txt
    {command}
"""


def _asking(manifest: Manifest) -> str:
    at, name = f"localhost:{manifest.serving.port}", manifest.name
    if manifest.serving.server == "triton":
        return f"""\
    curl -N {at}/v2/models/{triton.models(manifest)[0]}/generate_stream \\
      -d '{triton.example(manifest)}'"""
    return f"""\
    curl -N {at}/v1/chat/completions -H 'content-type: application/json' \\
      -d '{{"model": "{name}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


def _serving(manifest: Manifest) -> str:
    """How the package is served outside its image."""
    if manifest.serving.server == "triton":
        start = "PYTHONPATH=packages python -m packager_runtime.runtime.server.triton_start . tritonserver"
        here = f"tritonserver --model-repository={triton.REPOSITORY}"
        return _TRITON.format(command=start if manifest.serving.triton == "ensemble" else here)
    hosted = manifest.serving.server == "bentoml"  # the others' requirements do not bring it
    return _HERE.format(any=" (any of)" if hosted else "", bentoml=_BENTOML if hosted else "")


def readme(spec: ModelSpec, manifest: Manifest, lock: Lock) -> str:
    """One screen: what this folder is and how to run it."""
    weights = manifest.weights
    system = " ".join(system_packages(spec))
    libraries = (
        f"\nOn Debian and Ubuntu that takes `apt-get install {system}`, too; the image has it.\n" if system else ""
    )
    builds = cpu_builds(lock)
    index = (
        f"\nCommon package indexes lack {builds}: point pip at PyTorch's CPU wheels first (PIP_EXTRA_INDEX_URL or\n"
        "PIP_FIND_LINKS).\n"
        if builds
        else ""
    )
    adapters = f" LoRA adapters, each by its name: {', '.join(manifest.adapters)}." if manifest.adapters else ""
    size = f"{sum(file.size for file in weights.files):,} bytes, {weights.ship}" if weights else "none"
    if manifest.tokenizer is not None:
        size += f"; their tokenizer from {manifest.tokenizer.source}"
    return f"""\
# {spec.name}

{spec.description or "A packaged model."}

Written by packager {manifest.packager}. Engine: {manifest.engine.kind} {manifest.engine.version}. Weights: {size}.{adapters}

{_serving(manifest)}{index}{libraries}{_loading(manifest)}
Ask it:

{_asking(manifest)}

The folder is at once a Truss, a Bento project and a Docker build context. `sha256sum --check files.sha256`
tells whether it is as it was written.
"""
