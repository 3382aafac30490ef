"""`packager plan` against a GPU: models of published shapes with random weights, which take what trained ones take.

Needs torch, transformers, pytest, pydantic and NVIDIA's nvidia-ml-py; bitsandbytes and accelerate for weights that are
quantized when they are loaded. `-s` prints what was measured: the table of docs/how-to/size-a-gpu.md.
"""

import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is in the engine's own environment")
pytest.importorskip("pydantic", reason="pydantic reads the spec")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
transformers = pytest.importorskip("transformers")
pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

from fakes.configs import config_of  # noqa: E402

from packager.recipes.gpus import GPUS  # noqa: E402
from packager.sizing.ask import Asked, demand_of  # noqa: E402
from packager.sizing.demand import Sizes, measure  # noqa: E402
from packager.sizing.engines import CONTEXT  # noqa: E402
from packager.spec.load import load_spec  # noqa: E402

MODELS = ("mistral-7b-v0.2", "phi-2", "qwen1.5-1.8b")
QUANTIZED = ("int8", "nf4", "nf4, twice")
SHORT, LONG = 1024, 2048
"""Tokens of two requests: the difference of their caches is that of `LONG - SHORT` tokens, whatever else they hold."""


@dataclass(frozen=True)
class Found:
    """Bytes on the GPU: of weights, of a token's keys and values, and of what a piece of a prompt needs for a moment.

    `beside` is what NVML counts and torch does not: CUDA's context and kernels.
    """

    weights: int
    token: float
    moment: int
    beside: int


@pytest.fixture(autouse=True)
def emptied() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture(scope="module", autouse=True)
def idle() -> Iterator[int]:
    """Bytes in use before this module computes: run alone, before the process has a context."""
    pynvml.nvmlInit()
    yield used()
    pynvml.nvmlShutdown()


def used() -> int:
    """Bytes in use on the first GPU, whoever uses them: nobody else is to be there."""
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)


def planned(name: str, folder: Path, quantization: str = "none", context: int = LONG) -> Sizes:
    """What `packager plan` says of one request of `context` tokens."""
    word, _, twice = quantization.partition(", ")
    double = ", double_quantization: true" if twice else ""
    path = folder / "packager.yaml"
    engine = f"engine: {{kind: transformers, context_length: {context}, dtype: bfloat16{double}}}"
    rest = f"hardware: {{gpu: h200}}\nserving: {{max_concurrency: 1}}\nquantization: {word}"
    path.write_text(f"name: m\n{engine}\nweights: {{source: 'hf://a/b'}}\n{rest}\n")
    return measure(demand_of(load_spec(path), config_of(name), Asked(), where=name, files=None))


def made(name: str) -> Any:
    """The model on the GPU, in bfloat16, with random weights."""
    config = config_of(name)
    rest = {key: one for key, one in config.items() if key not in ("model_type", "architectures")}
    with torch.device("cuda"):
        kind = transformers.AutoConfig.for_model(config["model_type"], **rest)
        return transformers.AutoModelForCausalLM.from_config(kind, dtype=torch.bfloat16).eval()


def held_after(model: Any, tokens: int) -> tuple[int, int]:
    """Bytes of the cache that a forward over `tokens` leaves, and those that it needed for a moment beside it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ids = torch.ones((1, tokens), dtype=torch.long, device="cuda")
    cache = transformers.DynamicCache()
    with torch.inference_mode():
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    del ids
    held = torch.cuda.memory_allocated() - before
    assert held >= sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return held, torch.cuda.max_memory_allocated() - before - held


def measured(name: str, idle: int) -> Found:
    """What the model takes, on a GPU of which `idle` bytes are others'."""
    gc.collect()
    start = torch.cuda.memory_allocated()
    model = made(name)
    weights = torch.cuda.memory_allocated() - start
    held_after(model, 16)  # what a first forward leaves for later ones (cuBLAS) is nobody's cache
    short, _ = held_after(model, SHORT)
    long, moment = held_after(model, LONG)
    beside = used() - idle - torch.cuda.memory_reserved()
    return Found(weights, (long - short) / (LONG - SHORT), moment, beside)


def told(**row: Any) -> None:
    versions = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print("\nmeasured", json.dumps(row | versions))


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_takes(name: str, idle: int, tmp_path: Path) -> None:
    found, plan = measured(name, idle), planned(name, tmp_path)
    told(name=name, weights=found.weights, token=found.token, moment=found.moment, beside=found.beside,
         plan={"weights": plan.weights, "token": plan.token, "workspace": plan.workspace - CONTEXT, "context": CONTEXT})  # fmt: skip
    # torch's allocator takes large tensors from segments of 2 MiB, and keeps a rest below 1 MiB with them.
    assert plan.weights <= found.weights <= plan.weights * 1.015
    assert found.token == pytest.approx(plan.token, rel=0.001)
    # An allowance has to be enough (but for those segments); that it is no multiple keeps it one.
    assert 0.99 * found.moment <= plan.workspace - CONTEXT <= 1.5 * found.moment
    assert found.beside <= CONTEXT


def test_what_programs_share(idle: int) -> None:
    """The driver keeps some of what nvidia-smi shows: torch's total is without it, NVML's is with it."""
    name = torch.cuda.get_device_name().removeprefix("NVIDIA ").split()[0].lower()
    if name not in GPUS:
        pytest.skip(f"{name} is not in the table")
    total = torch.cuda.mem_get_info()[1]
    told(name=name, total=total, idle=idle, plan={"gpu": GPUS[name].bytes})
    assert 0.99 * total <= GPUS[name].bytes <= total


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mistral-7B on disk: bitsandbytes quantizes what is loaded."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("mistral")
    model = made("mistral-7b-v0.2")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_what_quantized_weights_take(saved: Path, quantization: str, tmp_path: Path) -> None:
    word, _, twice = quantization.partition(", ")
    options = {"load_in_8bit": True} if word == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    if twice:
        options["bnb_4bit_use_double_quant"] = True
    if word != "int8":
        options["bnb_4bit_compute_dtype"] = torch.bfloat16
    gc.collect()
    start = torch.cuda.memory_allocated()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        saved,
        dtype=torch.bfloat16,
        device_map="cuda",
        quantization_config=transformers.BitsAndBytesConfig(**options),
    )
    gc.collect()
    weights, plan = torch.cuda.memory_allocated() - start, planned("mistral-7b-v0.2", tmp_path, quantization)
    told(name="mistral-7b-v0.2", quantization=quantization, weights=weights, plan={"weights": plan.weights})
    assert next(model.parameters()).is_cuda
    assert plan.weights <= weights <= plan.weights * 1.015
