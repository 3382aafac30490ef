"""The transformers adapter on a GPU: what a CPU cannot show. Runs where torch sees one; needs pytest alone."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.engines import make_setup
from fakes.models import write_model

from packager.errors import EngineError, LoadError
from packager.runtime.engine import Delta, Engine, GenerationRequest, SamplingParams
from packager.runtime.engines import open_engine

torch = pytest.importorskip("torch", reason="torch is in the engine's own environment")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
PROMPT = "one two three four five"
SLOTS = 4


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def engine(llama: Path, runner: asyncio.Runner) -> Iterator[Engine]:
    adapter = open_engine("transformers", make_setup(llama, SLOTS))
    runner.run(adapter.start())
    yield adapter
    runner.run(adapter.stop())


def ask(name: str = "r", max_tokens: int = 24, prompt: str = PROMPT, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(name, prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens, **sampling))


async def read(engine: Engine, request: GenerationRequest) -> str:
    return "".join([delta.text async for delta in engine.stream(request)])


async def read_all(engine: Engine, requests: list[GenerationRequest]) -> list[Any]:
    return await asyncio.gather(*(read(engine, request) for request in requests), return_exceptions=True)


def test_the_text_is_generates(engine: Engine, runner: asyncio.Runner, llama: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama)
    model = AutoModelForCausalLM.from_pretrained(llama, device_map="cuda")
    inputs = tokenizer(PROMPT, return_tensors="pt").to("cuda")
    (own,) = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    text = runner.run(read(engine, ask(temperature=0)))
    assert text == tokenizer.decode(own[inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_requests_at_once_get_what_they_get_alone(engine: Engine, runner: asyncio.Runner) -> None:
    requests = [ask(f"r{number}", prompt="w " * (number + 1), temperature=0) for number in range(2 * SLOTS)]
    alone = [runner.run(read(engine, request)) for request in requests]
    assert runner.run(read_all(engine, requests)) == alone


def test_a_seed_repeats_its_text(engine: Engine, runner: asyncio.Runner) -> None:
    texts = [runner.run(read(engine, ask(temperature=1, top_p=0.9, seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_every_parameter_computes(engine: Engine, runner: asyncio.Runner) -> None:
    words = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 3, "logprobs": 5}
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.2}

    async def deltas() -> list[Delta]:
        return [delta async for delta in engine.stream(ask(**words, **penalties, ignore_eos=True))]

    assert sum(len(delta.logprobs) for delta in runner.run(deltas())) == 24


def test_no_number_in_one_row_is_no_harm_to_the_others(engine: Engine, runner: asyncio.Runner) -> None:
    """torch.multinomial would end the context here."""

    def spoil(_: Any, __: Any, output: Any) -> Any:
        if len(output.logits) == SLOTS:
            output.logits[0] = float("nan")
        return output

    handle = engine._model.network.model.register_forward_hook(spoil)
    requests = [ask(f"r{number}", temperature=1, ignore_eos=True) for number in range(SLOTS)]
    answers = runner.run(read_all(engine, requests))
    handle.remove()
    assert sum(isinstance(one, EngineError) for one in answers) == 1
    assert engine.health().alive


@pytest.mark.parametrize("quantization", ["int8", "int4", "nf4"])
def test_quantized(llama: Path, runner: asyncio.Runner, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    options = {"double_quantization": True} if quantization == "nf4" else {}
    adapter = open_engine(
        "transformers", make_setup(llama, SLOTS, quantization=quantization, dtype="bfloat16", **options)
    )
    runner.run(adapter.start())
    answers = runner.run(read_all(adapter, [ask(f"r{number}", temperature=0) for number in range(SLOTS)]))
    runner.run(adapter.stop())
    assert all(answers)


def test_out_of_memory_is_no_death(engine: Engine, runner: asyncio.Runner) -> None:
    def exhaust(_: Any, __: Any) -> None:
        torch.empty(2**50, device="cuda")

    handle = engine._model.network.model.register_forward_pre_hook(exhaust)
    (failure,) = runner.run(read_all(engine, [ask()]))
    handle.remove()
    assert "the device is out of memory" in str(failure)
    assert engine.health().alive
    assert runner.run(read(engine, ask()))


def test_a_model_that_the_gpu_cannot_hold_is_a_load_error(llama: Path, runner: asyncio.Runner) -> None:
    adapter = open_engine("transformers", make_setup(llama, SLOTS))
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(LoadError, match="the GPU has not enough memory for the model"):
            runner.run(adapter.start())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    runner.run(adapter.stop())


def test_stopping_gives_the_memory_back(llama: Path, runner: asyncio.Runner) -> None:
    before = held()
    adapter = open_engine("transformers", make_setup(llama, SLOTS))
    runner.run(adapter.start())
    runner.run(read(adapter, ask()))
    assert held() > before
    runner.run(adapter.stop())
    assert held() <= before


def held() -> int:
    """Bytes of tensors on the GPU, without the scratch space that torch keeps for cuBLAS, once for each thread that computed."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated()


LOST = """
import asyncio, sys
from pathlib import Path
import torch
from packager.errors import EngineError
from packager.runtime.engine import EngineSetup, GenerationRequest, SamplingParams
from packager.runtime.engines import open_engine

def crash(_, __):
    torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")]

async def main():
    engine = open_engine("transformers", EngineSetup("tiny", "1", {}, Path(sys.argv[1]), 2))
    await engine.start()
    engine._model.network.model.register_forward_pre_hook(crash)
    request = GenerationRequest("r", prompt="one two", sampling=SamplingParams(max_tokens=4))
    try:
        print([delta async for delta in engine.stream(request)])
    except EngineError as error:
        print("stream:", error)
    while engine.health().alive:
        await asyncio.sleep(0.01)
    print("health:", engine.health().reason)
    await engine.stop()
asyncio.run(main())
"""


def test_an_assert_on_the_device_is_the_end(llama: Path) -> None:
    """In a process of its own: nothing computes in it afterwards."""
    finished = subprocess.run(
        [sys.executable, "-c", LOST, str(llama)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "stream: transformers failed" in finished.stdout, finished.stderr
    assert "health: the GPU failed" in finished.stdout
