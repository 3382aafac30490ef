"""A GGUF file in vLLM by its real plugin, as far as that goes without a GPU: the arguments, its config, its loader.

The file is not quantized, because the plugin's kernels are CUDA's. It is a Qwen2: the plugin looks for what is not
quantized by its name, and vLLM's Llama gives its embeddings none.
"""

import shutil
from pathlib import Path

import pytest
from fakes.engines import make_setup
from fakes.gguf import write_gguf_of_qwen2
from fakes.models import write_model
from vllm.sampling_params import RequestOutputKind, SamplingParams

from packager.errors import LoadError
from packager.runtime.engines import read_options
from packager.runtime.engines.vllm import VllmEngine
from packager.runtime.engines.vllm_options import Place, VllmOptions, engine_arguments
from packager.runtime.engines.vllm_process import EngineProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")
OPTIONS = {"context_length": 128, "dtype": "float32", "eager": True, "kv_cache_gib": 0.125}
PROMPT = [5, 6, 7, 8]
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, output_kind=RequestOutputKind.DELTA)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gguf") / "qwen2", "qwen2")


async def answer(weights: Path, gguf: Path | None) -> tuple[list[int], str | None]:
    """The greedy answer, and how vLLM says the weights are quantized."""
    setup = make_setup(weights, quantization="gguf" if gguf else "none", **OPTIONS)
    process = EngineProcess()
    llm = await process.open(
        engine_arguments(setup, read_options(VllmOptions, setup), Place(cpu=True, quantized=False, gguf=gguf))
    )
    try:
        ids = [token async for step in process.steps("r", PROMPT, GREEDY) for token in step.token_ids]
        return ids, llm.model_config.quantization
    finally:
        await process.close()


async def test_the_file_is_the_model(weights, tmp_path):
    """The same weights as safetensors and as GGUF, each alone in its folder, give the same answer."""
    plain = await answer(weights, None)
    folder = shutil.copytree(weights, tmp_path / "gguf")
    (folder / "model.safetensors").unlink()
    gguf = write_gguf_of_qwen2(weights, folder / "tiny.gguf")
    ours = await answer(folder, gguf)
    assert (plain[1], ours[1]) == (None, "gguf")
    assert ours[0] == plain[0]
    assert len(ours[0]) == 16


async def test_the_engine_refuses_it_without_a_gpu(weights):
    adapter = VllmEngine(make_setup(weights, quantization="gguf"))
    with pytest.raises(LoadError, match="GGUF in vLLM needs a GPU") as caught:
        await adapter.start()
    assert "llama_cpp" in caught.value.problems[0].mend
    await adapter.stop()
