"""From a Hugging Face folder to a model that has written a token. Nothing here reaches a network or runs code of the weights."""

import gc
import json
import logging
import math
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ...errors import LoadError
from ..engine import EngineSetup, SamplingParams
from .chat_template import ChatTemplate, read_chat_template
from .cores import physical_cores
from .decode import Detokenizer
from .memory import free_memory
from .transformers_answer import Words
from .transformers_batching import Bounds
from .transformers_rows import Network, Rows, roomy
from .transformers_sampling import Choice, Defaults, choose

_PIECE = {"cpu": 256, "cuda": 2048}
"""Tokens of prompts that are computed before each step: how long those who write may be held up."""
_CACHE_SHARE = 0.8
"""Of the memory that is free once the model is loaded, for keys and values; the rest is for what a forward needs."""
_BYTES = {"int8": 1.0, "int4": 0.5, "nf4": 0.5}
"""A parameter's, quantized."""


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """The spec's words. `threads` are by default the physical cores that this process may use."""

    dtype: str = "auto"
    context_length: int | None = None
    double_quantization: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that computes. `tokens` is how many tokens it knows, `template` None when it has no chat template."""

    network: Network
    words: Words
    tokenizer: Any
    template: ChatTemplate | None
    tokens: int
    context_length: int
    bounds: Bounds


def load(folder: Path, setup: EngineSetup, options: TransformersOptions) -> Loaded:
    """Open `folder`. Raises LoadError; blocks for as long as it takes to read the weights."""
    _quiet()
    threads = options.threads or physical_cores()
    torch.set_num_threads(threads)
    config = _read(folder, "config.json", AutoConfig, own_code=setup.own_code)
    tokenizer = _read(folder, "the tokenizer", AutoTokenizer, own_code=setup.own_code)
    context = _context(config.get_text_config(decoder=True), tokenizer, options.context_length)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise LoadError(
            "the tokenizer has no tokenizer.json", where=str(folder), mend="save the tokenizer as a fast one"
        )
    template = read_chat_template(folder, setup.chat_template, tokenizer.special_tokens_map)
    network = _network(folder, _model(folder, config, setup, options))
    words = Words(
        Detokenizer(tokenizer.backend_tokenizer),
        _ends(network.model, tokenizer),
        Defaults.of(network.model.generation_config),
    )
    columns = _columns(folder, network, context, setup.slots)
    bounds = Bounds(setup.slots, columns, _PIECE.get(network.device.type, _PIECE["cuda"]), threads)
    tokens = network.model.get_input_embeddings().weight.shape[0]
    return Loaded(network, words, tokenizer, template, tokens, context, bounds)


def _quiet() -> None:
    """Errors come as errors; the rest of what the libraries write is about training."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for every matrix product, at int8


def _read(folder: Path, what: str, kind: Any, *, own_code: bool) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=own_code)
    except Exception as error:  # the library's own, and plain ones of its Rust parts
        raise LoadError(
            f"transformers {transformers.__version__} cannot read {what}: {_reason(error)}",
            where=str(folder),
            mend="give a folder as `save_pretrained` writes it, of an architecture that this version has",
        ) from error


def _context(config: Any, tokenizer: Any, wanted: int | None) -> int:
    trained: Any = getattr(config, "max_position_embeddings", None)
    if trained is None and tokenizer.model_max_length < 2**31:  # else a number that means: not said
        trained = tokenizer.model_max_length
    if wanted is None and trained is None:
        raise LoadError("the model does not say how long its context is", mend="set engine.context_length")
    if wanted is not None and trained is not None and wanted > trained:
        raise LoadError(
            f"engine.context_length is {wanted}; the model was trained for {trained} tokens",
            mend=f"set it to {trained} at most",
        )
    return int(wanted if wanted is not None else trained)


def _model(folder: Path, config: Any, setup: EngineSetup, options: TransformersOptions) -> Any:
    words = _quantization(config, setup, options)
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        _check_memory(folder, setup.quantization, options.dtype)
    spread = "auto" if torch.cuda.device_count() > 1 else {"": "cuda:0" if on_gpu else "cpu"}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=options.dtype,
            device_map=spread,
            **words,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=setup.own_code,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError as error:
        raise _too_large(folder, f"the GPU has not enough memory for the model: {_reason(error)}") from error
    except Exception as error:
        raise LoadError(
            f"transformers {transformers.__version__} cannot load the model: {_reason(error)}",
            where=str(folder),
            mend="check the folder, engine.dtype and quantization",
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise LoadError(
            f"the weights lack {len(missing)} tensors of the model, for one {missing[0]}",
            where=str(folder),
            mend="give all files of the weights, and the config.json that belongs to them",
        )
    if {"cpu", "disk"} & set(map(str, getattr(model, "hf_device_map", {}).values())) and on_gpu:
        raise _too_large(folder, "the GPUs have not enough memory for the model")
    return model.eval()


def _quantization(config: Any, setup: EngineSetup, options: TransformersOptions) -> dict[str, Any]:
    """The words for it; none for weights that are taken as they are, quantized or not."""
    kind = setup.quantization
    own = getattr(config, "quantization_config", None)
    if kind != "none" and own is not None:
        method = own.get("quant_method") if isinstance(own, Mapping) else getattr(own, "quant_method", "")
        raise LoadError(
            f"the weights are quantized already ({method}): they cannot be made {kind}", mend="take `quantization` away"
        )
    if options.double_quantization and kind not in ("int4", "nf4"):
        raise LoadError(
            "engine.double_quantization needs quantization int4 or nf4", mend="take it away, or set `quantization`"
        )
    if kind == "none":
        return {}
    if kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    computed = config.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4" if kind == "nf4" else "fp4",
        bnb_4bit_use_double_quant=options.double_quantization,
        bnb_4bit_compute_dtype=computed or torch.bfloat16,
    )
    return {"quantization_config": four_bits}


def _check_memory(folder: Path, quantization: str, dtype: str) -> None:
    """Refuse what cannot fit: out of memory, Linux ends the process without a word."""
    needed = sum(_tensor_bytes(file, quantization, dtype) for file in folder.glob("*.safetensors"))
    free = free_memory()
    if needed > free:
        raise _too_large(folder, f"the model needs {_gib(needed)} of memory, and {_gib(free)} are free")


def _tensor_bytes(file: Path, quantization: str, dtype: str) -> float:
    """The least that the file's tensors take once they are loaded, by the file's own header."""
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(size, 2**28)))
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        stored: float = sum(end - begin for begin, end in (tensor["data_offsets"] for tensor in tensors))
        numbers: float = sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (OSError, struct.error, ValueError, LookupError, TypeError) as error:
        raise LoadError(f"the weights cannot be read: {error}", where=str(file), mend="download them again") from error
    if quantization != "none":
        return numbers * _BYTES[quantization]
    return stored if dtype == "auto" else numbers * int(getattr(torch, dtype).itemsize)


def _too_large(folder: Path, what: str) -> LoadError:
    mend = "set engine.dtype or `quantization` to smaller numbers, or take a larger machine"
    return LoadError(what, where=str(folder), mend=mend)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    for words in (model.generation_config, model.config.get_text_config(decoder=True), tokenizer):
        ends = words.eos_token_id
        if ends is not None:
            return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()


def _network(folder: Path, model: Any) -> Network:
    try:
        return Network.of(model)
    except ValueError as error:
        raise LoadError(
            f"the architecture cannot be served: {error}", where=str(folder), mend="take another"
        ) from error


def _columns(folder: Path, network: Network, context: int, slots: int) -> int:
    """Write a token, and see from its keys and values how many there is memory for."""
    rows = Rows(network)
    try:
        logits = rows.forward([[0]])
        choose([Choice(SamplingParams(temperature=0), Defaults(), [0], logits[0])], logits)
    except Exception as error:
        raise LoadError(
            f"the model is loaded and cannot compute: {_reason(error)}",
            where=str(folder),
            mend="try another `quantization` or engine.dtype: not every width of a model has a kernel on every device",
        ) from error
    each = rows.token_bytes()
    free = _free(network.device)
    columns = int(free * _CACHE_SHARE / each) if each else roomy(context) * slots
    if columns < roomy(context):
        raise LoadError(
            f"one request of {context} tokens needs {_gib(roomy(context) * each)} for its keys and values; "
            f"{_gib(free)} are free beside the model",
            where=str(folder),
            mend=f"set engine.context_length to {columns} at most",
        )
    return columns


def _free(device: Any) -> int:
    if device.type != "cuda":
        return free_memory()
    count = torch.cuda.device_count()
    least = min(torch.cuda.mem_get_info(number)[0] for number in range(count))
    return int(least * count)  # the layers are spread evenly


def release() -> None:
    """Give the memory of a model that nobody holds any more back to the device."""
    gc.collect()
    with suppress(RuntimeError):  # a GPU that was lost has nothing to give
        torch.cuda.empty_cache()


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _reason(error: BaseException) -> str:
    """The first lines say it; what follows is advice for people at a prompt."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
