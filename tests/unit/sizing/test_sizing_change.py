"""The smallest change that fits: in order, each of them true."""

import itertools
import re

import pytest
import yaml
from fakes.configs import config_of

from packager.errors import SpecError
from packager.lock.check import check
from packager.lock.gates import check_weights
from packager.lock.model import facts_of_config
from packager.recipes import RECIPES
from packager.recipes.gpus import GPUS
from packager.sizing.change import LEAST_CONTEXT, changes_that_fit
from packager.sizing.demand import measure
from packager.spec.load import load_spec


def kinds(changes):
    return [change.kind for change in changes]


def test_every_change_fits_and_one_of_each_kind(demand):
    asked = demand("mistral-7b-v0.2", "engine: {kind: vllm}\nhardware: {gpu: a10g}", requests=4, context=28672)
    assert not measure(asked).fits
    found = changes_that_fit(asked)
    assert kinds(found) == ["requests", "context", "quantization", "weights", "gpus", "gpu"]
    assert all(measure(change.demand).fits for change in found)


BITSANDBYTES = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
BASE = "image: {base: {kind: registry, image: 'nvcr.io/nvidia/tensorrt-llm/release:1.2.1'}}"
QUANTIZED = {
    "plain": {},
    "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "awq": {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
    "int8": BITSANDBYTES,
    "modelopt": {"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}},
}


def written(spec: str, words: str) -> str:
    """The spec with what a change says written into it."""
    value = yaml.safe_load(spec)
    for key, one in re.findall(r"`([a-z_.]+): ([^`]+)`", words):
        *path, last = key.split(".")
        place = value
        for part in path:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(one)
    return yaml.safe_dump(value)


def locked(file, facts):
    """Raise SpecError where the lock would; `facts` are None of weights that say nothing of themselves here."""
    check(file)
    if facts is not None:
        check_weights(file, facts, lambda _: None)


@pytest.mark.parametrize("kind", sorted(set(RECIPES) - {"echo"}))
def test_a_spec_with_the_change_in_it_fits_and_can_be_locked(demand, tmp_path, kind):
    layers = ", gpu_layers: -1" if kind == "llama_cpp" else ""
    plain = kind in ("llama_cpp", "ctranslate2")  # formats of their own, sized by their files
    names = ("llama-3-8b", "baichuan2-13b", "deepseek-v3", "gemma-2-9b", "mixtral-8x7b")
    seen = set()
    for gpu, name, word in itertools.product(("t4", "l4", "rtx-4070", "b200"), names, QUANTIZED):
        spec = f"engine: {{kind: {kind}{layers}, context_length: 4096}}\nhardware: {{gpu: {gpu}}}\n{BASE}"
        config = config_of(name) | ({} if plain else QUANTIZED[word])
        facts, files = (None, 16 * 10**9) if plain else (facts_of_config(config), None)
        try:
            asked = demand(config, spec, files=files)
            locked(load_spec(tmp_path), facts)
        except SpecError:  # whatever it takes
            continue
        for change in () if measure(asked).fits else changes_that_fit(asked):
            again = demand(config, written(spec, change.words), files=files)
            assert measure(again).fits, (gpu, name, word, change.words)
            locked(load_spec(tmp_path), facts if "weights that" not in change.words else None)
            seen.add(change.kind)
    assert seen


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


def test_what_is_quantized_at_load_becomes_narrower(demand):
    spec = "engine: {kind: transformers, dtype: float16}\nhardware: {gpu: rtx-2080}\nquantization: int8"
    found = {change.kind: change.words for change in changes_that_fit(demand("llama-3-8b", spec, context=2048))}
    assert found["quantization"] == "`quantization: int4`"
    narrowest = demand("llama-3-8b", spec.replace("int8", "nf4").replace("rtx-2080", "p4"), context=8192)
    assert {"quantization", "weights"}.isdisjoint(kinds(changes_that_fit(narrowest)))


def test_a_gguf_file_is_not_quantized_again(demand):
    spec = "engine: {kind: vllm}\nquantization: gguf\nhardware: {gpu: t4}"
    found = changes_that_fit(demand("llama-3-8b", spec, files=20 * 10**9, context=4096))
    assert found
    assert {"quantization", "weights"}.isdisjoint(kinds(found))


def test_weights_that_stay_on_one_gpu_get_no_more(demand):
    """The lock refuses bitsandbytes' weights with tensor parallel."""
    config = config_of("baichuan2-13b") | BITSANDBYTES
    found = changes_that_fit(demand(config, "engine: {kind: vllm}\nhardware: {gpu: t4}", context=4096))
    assert "gpu" in kinds(found)
    assert "gpus" not in kinds(found)


def test_a_larger_gpu_has_the_weights_own_format(demand):
    """TensorRT-LLM dropped 4-bit AWQ for Blackwell, whichever of spec and weights says it."""
    config = config_of("deepseek-v3") | {"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}}
    spec = "engine: {kind: tensorrt_llm, tensor_parallel: 2}\nhardware: {gpu: h200, count: 2}"
    words = " ".join(change.words for change in changes_that_fit(demand(config, spec, context=4096)))
    assert words
    assert "b200" not in words
    assert "b300" not in words


def test_a_larger_gpu_of_before_fp8_holds_it_in_16_bits(demand):
    """On an A16 transformers would need twice the memory that it needs on an RTX 4070."""
    config = config_of("gemma-2-9b") | {"quantization_config": {"quant_method": "fp8"}}
    asked = demand(config, "engine: {kind: transformers}\nhardware: {gpu: rtx-4070}", context=4096)
    words = next(change.words for change in changes_that_fit(asked) if change.kind == "gpu")
    assert words == "`hardware.gpu: rtx-5080`"


def test_a_cache_that_the_spec_makes_too_small_or_too_large(demand):
    for given, context in (("3.9", 32768), ("20", 1024)):
        spec = f"engine: {{kind: vllm, kv_cache_gib: {given}}}\nhardware: {{gpu: a10g}}"
        first = changes_that_fit(demand("mistral-7b-v0.2", spec, context=context))[0]
        assert first.words == f"`engine.kv_cache_gib: {context / 8192}`".replace(".125", ".13")
        assert measure(first.demand).fits


def test_a_cache_of_another_engine_of_lmdeploys_is_no_mend(demand):
    """Its fp8 takes a little less than its int8, and is not TurboMind's."""
    spec = "engine: {kind: lmdeploy}\nhardware: {gpu: l4}"
    for context in range(32768, 131072, 512):
        asked = demand(config_of("internlm2-7b") | {"max_position_embeddings": 131072}, spec, context=context)
        words = " ".join(change.words for change in changes_that_fit(asked))
        assert "fp8" not in words


def test_quantization_and_cache_that_tensorrt_llm_does_not_compile_together(demand):
    spec = "engine: {kind: tensorrt_llm_engine, kv_cache: CACHE}\nhardware: {gpu: l4}\nquantization: WORD"
    asked = demand("baichuan2-13b", spec.replace("CACHE", "fp8").replace("WORD", "none"), context=4096)
    words = " ".join(change.words for change in changes_that_fit(asked))
    assert "`quantization: awq`" in words
    assert "int8" not in words
    assert "int4" not in words
    asked = demand("baichuan2-13b", spec.replace("CACHE", "auto").replace("WORD", "int8"), context=4096, requests=16)
    assert "kv_cache: fp8" not in " ".join(change.words for change in changes_that_fit(asked))


def test_heads_bound_how_many_gpus_share_a_layer(demand):
    asked = demand("baichuan2-13b", "engine: {kind: vllm}\nhardware: {gpu: t4}", context=4096)
    words = next(change.words for change in changes_that_fit(asked) if change.kind == "gpus")
    assert words == "`engine.tensor_parallel: 4` with `hardware.count: 4`"
    config = {"num_attention_heads": 3, "head_dim": 128, "model_type": "llama", "hidden_size": 5120}
    config |= {"intermediate_size": 13696, "num_hidden_layers": 40, "vocab_size": 125696}
    odd = demand(config, "engine: {kind: vllm}\nhardware: {gpu: t4}", context=4096)
    assert "gpus" not in kinds(changes_that_fit(odd))


def test_so_do_heads_of_keys(demand):
    """microsoft/Phi-3-medium-4k-instruct: 10 heads of keys, which neither 4 nor 8 GPUs share evenly."""
    config = {"model_type": "phi3", "num_attention_heads": 40, "num_key_value_heads": 10, "hidden_size": 5120}
    config |= {"num_hidden_layers": 40, "intermediate_size": 17920, "vocab_size": 32064}
    for gpu, words in (("l4", "`engine.tensor_parallel: 2` with `hardware.count: 2`"), ("rtx-2070", None)):
        asked = demand(config, f"engine: {{kind: vllm, dtype: float16}}\nhardware: {{gpu: {gpu}}}", context=4096)
        assert next((one.words for one in changes_that_fit(asked) if one.kind == "gpus"), None) == words
    spread = {"num_key_value_heads": 4, "num_attention_heads": 32}
    asked = demand(config | spread, "engine: {kind: vllm, dtype: float16}\nhardware: {gpu: rtx-2070}", context=4096)
    assert "`hardware.count: 8`" in next(one.words for one in changes_that_fit(asked) if one.kind == "gpus")


@pytest.mark.parametrize(
    ("inner", "words"), [(29568, None), (29696, "`engine.tensor_parallel: 2` with `hardware.count: 2`")]
)
def test_no_more_gpus_than_share_whole_groups(demand, inner, words):
    """Qwen/Qwen2-72B-Instruct-AWQ, as it is and as it was first: 231 groups in each row of down_proj."""
    config = {"model_type": "qwen2", "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192}
    config |= {"num_hidden_layers": 80, "intermediate_size": inner, "vocab_size": 152064}
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    asked = demand(config, "engine: {kind: vllm}\nhardware: {gpu: a100-40gb}", context=4096)
    assert next((one.words for one in changes_that_fit(asked) if one.kind == "gpus"), None) == words


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
    asked = demand("llama-3-8b", spec.replace("GPU", "b200").replace("int8", "none"), requests=200)
    assert {change.kind: change.words for change in changes_that_fit(asked)}["kv_cache"] == "`engine.kv_cache: fp8`"
