"""What a conversion would do: every step with the arguments of its calls. Pure.

A compiled engine's steps: fetch the model (and an adapter), merge, build (quantize and compile, which TensorRT-LLM's LLM
does in its constructor), save, describe, upload.
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import Problem, SpecError
from ..lock.drift import engine_version
from ..lock.gates import check_weights
from ..lock.hardware import gpu_of
from ..recipes import RECIPES
from ..recipes.gpus import shown
from ..spec.conversion import CalibrationSpec, ConversionSpec
from ..spec.engine import TensorrtLlmEngineSpec
from ..spec.image import RegistryBase
from ..spec.load import SpecFile
from ..weights.compiled import Limits
from .source import TOKENIZER, Found

ALGORITHMS: Mapping[str, str | None] = {
    "none": None, "int8": "W8A16", "int4": "W4A16", "awq": "W4A16_AWQ", "fp8": "FP8",
}  # fmt: skip
"""The spec's word for a quantization that TensorRT-LLM's LLM makes, and its `QuantAlgo`."""
CACHES: Mapping[str, str | None] = {"auto": None, "int8": "INT8", "fp8": "FP8"}
_BY_WEIGHTS_ALONE = ("int8", "int4")
"""Quantizations that read no text. TensorRT-LLM 1.2, models/modeling_utils.py QuantConfig._requires_calibration."""
_TEXTS = ("cnn_dailymail", "pileval")
"""Data sets that ModelOpt calibrates on; it takes any folder too. TensorRT-LLM 1.2, quantization/quantize_by_modelopt.py."""
_TEXTS_OF_CACHES = ("cnn_dailymail", "lambada")
"""Those that TensorRT-LLM itself calibrates on, known by the name or the path: models/convert_utils.py."""
_SHARES = {"none": 1.0, "int8": 0.6, "fp8": 0.6, "int4": 0.4, "awq": 0.4}
"""How large an engine is beside 16-bit weights, at most: embeddings are not quantized."""
_NUM_TOKENS = 8192
"""TensorRT-LLM's default of max_num_tokens (builder.py BuildConfig)."""
_LEAST_TOKENIZED = 2048
"""Its default of tokenizer_max_seq_length (llmapi/llm_args.py CalibConfig)."""


@dataclass(frozen=True, slots=True)
class Build:
    """What TensorRT-LLM is asked for: `quant_algo` and `cache_algo` are names of its `QuantAlgo`.

    `calibration` is None where nothing is calibrated. `own_code` says that the model's own code may run.
    """

    tensor_parallel: int
    pipeline_parallel: int
    limits: Limits
    quant_algo: str | None
    cache_algo: str | None
    calibration: CalibrationSpec | None
    own_code: bool

    def calls(self, model: str, workspace: str) -> dict[str, dict[str, Any]]:
        """The keywords of LLM (without those that are objects), BuildConfig, QuantConfig and CalibConfig, by name.

        `model` is the folder to compile, `workspace` one for what is under way. A config that is not passed is not there.
        """
        calls: dict[str, dict[str, Any]] = {
            "LLM": {
                "model": model,
                "tensor_parallel_size": self.tensor_parallel,
                "pipeline_parallel_size": self.pipeline_parallel,
                "trust_remote_code": self.own_code,
                "workspace": workspace,
            },
            "BuildConfig": asdict(self.limits),
        }
        quantized = {"quant_algo": self.quant_algo, "kv_cache_quant_algo": self.cache_algo}
        if words := {name: value for name, value in quantized.items() if value is not None}:
            calls["QuantConfig"] = words
        if self.calibration is not None:
            calls["CalibConfig"] = {
                "calib_dataset": self.calibration.dataset,
                "calib_batches": self.calibration.samples,
                "calib_batch_size": 1,
                "calib_max_seq_length": self.calibration.length,
                "tokenizer_max_seq_length": max(self.calibration.length, _LEAST_TOKENIZED),
            }
        return calls


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a conversion takes, roughly and at most: of the disk that the output is on, of the host's memory, of each GPU."""

    disk: int
    host: int
    gpu: int


@dataclass(frozen=True, slots=True)
class ConvertPlan:
    """One conversion. `image` is where to run it, `capability` the GPUs' as in `8.0`, `gpus` how many.

    `tokenizer` says that the engine's folder gets the model's; a spec may take one from elsewhere. `upload` is where the
    engine goes afterwards; None where it stays in `output`.
    """

    name: str
    version: str
    image: str
    gpu: str
    capability: str
    gpus: int
    model: Found
    adapter: Found | None
    build: Build
    needs: Needs
    output: Path
    tokenizer: bool
    upload: str | None


def conversion_of(file: SpecFile) -> ConversionSpec:
    """The spec's section. Raises SpecError when it has none."""
    asked = file.spec.conversion
    if asked is None:
        what = "nothing says of what the weights are made"
        mend = "add `conversion: {source: hf://OWNER/NAME}`, the model in the form of transformers"
        raise SpecError(what, where=file.where("weights"), mend=mend)
    return asked


def make_plan(file: SpecFile, model: Found, adapter: Found | None, output: Path, *, upload: bool) -> ConvertPlan:
    """The plan for a spec that `check` has passed. Raises SpecError with everything that TensorRT-LLM would not do."""
    spec, asked = file.spec, conversion_of(file)
    engine, gpu, recipe = spec.engine, gpu_of(spec), RECIPES[spec.engine.kind]
    assert isinstance(engine, TensorrtLlmEngineSpec)
    assert gpu is not None
    assert spec.weights is not None
    assert recipe.vendor is not None
    limits = _limits(file, asked, model)
    problems = [
        *_places(file, asked, output), *_model(file, model), *_quantized(file, asked), *_off(file, asked, model, limits),
    ]  # fmt: skip
    if problems:
        raise SpecError.collect(problems)
    # The model itself, as it is before it is quantized.
    plain = replace(file, spec=spec.model_copy(update={"quantization": "none"}))
    check_weights(plain, model.facts, lambda _: None)
    calibrates = _calibrates(spec.quantization, engine.kv_cache)
    base, gpus = spec.image.base, engine.tensor_parallel * engine.pipeline_parallel
    return ConvertPlan(
        name=spec.name,
        version=engine_version(spec),
        image=base.image if isinstance(base, RegistryBase) else recipe.vendor.image,
        gpu=spec.hardware.gpu or "",
        capability=shown(gpu.capability),
        gpus=gpus,
        model=model,
        adapter=adapter,
        build=Build(
            tensor_parallel=engine.tensor_parallel,
            pipeline_parallel=engine.pipeline_parallel,
            limits=limits,
            quant_algo=ALGORITHMS[spec.quantization],
            cache_algo=CACHES[engine.kv_cache],
            calibration=(asked.calibration or CalibrationSpec()) if calibrates else None,
            own_code=bool(asked.trusted_code),
        ),
        needs=_needs(model, spec.quantization, gpus, merges=adapter is not None, calibrates=calibrates),
        output=output,
        tokenizer=spec.weights.tokenizer is None,
        upload=spec.weights.source if upload else None,
    )


def _limits(file: SpecFile, asked: ConversionSpec, model: Found) -> Limits:
    """What is compiled in; a sequence length of 0 is not known."""
    context = getattr(file.spec.engine, "context_length", None)
    batch = asked.max_batch_size or file.spec.serving.max_concurrency
    longest = asked.max_seq_len or context or model.facts.context or 0
    # TensorRT-LLM cuts it to what so many requests can have (_common.py check_max_num_tokens).
    tokens = asked.max_num_tokens or min(max(_NUM_TOKENS, asked.max_input_len or 0), max(batch * longest, 1))
    return Limits(
        max_batch_size=batch,
        max_input_len=asked.max_input_len or min(longest, tokens),
        max_seq_len=longest,
        max_num_tokens=tokens,
        max_beam_width=asked.max_beam_width,
    )


def _places(file: SpecFile, asked: ConversionSpec, output: Path) -> Iterator[Problem]:
    """Folders of this machine that would be read and written."""
    for keys, source in ((("source",), asked.source), (("merge", "source"), asked.merge and asked.merge.source)):
        if source and source.startswith("file://"):
            folder = Path(posixpath.normpath(file.folder / source.removeprefix("file://")))
            if folder == output or output in folder.parents or folder in output.parents:
                what = f"{source} is the output folder, or one of them lies in the other"
                yield Problem(what, file.where("conversion", *keys), "choose another folder with --output")


def _model(file: SpecFile, model: Found) -> Iterator[Problem]:
    facts = model.facts
    if facts.quantization:
        what = f"the model is quantized already ({facts.quantization}), and TensorRT-LLM quantizes models that are not"
        yield Problem(what, model.where, "name the model that it was made of")
    weights = file.spec.weights
    if (
        model.listed
        and TOKENIZER not in {one.path for one in model.files}
        and (weights is None or weights.tokenizer is None)
    ):
        what = f"the model has no {TOKENIZER}, which the served engine needs"
        yield Problem(what, model.where, "name a repository that has it in `weights.tokenizer`")


def _calibrates(quantization: str, cache: str) -> bool:
    return cache != "auto" or quantization not in ("none", *_BY_WEIGHTS_ALONE)


def _quantized(file: SpecFile, asked: ConversionSpec) -> Iterator[Problem]:
    word, cache = file.spec.quantization, getattr(file.spec.engine, "kv_cache", "auto")
    if word not in ALGORITHMS:
        what = f"TensorRT-LLM's LLM does not quantize to {word}"
        yield Problem(what, file.where("quantization"), f"write one of: {', '.join(ALGORITHMS)}")
    elif (row := RECIPES[file.spec.engine.kind].format("kv_cache", cache)) is not None and word in row.without:
        what = f"TensorRT-LLM compiles no {cache} key-value cache with `quantization: {word}`"
        mend = "write `kv_cache: auto` or `int8`, or `quantization: none`, `awq` or `fp8`"
        yield Problem(what, file.where("engine", "kv_cache"), mend)
    elif asked.calibration is not None and not _calibrates(word, cache):
        what = f"`quantization: {word}` with `kv_cache: auto` calibrates nothing"
        yield Problem(what, file.where("conversion", "calibration"), "remove `calibration`")
    elif asked.calibration is not None:
        yield from _texts(file, asked.calibration.dataset)


def _texts(file: SpecFile, dataset: str) -> Iterator[Problem]:
    """A data set of which TensorRT-LLM would not know what to read."""
    where, what = file.where("conversion", "calibration", "dataset"), f"TensorRT-LLM does not calibrate on {dataset}"
    if file.spec.quantization not in ("none", *_BY_WEIGHTS_ALONE) or getattr(file.spec.engine, "kv_cache", "") == "fp8":
        if dataset not in _TEXTS and not dataset.startswith("/"):
            yield Problem(what, where, f"write one of: {', '.join(_TEXTS)}; or the absolute path of a folder")
    elif not any(name in dataset for name in _TEXTS_OF_CACHES):
        mend = f"write one of: {', '.join(_TEXTS_OF_CACHES)}; or an absolute path that ends in such a name"
        yield Problem(f"{what} for an int8 cache", where, mend)


def _off(file: SpecFile, asked: ConversionSpec, model: Found, limits: Limits) -> Iterator[Problem]:
    """Limits that contradict the spec, the model or each other."""
    if not limits.max_seq_len:
        what = "the model does not say how many tokens it was trained for"
        yield Problem(what, model.where, "write `conversion.max_seq_len`")
        return
    context, trained = getattr(file.spec.engine, "context_length", None), model.facts.context
    yield from _batch(file, limits.max_batch_size)
    if context is not None and limits.max_seq_len < context:
        what = f"`max_seq_len: {limits.max_seq_len}` is less than `engine.context_length: {context}`"
        yield Problem(what, file.where("conversion", "max_seq_len"), f"write {context} or more, or leave it out")
    if trained is not None and asked.max_seq_len is not None and asked.max_seq_len > trained:
        what = f"`max_seq_len: {asked.max_seq_len}` is more than the {trained} tokens that the model was trained for"
        yield Problem(what, file.where("conversion", "max_seq_len"), f"write {trained} or less")
    if limits.max_input_len > limits.max_seq_len:
        what = f"`max_input_len: {limits.max_input_len}` is more than `max_seq_len`, which is {limits.max_seq_len}"
        yield Problem(what, file.where("conversion", "max_input_len"), f"write {limits.max_seq_len} or less")
    if limits.max_input_len > limits.max_num_tokens:
        what = (
            f"a prompt is read in one step, and `max_input_len: {limits.max_input_len}` is more than `max_num_tokens`"
        )
        mend = f"write {limits.max_input_len} or more there, or leave it out"
        yield Problem(what, file.where("conversion", "max_num_tokens"), mend)


def _batch(file: SpecFile, most: int) -> Iterator[Problem]:
    """Requests at once, as the lock (lock/built.py) will hold the engine to them."""
    slots, where = file.spec.serving.max_concurrency, file.where("conversion", "max_batch_size")
    if most < slots:
        what = f"`max_batch_size: {most}` is less than `serving.max_concurrency: {slots}`"
        yield Problem(what, where, f"write {slots} or more, or leave it out")
    elif most > slots and file.spec.serving.triton == "ensemble":
        what = (
            f"`max_batch_size: {most}` with `triton: ensemble`, which runs as many requests as are compiled in, and"
            f" `serving.max_concurrency: {slots}`"
        )
        yield Problem(what, where, f"write {slots}, or leave it out")


def _needs(model: Found, quantization: str, gpus: int, *, merges: bool, calibrates: bool) -> Needs:
    engine = int(model.size * _SHARES[quantization])
    # The engine is written twice (TensorRT-LLM saves a copy of it), a calibrated model once more before it is compiled.
    disk = 2 * engine + (model.size if merges else 0) + (engine if calibrates else 0)
    return Needs(disk=disk, host=2 * model.size, gpu=(model.size if calibrates else engine) // gpus)
