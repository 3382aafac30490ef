"""The smallest change that fits: in order, each of them true."""

import pytest

from packager.recipes import RECIPES
from packager.recipes.gpus import GPUS
from packager.sizing.change import LEAST_CONTEXT, changes_that_fit
from packager.sizing.demand import measure


def kinds(changes):
    return [change.kind for change in changes]


def test_every_change_fits_and_one_of_each_kind(demand):
    asked = demand("mistral-7b-v0.2", "engine: {kind: vllm}\nhardware: {gpu: a10g}", requests=4, context=28672)
    assert not measure(asked).fits
    found = changes_that_fit(asked)
    assert kinds(found) == ["requests", "context", "quantization", "weights", "gpus", "gpu"]
    assert all(measure(change.demand).fits for change in found)


def test_amounts_are_the_largest_that_fit(demand):
    asked = demand("mistral-7b-v0.2", "engine: {kind: vllm}\nhardware: {gpu: a10g}", requests=8, context=16384)
    fewer, shorter, *_ = changes_that_fit(asked)
    assert fewer.words == f"`serving.max_concurrency: {fewer.demand.requests}`"
    count, context = fewer.demand.requests, shorter.demand.context
    more = demand("mistral-7b-v0.2", "engine: {kind: vllm}\nhardware: {gpu: a10g}", requests=count + 1, context=16384)
    longer = demand("mistral-7b-v0.2", "engine: {kind: vllm}\nhardware: {gpu: a10g}", requests=8, context=context + 256)
    assert not measure(more).fits
    assert not measure(longer).fits


def test_a_narrower_cache_where_the_gpu_has_it(demand):
    spec = "engine: {kind: vllm, context_length: 32768}\nhardware: {gpu: GPU}"
    ampere = demand("mistral-7b-v0.2", spec.replace("GPU", "a10g"), requests=2)
    turing = demand("phi-2", "engine: {kind: vllm, dtype: float16}\nhardware: {gpu: t4}", requests=20)
    assert "`engine.kv_cache: fp8`" in [change.words for change in changes_that_fit(ampere)]
    # Below 8.0 fp8 is not to be had; int8 is.
    assert "`engine.kv_cache: int8_per_token_head`" in [change.words for change in changes_that_fit(turing)]


def test_quantization_when_the_weights_alone_are_too_much(demand):
    asked = demand("llama-3-8b", "engine: {kind: transformers, dtype: float16}\nhardware: {gpu: t4}", context=4096)
    found = {change.kind: change for change in changes_that_fit(asked)}
    assert list(found) == ["quantization", "gpus", "gpu"]
    assert found["quantization"].words == "`quantization: int8`"
    assert found["gpus"].words == "`hardware.count: 2`"
    assert GPUS[found["gpu"].demand.place.gpu].memory == 24


def test_weights_that_are_quantized_are_not_quantized_again(demand):
    asked = demand("gpt-oss-20b", "engine: {kind: vllm}\nhardware: {gpu: rtx-4070}", context=4096)
    assert {"quantization", "weights"}.isdisjoint(kinds(changes_that_fit(asked)))


def test_heads_bound_how_many_gpus_share_a_layer(demand):
    asked = demand("baichuan2-13b", "engine: {kind: vllm}\nhardware: {gpu: t4}", context=4096)
    words = next(change.words for change in changes_that_fit(asked) if change.kind == "gpus")
    assert words == "`engine.tensor_parallel: 4` with `hardware.count: 4`"
    config = {"num_attention_heads": 3, "head_dim": 128, "model_type": "llama", "hidden_size": 5120}
    config |= {"intermediate_size": 13696, "num_hidden_layers": 40, "vocab_size": 125696}
    odd = demand(config, "engine: {kind: vllm}\nhardware: {gpu: t4}", context=4096)
    assert "gpus" not in kinds(changes_that_fit(odd))


def test_ctranslate2_gains_nothing_from_more_gpus(demand):
    asked = demand("llama-3-8b", "engine: {kind: ctranslate2}\nhardware: {gpu: t4}", files=16 * 10**9, context=2048)
    assert not measure(asked).fits
    assert "gpus" not in kinds(changes_that_fit(asked))


def test_two_changes_where_one_is_not_enough(demand):
    asked = demand("deepseek-v3", "engine: {kind: vllm}\nhardware: {gpu: h100}", context=8192)
    (both,) = changes_that_fit(asked)
    assert both.kind == "both"
    assert both.words == "`engine.tensor_parallel: 4` with `hardware.count: 4` and `hardware.gpu: b200`"
    assert measure(both.demand).fits


def test_nothing_fits(demand):
    spec = "engine: {kind: ctranslate2}\nhardware: {gpu: t4}"
    assert changes_that_fit(demand("llama-3-8b", spec, files=10**13, context=4096)) == ()


def test_a_context_too_short_to_be_a_mend_is_not_one(demand):
    spec = "engine: {kind: vllm}\nhardware: {gpu: l4}"
    asked = demand("llama-3-8b", spec, context=8192, requests=40)
    for change in changes_that_fit(asked):
        assert change.demand.context >= LEAST_CONTEXT


@pytest.mark.parametrize("gpu", ["t4", "v100", "a10g", "l4"])
def test_a_larger_gpu_is_larger_and_runs_the_engine(demand, gpu):
    asked = demand("baichuan2-13b", f"engine: {{kind: vllm}}\nhardware: {{gpu: {gpu}}}", context=4096)
    change = next(one for one in changes_that_fit(asked) if one.kind == "gpu")
    found = GPUS[change.demand.place.gpu]
    assert found.bytes > GPUS[gpu].bytes
    assert found.capability >= RECIPES["vllm"].floor
    assert not change.demand.place.gpu.startswith("rtx-")


def test_a_larger_gpu_computes_in_the_models_numbers(demand):
    """A V100 of 32 GB would have the memory, and no bfloat16."""
    asked = demand("baichuan2-13b", "engine: {kind: transformers}\nhardware: {gpu: a10g}", context=1024)
    change = next(one for one in changes_that_fit(asked) if one.kind == "gpu")
    assert change.words == "`hardware.gpu: a100-40gb`"


def test_a_gpu_that_no_longer_has_a_format_is_no_mend(demand):
    """TensorRT-LLM dropped int8 of weights and cache for Blackwell."""
    spec = "engine: {kind: tensorrt_llm_engine}\nhardware: {gpu: GPU}\nquantization: int8"
    asked = demand("deepseek-v3", spec.replace("GPU", "h200"), context=4096)
    words = " ".join(change.words for change in changes_that_fit(asked))
    assert "b200" not in words
    assert "b300" not in words
    asked = demand("llama-3-8b", spec.replace("GPU", "b200"), requests=200)
    assert {change.kind: change.words for change in changes_that_fit(asked)}["kv_cache"] == "`engine.kv_cache: fp8`"
