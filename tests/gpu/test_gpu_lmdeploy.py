"""LMDeploy's number formats on a GPU, with the library itself. The rest of it is tests/conformance, where it is installed."""

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fakes.engines import make_setup
from fakes.models import Size, write_model
from fakes.packed import write_packed

from packager.runtime.engine import GenerationRequest, SamplingParams
from packager.runtime.engines import open_engine

torch = pytest.importorskip("torch", reason="torch is in the engine's own environment")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(find_spec("lmdeploy") is None, reason="LMDeploy is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's, when LMDeploy is imported
]
SLOTS, CONTEXT = 4, 1024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = Size(width=1024, hidden=2048, layers=2, head=128)
    return write_model(tmp_path_factory.mktemp("model"), size=size, context_length=CONTEXT)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


async def answers(weights: Path, count: int = 1, **options: Any) -> list[str]:
    """What the engine writes to `count` times the same question at once."""
    words = {"context_length": CONTEXT, "cache_share": 0.05, "dtype": "float16"} | options
    adapter = open_engine("lmdeploy", make_setup(weights, SLOTS, **words))
    await adapter.start()
    sampling = SamplingParams(max_tokens=16, temperature=0)

    async def read(number: int) -> str:
        request = GenerationRequest(f"r{number}", prompt="one two three four five", sampling=sampling)
        return "".join([delta.text async for delta in adapter.stream(request)])

    try:
        return await asyncio.gather(*(read(number) for number in range(count)))
    finally:
        await adapter.stop()


@pytest.mark.parametrize(("backend", "method"), [("turbomind", "awq"), ("turbomind", "gptq"), ("pytorch", "awq")])
def test_weights_of_four_bits(model: Path, runner: asyncio.Runner, tmp_path: Path, backend: str, method: str) -> None:
    packed, unpacked = write_packed(model, tmp_path, method)
    told = runner.run(answers(packed, backend=backend))
    assert told == runner.run(answers(unpacked, backend=backend))


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("turbomind", {"kv_cache": "int8"}),
        ("turbomind", {"kv_cache": "int4"}),
        ("turbomind", {"prefix_caching": True}),
        ("pytorch", {"kv_cache": "int8"}),
        ("pytorch", {"kv_cache": "int4"}),
        ("pytorch", {"kv_cache": "fp8"}),
        ("pytorch", {"prefix_caching": True}),
    ],
    ids=str,
)
def test_the_cache(model: Path, runner: asyncio.Runner, backend: str, words: dict[str, Any]) -> None:
    told = runner.run(answers(model, 3 * SLOTS, backend=backend, **words))
    assert told[0]
    assert len(set(told)) == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(model: Path, runner: asyncio.Runner) -> None:
    told = runner.run(answers(model, backend="turbomind", tensor_parallel=2))
    assert told == runner.run(answers(model, backend="turbomind"))
