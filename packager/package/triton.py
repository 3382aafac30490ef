"""What a package for Triton has more: a model repository, and the command that serves it. Pure.

`triton/NAME/config.pbtxt` and `triton/NAME/1/model.py` are a decoupled model of Triton's Python backend, with the inputs and
outputs that `runtime/server/triton.py` reads and gives.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..manifest import Manifest

REPOSITORY = "triton"
"""The folder of a package that `tritonserver --model-repository` takes."""

SHARED_MEMORY = 16 * 1024 * 1024
"""Bytes that Triton and the model's process share at first, and grow by: containers have 64 MiB unless told otherwise."""

_INPUTS: Mapping[str, str] = {
    "text_input": "TYPE_STRING",
    "stream": "TYPE_BOOL",
    "sampling_parameters": "TYPE_STRING",
    "exclude_input_in_output": "TYPE_BOOL",
    "return_finish_reason": "TYPE_BOOL",
    "return_num_input_tokens": "TYPE_BOOL",
    "return_num_output_tokens": "TYPE_BOOL",
}
_OUTPUTS: Mapping[str, str] = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "num_input_tokens": "TYPE_UINT32",
    "num_output_tokens": "TYPE_UINT32",
}

_MODEL = '''\
"""The model as Triton's Python backend loads it. The work is done by the runtime in packages/."""

import sys
from pathlib import Path

import triton_python_backend_utils

PACKAGE = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PACKAGE / "packages"))

from packager_runtime.runtime.server.triton_backend import PackagedModel  # noqa: E402


class TritonPythonModel(PackagedModel):
    """Triton makes it without arguments, then calls initialize, execute and finalize."""

    def __init__(self):
        super().__init__(PACKAGE, triton_python_backend_utils)
'''


class Word(str):
    """A value of an enum, which the text format of protobuf writes without quotes."""

    __slots__ = ()


def repository(manifest: Manifest) -> dict[str, bytes]:
    """The files of the model repository, by path in the package."""
    folder = f"{REPOSITORY}/{manifest.name}"
    return {
        f"{folder}/config.pbtxt": text_format(_config(manifest.name)).encode(),
        f"{folder}/1/model.py": _MODEL.encode(),
    }


def ports(manifest: Manifest) -> tuple[int, ...]:
    """TCP ports of HTTP, gRPC and the metrics."""
    first = manifest.serving.port
    return (first, first + 1, first + 2)


def serve_command(manifest: Manifest, folder: str) -> tuple[str, ...]:
    """The command that serves the package at `folder` in an image that has Triton.

    Models cannot be loaded over the network: who can do that can bring code along. Of an option that is given twice
    Triton takes the last one, so arguments to the container change what is here.
    """
    http, grpc, metrics = ports(manifest)
    return (
        "tritonserver",
        f"--model-repository={folder}/{REPOSITORY}",
        "--disable-auto-complete-config",  # ours is complete; it would start the model's process once more
        "--model-control-mode=none",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        f"--exit-timeout-secs={manifest.serving.drain_seconds}",
        f"--backend-config=python,shm-default-byte-size={SHARED_MEMORY}",
        f"--backend-config=python,shm-growth-byte-size={SHARED_MEMORY}",
    )


def _config(name: str) -> Mapping[str, Any]:
    def tensors(table: Mapping[str, str]) -> list[dict[str, Any]]:
        return [{"name": tensor, "data_type": Word(kind), "dims": [1]} for tensor, kind in table.items()]

    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": [one | {"optional": one["name"] != "text_input"} for one in tensors(_INPUTS)],
        "output": tensors(_OUTPUTS),
        # The engine chooses its devices; Triton starts one process and puts it on none.
        "instance_group": [{"count": 1, "kind": Word("KIND_MODEL")}],
    }


def text_format(message: Mapping[str, Any]) -> str:
    """A message of plain values in protobuf's text format; a list is a repeated field."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(one))
                yield "}"
            else:
                # JSON's escapes of strings are among the text format's, its numbers and booleans are the same.
                yield f"{name}: {one if isinstance(one, Word) else json.dumps(one, ensure_ascii=False)}"
