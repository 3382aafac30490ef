"""`packager init`: a spec to start from."""

import shlex
from pathlib import Path

import click
from pydantic_core import PydanticCustomError

from ..errors import OutputError, SpecError
from ..spec import SPEC_NAME
from ..spec.grammar import NAME
from ..spec.parse import parse_yaml
from .console import Console

_HEAD = """\
# What to package. All keys: `packager schema`, or docs/reference/spec.md.
name: {name}
description: One line about the model
"""

_LLAMA_CPP = """\
engine:
  kind: llama_cpp               # llama.cpp; reads GGUF files
  # context_length: 4096        # tokens of prompt and answer; default: what the model was trained for
  # threads: 4                  # default: physical cores, less one for the server
weights:
  source: file://model.gguf     # a file or folder; a relative path starts at this file's folder
  # chat_template: chat.jinja   # default: the one in the GGUF file
"""

_TRANSFORMERS = """\
engine:
  kind: transformers            # Hugging Face transformers; runs on CPU too
  # context_length: 4096        # tokens of prompt and answer; default: what the model was trained for
  # dtype: bfloat16             # default: the weights' own
weights:
  source: file://model          # a folder with config.json, *.safetensors and the tokenizer
  # tokenizer: hf://OWNER/NAME  # for weights that have none of their own
  # chat_template: chat.jinja   # default: the one in the weights
# quantization: nf4             # int8, int4 or nf4: made of plain weights when they are loaded
# hardware: {gpu: a100-40gb}    # default: none, then torch is built for CPU
"""

_VLLM = """\
engine:
  kind: vllm
  # context_length: 4096        # tokens of prompt and answer; default: what the model was trained for
  # gpu_memory: 0.9             # share of the GPU's memory that the engine may take
  # max_lora_rank: 16           # the largest rank among the adapters
weights:
  source: file://model          # a folder with config.json, *.safetensors and the tokenizer
  # tokenizer: hf://OWNER/NAME  # for weights that have none of their own
  # adapters: [{name: tuned, source: file://lora}]
  # chat_template: chat.jinja   # default: the one in the weights
# hardware: {gpu: a100-40gb}    # default: none, then a third party's build for CPU
"""

_TENSORRT_LLM_ENGINE = """\
engine:
  kind: tensorrt_llm_engine     # an engine that TensorRT-LLM 1.2.1 compiled for this GPU
  # context_length: 4096        # tokens of prompt and answer; default: what the engine was compiled for
weights:
  source: file://model          # config.json, rank0.engine, the tokenizer, and engine.json (`packager engine describe`)
  # tokenizer: hf://OWNER/NAME  # for an engine that has none beside it
  # chat_template: chat.jinja   # default: the one in the weights
hardware: {gpu: a100-40gb}      # the kind that compiled it
"""

_TENSORRT_LLM = """\
engine:
  kind: tensorrt_llm            # TensorRT-LLM's PyTorch engine
  # context_length: 4096        # tokens of prompt and answer; default: what the model was trained for
weights:
  source: file://model          # a folder with config.json, *.safetensors and the tokenizer
  # tokenizer: hf://OWNER/NAME  # for weights that have none of their own
  # chat_template: chat.jinja   # default: the one in the weights
hardware: {gpu: a100-40gb}
"""

_LMDEPLOY = """\
engine:
  kind: lmdeploy                # TurboMind; for models that it lacks: backend: pytorch
  # context_length: 4096        # tokens of prompt and answer; default: what the model was trained for
  # kv_cache: int8              # or int4: more requests fit, a little less exact
  # cache_share: 0.8            # share for the cache of the GPU's memory that the weights leave
weights:
  source: file://model          # a folder with config.json, *.safetensors and the tokenizer
  # tokenizer: hf://OWNER/NAME  # for weights that have none of their own
  # chat_template: chat.jinja   # default: the one in the weights
# quantization: awq             # awq or gptq, in groups of 128; must be what the weights' config.json says
hardware: {gpu: a100-40gb}      # it has no build for CPU
"""

_CTRANSLATE2 = """\
engine:
  kind: ctranslate2
  # context_length: 4096        # tokens of prompt and answer; default: 2048
  # compute_type: int8          # default: what the folder was converted to
weights:
  source: file://model          # what ct2-transformers-converter wrote, with tokenizer.json beside it
  # tokenizer: hf://OWNER/NAME  # for weights that have none of their own
  # chat_template: chat.jinja   # default: the one in the weights
"""

_ECHO = """\
engine:
  kind: echo                    # streams the prompt back: for trials without a model
"""

_FOLDER = "put the model's folder beside it as model/, then"

_TAIL = """\
serving:
  server: bentoml               # or standalone: packager's own server
  max_concurrency: 32           # requests that generate at the same time
  max_queue: 128                # requests that wait; more are answered 429
image:
  # repository: registry.example.com/team     # the image is REPOSITORY/NAME:TAG
  # tag: v1                                   # default: latest
  system_packages: []           # Debian packages to add
  python_packages: []           # Python requirements to add
"""

_IN_IMAGE = ("tensorrt_llm", "tensorrt_llm_engine")
_BASE = "  base: {kind: registry, image: nvcr.io/nvidia/tensorrt-llm/release:1.2.1}   # it holds the engine\n"
"""What engines need that a vendor's image alone has."""

ENGINES: dict[str, tuple[str, str]] = {
    "llama_cpp": (_LLAMA_CPP, "put model.gguf beside it, then"),
    "transformers": (_TRANSFORMERS, _FOLDER),
    "vllm": (_VLLM, _FOLDER),
    "tensorrt_llm": (_TENSORRT_LLM, _FOLDER),
    "tensorrt_llm_engine": (_TENSORRT_LLM_ENGINE, _FOLDER),
    "lmdeploy": (_LMDEPLOY, _FOLDER),
    "ctranslate2": (_CTRANSLATE2, _FOLDER),
    "echo": (_ECHO, "next:"),
}
"""Engine -> its part of the spec, and what to do before the first build."""


@click.command()
@click.argument("folder", metavar="NAME|FOLDER", type=click.Path(path_type=Path))
@click.option("--engine", type=click.Choice(list(ENGINES)), default="llama_cpp", show_default=True, help="The engine.")
@click.pass_obj
def command(console: Console, folder: Path, engine: str) -> None:
    """Write a commented spec to start from.

    It goes to FOLDER/packager.yaml; the folder's name becomes the model's. Nothing is overwritten.
    """
    name = _name(folder)
    part, first = ENGINES[engine]
    tail = _TAIL.replace("image:\n", f"image:\n{_BASE}") if engine in _IN_IMAGE else _TAIL
    text = "".join(one.replace("{name}", name) for one in (_HEAD, part, tail))
    path = folder / SPEC_NAME
    _write_new(path, text)
    console.result(str(path))
    console.say(f"{first} `packager build {shlex.quote(str(folder))}`")


def _name(folder: Path) -> str:
    """The model's name as YAML text. Raises SpecError when the folder's name does not do."""
    name = folder.absolute().name
    try:
        NAME.validate(name)
    except PydanticCustomError as error:
        mend = "choose another name for the folder; `name` in the spec may be changed later"
        raise SpecError(f"the name {(error.context or {})['what']}", where=str(folder), mend=mend) from error
    return name if isinstance(parse_yaml(name.encode()).value, str) else f'"{name}"'


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("x", encoding="utf-8", newline="\n")
        try:
            with file:
                file.write(text)
        except OSError:
            path.unlink()  # half of a spec would be in the way of the next try
            raise
    except FileExistsError as error:
        what = "there is a spec already" if path.is_file() else "a file is in the way"
        raise OutputError(what, where=str(path), mend="give another name, or remove it first") from error
    except OSError as error:
        what = f"cannot write: {(error.strerror or str(error)).lower()}"
        mend = "make room or give access there, or name another folder"
        raise OutputError(what, where=str(path), mend=mend) from error
