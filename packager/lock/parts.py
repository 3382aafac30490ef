"""Whether all parts of a model are among its weights: engines tell a missing one after they have read the others. Pure."""

import json
import re
from collections.abc import Collection
from typing import Any

INDEX = "model.safetensors.index.json"
"""Where transformers says which file has which tensor. It, and vLLM, read no other than this name."""
_WHOLE = "model.safetensors"
"""With it, transformers does not look at the index."""
_PART = re.compile(r"-\d{5}-of-(\d{5})(?=\.gguf$)")
"""What llama.cpp's llama-gguf-split puts into the names of a model's parts."""


def without_part(path: str) -> str:
    """The name of the model that a GGUF file is, or is a part of."""
    return _PART.sub("", path)


def first_part(paths: Collection[str]) -> str | None:
    """Of the GGUF files of one model in parts the first, which is opened for all; None where they are not."""
    models = {without_part(path) for path in paths}
    return min(paths) if len(models) == 1 and _PART.search(min(paths)) else None


def lacking_gguf(entry: str, paths: Collection[str]) -> list[str]:
    """The parts of the GGUF model `entry` that are not among `paths`."""
    found = _PART.search(entry)
    if found is None:
        return []
    named = [f"-{number:05}-of-{found[1]}" for number in range(1, int(found[1]) + 1)]
    return [path for one in named if (path := _PART.sub(one, entry)) not in paths]


def lacking_safetensors(index: bytes, paths: Collection[str]) -> list[str]:
    """The files that the index of a folder with `paths` names, and that are not there. Raises ValueError for no JSON."""
    if _WHOLE in paths:
        return []
    try:
        said: Any = json.loads(index)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    tensors = said.get("weight_map") if isinstance(said, dict) else None
    files = tensors.values() if isinstance(tensors, dict) else ()
    return sorted({one for one in files if isinstance(one, str)} - {*paths})
