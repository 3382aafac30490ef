"""Where the stand-ins for libraries lie that need a GPU, and folders of weights that they open.

with importable():
    engine = open_engine("lmdeploy", make_setup(write_letters(folder, 256)))
"""

import json
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakes import compiled, models

VENDOR = Path(__file__).parent / "vendor"


@contextmanager
def importable() -> Iterator[None]:
    """While it lasts a stand-in can be imported; what was imported stays."""
    sys.path.insert(0, str(VENDOR))
    try:
        yield
    finally:
        sys.path.remove(str(VENDOR))


def write_letters(folder: Path, context_length: int) -> Path:
    """Weights for LMDeploy's stand-in, whose tokens are bytes."""
    _write_checkpoint(folder, context_length)
    template = "{% for message in messages %}{{ message.content }}\n{% endfor %}:"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def write_hello(folder: Path, context_length: int) -> Path:
    """A checkpoint for TensorRT-LLM's stand-in, with hello's tokenizer."""
    _write_checkpoint(folder, context_length)
    return _with_tokenizer(folder)


def write_compiled(folder: Path) -> Path:
    """A compiled engine for TensorRT-LLM's stand-in, for up to 4096 tokens, with hello's tokenizer."""
    compiled.write_engine(folder)
    (folder / "engine.json").write_text(json.dumps(compiled.description()))
    return _with_tokenizer(folder)


def _write_checkpoint(folder: Path, context_length: int) -> None:
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": context_length}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")


def _with_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(models.TOKENIZER / name, folder / name)
    return folder
