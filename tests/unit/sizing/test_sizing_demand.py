"""Bytes of weights, cache and workspace, and whether they fit; where others measured the same, against their numbers."""

from dataclasses import replace

import pytest
from fakes import compiled
from fakes.configs import config_of

from packager.errors import SpecError
from packager.recipes import RECIPES
from packager.recipes.gpus import GPUS
from packager.sizing.cache import cache_format, held_tokens, token_bytes
from packager.sizing.compiled import Limits
from packager.sizing.demand import measure, weights_bytes
from packager.sizing.engines import CONTEXT, ENGINES
from packager.sizing.formats import width_at_load, width_of_weights
from packager.sizing.parameters import count_parameters
from packager.sizing.shape import read_shape

GIB = 2**30
VLLM = "engine: {kind: vllm}"


def cached(name, dtype="bfloat16", kv_cache="auto", tensor=1, engine="vllm"):
    shape = read_shape(config_of(name), where="")
    return token_bytes(shape, cache_format(kv_cache, engine=engine, dtype=dtype), tensor) * shape.layers


class TestCache:
    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("mistral-7b-v0.2", 2 * 32 * 8 * 128 * 2),
            ("phi-2", 2 * 32 * 32 * 80 * 2),
            ("baichuan2-13b", 2 * 40 * 40 * 128 * 2),
            ("gemma-2b", 2 * 18 * 1 * 256 * 2),
            ("deepseek-v3", 61 * 576 * 2),  # 70,272 bytes: "about 70 KB" in the DeepSeek-V3 papers
        ],
    )
    def test_bytes_of_a_token(self, name, count):
        assert cached(name) == count

    def test_half_of_it_in_eight_bits(self):
        assert cached("mistral-7b-v0.2", kv_cache="fp8") == cached("mistral-7b-v0.2") / 2

    def test_scales_of_int8_come_with_each_head(self):
        assert cached("mistral-7b-v0.2", kv_cache="int8_per_token_head") == 32 * 8 * 2 * (128 + 4)

    def test_four_and_eight_bits_of_lmdeploy(self):
        assert cached("internlm2-7b", kv_cache="int8", engine="lmdeploy") == 32 * 8 * 2 * (128 + 4)
        assert cached("internlm2-7b", kv_cache="int4", engine="lmdeploy") == 32 * 8 * 2 * (64 + 4)

    def test_blocks_of_llama_cpp(self):
        assert cached("llama-3-8b", kv_cache="q8_0", engine="llama_cpp") == 32 * 8 * 2 * 128 * 34 / 32
        assert cached("llama-3-8b", dtype="float32", engine="llama_cpp") == 32 * 8 * 2 * 128 * 2

    def test_heads_are_shared_by_gpus_and_a_latent_is_not(self):
        assert cached("mistral-7b-v0.2", tensor=4) == cached("mistral-7b-v0.2") / 4
        assert cached("gemma-2b", tensor=4) == cached("gemma-2b")  # one head of keys, on every GPU
        assert cached("deepseek-v3", tensor=8) == cached("deepseek-v3")

    def test_a_window_bounds_what_a_request_holds(self):
        shape = read_shape(config_of("gemma-3-1b"), where="")
        vllm, ours = ENGINES["vllm"], ENGINES["transformers"]
        assert held_tokens(shape, ours, 32768) == 26 * 32768
        within = 512 - 1 + 2 * 2048
        assert held_tokens(shape, vllm, 32768) == 4 * 32768 + 22 * (-(-within // 16) + 1) * 16
        assert held_tokens(shape, vllm, 256) == 26 * 256

    def test_a_request_is_rounded_up_to_blocks(self):
        shape = read_shape(config_of("mistral-7b-v0.2"), where="")
        assert held_tokens(shape, ENGINES["vllm"], 17) == 32 * 32
        assert held_tokens(shape, ENGINES["transformers"], 257) == 32 * 512


class TestWeights:
    def test_two_bytes_for_each_parameter(self, demand):
        assert weights_bytes(demand("mistral-7b-v0.2", VLLM)) == 2 * 7241732096

    def test_files_say_it_better(self, demand):
        assert weights_bytes(demand("mistral-7b-v0.2", VLLM, files=15_000_000_000)) == 15_000_000_000

    def test_files_in_float32_are_loaded_in_sixteen_bits(self, demand):
        """gemma-2-9b is published in float32: 36.97 GB of files."""
        asked = demand("gemma-2-9b", VLLM, files=4 * 9241705984)
        assert weights_bytes(asked) == 2 * 9241705984
        own = demand("gemma-2-9b", "engine: {kind: transformers}", files=4 * 9241705984)
        assert weights_bytes(own) == 4 * 9241705984

    def test_what_the_files_have_beyond_the_language_model_stays(self, demand):
        plain = 2 * 7241732096
        spec = "engine: {kind: vllm}\nquantization: fp8\nhardware: {gpu: l4}"
        more = weights_bytes(demand("mistral-7b-v0.2", spec, files=plain + 10**9))
        assert more - weights_bytes(demand("mistral-7b-v0.2", spec, files=plain)) == 10**9

    @pytest.mark.parametrize(("word", "bits"), [("int8", 8), ("nf4", 4.5), ("int4", 4.5)])
    def test_quantized_when_loaded(self, demand, word, bits):
        linear, rest = 6979321856, 7241732096 - 6979321856
        asked = demand("mistral-7b-v0.2", f"engine: {{kind: transformers}}\nquantization: {word}")
        assert weights_bytes(asked) == linear * bits / 8 + rest * 2

    def test_double_quantization_saves_most_of_the_constants(self, demand):
        spec = "engine: {kind: transformers, double_quantization: true}\nquantization: nf4"
        saved = weights_bytes(demand("mistral-7b-v0.2", spec.replace("true", "false")))
        saved -= weights_bytes(demand("mistral-7b-v0.2", spec))
        assert saved * 8 / 6979321856 == pytest.approx(0.373, abs=0.001)  # QLoRA, section 3

    @pytest.mark.parametrize(("word", "bits"), [("int8", 8), ("nf4", 4.5)])
    def test_experts_stay_as_they_are_in_transformers(self, demand, word, bits):
        linear = 1342177280  # of Mixtral's 46.7 billion: the rest of its matrices are experts
        asked = demand("mixtral-8x7b", f"engine: {{kind: transformers}}\nquantization: {word}")
        assert weights_bytes(asked) == linear * bits / 8 + (46702792704 - linear) * 2

    def test_experts_in_fp8_on_vllm(self, demand):
        asked = demand("mixtral-8x7b", "engine: {kind: vllm}\nquantization: fp8\nhardware: {gpu: h100}")
        assert weights_bytes(asked) == pytest.approx(46.7e9, rel=0.01)

    def test_weights_that_are_quantized_already(self, demand):
        """openai/gpt-oss-20b: 13.76 GB of safetensors. deepseek-ai/DeepSeek-V3 without its extra layer: 671 GB."""
        assert weights_bytes(demand("gpt-oss-20b", VLLM)) == pytest.approx(13.76e9, rel=0.01)
        assert weights_bytes(demand("deepseek-v3", VLLM)) == pytest.approx(673e9, rel=0.01)

    @pytest.mark.parametrize(("gpu", "bits"), [("a100-80gb", 16), ("h100", 8), ("", 16)])
    def test_fp8_that_transformers_makes_16_bits_of(self, demand, gpu, bits):
        """Without hardware for it, as `packager lock` says; the files are as large as they are."""
        config = config_of("llama-3-8b") | {"quantization_config": {"quant_method": "fp8"}}
        hardware = f"\nhardware: {{gpu: {gpu}}}" if gpu else ""
        counted = count_parameters(read_shape(config, where=""))
        expected = counted.split * bits // 8 + (counted.total - counted.split) * 2
        for files in (None, counted.split + (counted.total - counted.split) * 2):
            asked = demand(config, f"engine: {{kind: transformers}}{hardware}", files=files)
            assert weights_bytes(asked) == expected
        assert weights_bytes(demand(config, f"{VLLM}{hardware}")) < 1.2 * counted.total

    def test_mxfp4_that_transformers_makes_16_bits_of(self, demand):
        """It needs the distribution kernels for it, which no package has by itself."""
        spec, total = "engine: {kind: transformers}\nhardware: {gpu: h100}", 20914757184
        assert weights_bytes(demand("gpt-oss-20b", spec)) == 2 * total
        more = f"{spec}\nimage: {{python_packages: ['Kernels>=0.12']}}"
        assert weights_bytes(demand("gpt-oss-20b", more)) == weights_bytes(demand("gpt-oss-20b", VLLM))

    def test_four_bits_in_groups(self, demand):
        """TheBloke/Mistral-7B-Instruct-v0.2-AWQ: 4.15 GB."""
        config = config_of("mistral-7b-v0.2") | {"quantization_config": {"quant_method": "awq", "bits": 4}}
        config["quantization_config"] |= {"group_size": 128, "zero_point": True}
        assert weights_bytes(demand(config, VLLM)) == pytest.approx(4.15e9, rel=0.01)

    @pytest.mark.parametrize(
        ("name", "said", "bits"),
        [
            ("gptq", {"bits": 4, "group_size": 32}, 4 + 20 / 32),
            ("gptq", {"bits": 8, "group_size": -1}, 8),
            ("bitsandbytes:int8", {}, 8),
            ("bitsandbytes:nf4", {"bnb_4bit_use_double_quant": True}, 4 + 8 / 64 + 32 / (64 * 256)),
            ("modelopt:nvfp4", {}, 4.5),
            (
                "compressed-tensors:pack-quantized",
                {"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 128}}}},
                4.125,
            ),
            ("compressed-tensors:float-quantized", {}, 8),
        ],
    )
    def test_bits_of_what_weights_say_of_themselves(self, name, said, bits):
        assert width_of_weights(name, said).bits == bits

    def test_a_method_without_a_rule_is_sized_by_its_files_or_refused(self, demand):
        config = config_of("mistral-7b-v0.2") | {"quantization_config": {"quant_method": "novel"}}
        assert weights_bytes(demand(config, VLLM, files=4 * 10**9)) == 4 * 10**9
        with pytest.raises(SpecError, match="what weights take that are novel is not known"):
            demand(config, VLLM)

    @pytest.mark.parametrize("bits", [0, -4, 4096])
    def test_bits_that_are_none(self, bits):
        packed = {"config_groups": {"g": {"weights": {"num_bits": bits}}}}
        assert width_of_weights("gptq", {"bits": bits}) is None
        assert width_of_weights("compressed-tensors:pack-quantized", packed) is None

    def test_a_converted_folder(self, demand):
        with pytest.raises(SpecError, match="takes what it was converted to"):
            demand("llama-3-8b", "engine: {kind: ctranslate2}")
        assert weights_bytes(demand("llama-3-8b", "engine: {kind: ctranslate2}", files=123456789)) == 123456789
        whole = weights_bytes(demand("llama-3-8b", "engine: {kind: ctranslate2, compute_type: int8}"))
        assert whole == pytest.approx(8.03e9, rel=0.001)


class TestFits:
    def test_the_sum(self, demand):
        asked = demand("mistral-7b-v0.2", f"{VLLM}\nhardware: {{gpu: a100-40gb}}", requests=2, context=4096)
        sizes = measure(asked)
        assert sizes.cache == 2 * 4096 * 131072
        assert sizes.total == sizes.weights + sizes.cache + sizes.workspace
        assert sizes.room == int(0.92 * GPUS["a100-40gb"].bytes - sizes.weights - (sizes.workspace - CONTEXT))
        assert sizes.tokens == int(sizes.room / 131072)
        assert sizes.fits

    def test_just_enough_and_one_byte_less(self, demand):
        sizes = measure(demand("mistral-7b-v0.2", f"{VLLM}\nhardware: {{gpu: a100-40gb}}"))
        assert replace(sizes, cache=sizes.room).fits
        assert not replace(sizes, cache=sizes.room + 1).fits

    def test_mistral_on_a_t4_as_people_found(self, demand):
        """With its whole context 16 bits do not fit a T4, 8 and 4 do."""
        spec = "engine: {kind: transformers, dtype: float16}\nhardware: {gpu: t4}\nquantization: "
        fits = {word: measure(demand("mistral-7b-v0.2", spec + word)).fits for word in ("none", "int8", "nf4")}
        assert fits == {"none": False, "int8": True, "nf4": True}

    def test_baichuan2_on_a10g_as_people_found(self, demand):
        """13 billion parameters in bfloat16 take two A10G, in int8 one."""
        spec = "engine: {kind: transformers, context_length: 1024}\nhardware: {gpu: a10g, count: COUNT}\nquantization: "
        one, two = spec.replace("COUNT", "1"), spec.replace("COUNT", "2")
        assert not measure(demand("baichuan2-13b", f"{one}none")).fits
        assert measure(demand("baichuan2-13b", f"{two}none")).fits
        assert measure(demand("baichuan2-13b", f"{one}int8")).fits

    def test_gpus_share_the_weights(self, demand):
        hardware = "hardware: {gpu: a100-80gb, count: 4}"
        one = measure(demand("mixtral-8x7b", VLLM))
        four = measure(demand("mixtral-8x7b", f"engine: {{kind: vllm, tensor_parallel: 4}}\n{hardware}"))
        staged = measure(demand("mixtral-8x7b", f"engine: {{kind: vllm, pipeline_parallel: 4}}\n{hardware}"))
        assert four.weights == pytest.approx(one.weights / 4, rel=0.001)
        assert four.token == one.token / 4 == staged.token
        assert one.weights / 4 < staged.weights < one.weights / 4 + 2 * 32000 * 4096  # and an end of the model

    def test_norms_and_routers_are_on_every_gpu(self, demand):
        spec = "engine: {kind: vllm, tensor_parallel: 2}\nhardware: {gpu: h100, count: 2}"
        both, one = measure(demand("mixtral-8x7b", spec)).weights, measure(demand("mixtral-8x7b", VLLM)).weights
        assert 2 * both - one == 2 * (32 * (2 * 4096 + 8 * 4096) + 4096)

    def test_what_an_engine_reserves(self, demand):
        """llama.cpp takes the cache of all slots when it starts; vLLM and transformers let requests wait."""
        serving = "serving: {max_concurrency: 8}"
        kinds = {"vllm": 1, "transformers": 1, "llama_cpp": 8, "ctranslate2": 8}
        for kind, requests in kinds.items():
            assert demand("llama-3-8b", f"engine: {{kind: {kind}}}\n{serving}", files=10**9).requests == requests

    def test_a_cache_of_a_fixed_size(self, demand):
        spec = "engine: {kind: vllm, kv_cache_gib: GIVEN}\nhardware: {gpu: a10g}"
        assert measure(demand("mistral-7b-v0.2", spec.replace("GIVEN", "4"))).fits
        assert not measure(demand("mistral-7b-v0.2", spec.replace("GIVEN", "3.9"))).fits  # one request takes 4
        large = measure(demand("mistral-7b-v0.2", spec.replace("GIVEN", "20"), context=1024))
        assert not large.fits
        assert large.cache == 20 * GIB

    def test_layers_on_the_cpu_take_nothing_of_the_gpu(self, demand):
        spec = "engine: {kind: llama_cpp, gpu_layers: LAYERS}\nhardware: {gpu: t4}"
        whole = measure(demand("llama-3-8b", spec.replace("LAYERS", "-1"), files=8 * 10**9))
        half = measure(demand("llama-3-8b", spec.replace("LAYERS", "16"), files=8 * 10**9))
        assert (half.weights, half.cache) == (whole.weights / 2, whole.cache / 2)

    def test_without_a_gpu_nothing_is_compared(self, demand):
        sizes = measure(demand("phi-2", VLLM))
        assert (sizes.gpu, sizes.room, sizes.tokens, sizes.fits) == (None, None, None, True)

    def test_a_context_that_nothing_says(self, demand):
        with pytest.raises(SpecError, match="how long a context"):
            demand("baichuan2-13b", VLLM)
        assert demand("baichuan2-13b", VLLM, context=4096).context == 4096

    @pytest.mark.parametrize(
        ("spec", "asked", "where"),
        [
            ("engine: {kind: vllm, context_length: 2049}", {}, ":3:38"),
            (VLLM, {"context": 2049}, "--context"),
        ],
    )
    def test_a_longer_context_than_the_model_was_trained_for(self, demand, spec, asked, where):
        with pytest.raises(SpecError) as caught:
            demand("phi-2", spec, **asked)
        (problem,) = caught.value.problems
        assert problem.what == "a request of 2049 tokens is longer than what the model was trained for, which is 2048"
        assert problem.where.endswith(where)
        assert problem.mend == "write 2048 or less"
        assert demand("phi-2", VLLM, context=2048).context == 2048

    def test_heads_that_so_many_gpus_cannot_share(self, demand):
        spec = "engine: {kind: vllm, tensor_parallel: 3}\nhardware: {gpu: h100, count: 3}"
        with pytest.raises(SpecError) as caught:
            demand("mistral-7b-v0.2", spec)
        (problem,) = caught.value.problems
        assert problem.what == "`tensor_parallel: 3` cannot share the model's 32 attention heads"
        assert (problem.where.rpartition("packager.yaml:")[2], problem.mend) == (
            "3:39",
            "write one of: 1, 2, 4, 8, 16, 32",
        )

    @pytest.mark.parametrize("engine", ["vllm", "lmdeploy", "tensorrt_llm"])
    def test_heads_of_keys_that_so_many_gpus_cannot_share(self, demand, engine):
        """microsoft/Phi-3-medium-4k-instruct: 40 heads, 10 of keys."""
        config = {"model_type": "phi3", "num_attention_heads": 40, "num_key_value_heads": 10, "hidden_size": 5120}
        config |= {"num_hidden_layers": 40, "intermediate_size": 17920, "vocab_size": 32064}
        spec = "engine: {kind: KIND, tensor_parallel: 4}\nhardware: {gpu: h100, count: 4}"
        with pytest.raises(SpecError) as caught:
            demand(config, spec.replace("KIND", engine), context=4096)
        (problem,) = caught.value.problems
        assert problem.what == "`tensor_parallel: 4` cannot share the model's 10 heads of keys"
        assert problem.mend == "write one of: 1, 2, 5, 10, 20, 40"

    @pytest.mark.parametrize(
        ("engine", "said", "what"),
        [
            (
                "lmdeploy",
                {"quant_method": "gptq", "desc_act": True},
                "lmdeploy's turbomind cannot load weights that are gptq:desc_act",
            ),
            (
                "vllm",
                {"quant_method": "gptq", "desc_act": True},
                "vllm 0.32.0 cannot load weights that are gptq:desc_act",
            ),
            (
                "lmdeploy",
                {"quant_method": "awq", "version": "gemv"},
                "lmdeploy's turbomind cannot load weights that are awq:gemv",
            ),
            (
                "lmdeploy",
                {"quant_method": "awq", "version": "gemm", "group_size": 64},
                "lmdeploy's turbomind takes awq in groups of 128; these weights are in groups of 64",
            ),
        ],
    )
    def test_weights_that_the_engine_cannot_load(self, demand, engine, said, what):
        config = config_of("mistral-7b-v0.2") | {"quantization_config": {"bits": 4, "group_size": 128} | said}
        with pytest.raises(SpecError) as caught:
            demand(config, f"engine: {{kind: {engine}}}\nhardware: {{gpu: h100}}", context=4096)
        assert [problem.what for problem in caught.value.problems] == [what]

    def test_a_context_that_the_class_says_alone(self, demand):
        """google/gemma-3-4b-it: of its text_config's heads and length nothing is said."""
        text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
        text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
        asked = demand({"model_type": "gemma3", "text_config": text}, VLLM)
        assert asked.context == 131072
        assert weights_bytes(asked) == pytest.approx(2 * 3.88e9, rel=0.001)

    def test_an_engine_that_is_not_known_is_refused_by_name(self, demand):
        with pytest.raises(SpecError, match="how the engine echo takes memory is not known here"):
            demand("llama-3-8b", "engine: {kind: echo}", weights="")

    def test_eager_takes_no_graphs(self, demand):
        hardware = "hardware: {gpu: l4}"
        graphs = measure(demand("phi-2", f"{VLLM}\n{hardware}")).workspace
        eager = measure(demand("phi-2", f"engine: {{kind: vllm, eager: true}}\n{hardware}")).workspace
        assert graphs - eager == ENGINES["vllm"].graphs


INTERNLM = {
    "model_type": "internlm",
    "torch_dtype": "float16",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 103168,
    "max_position_embeddings": 2048,
    "bias": True,
}
"""internlm/internlm-chat-7b."""
MEASURED = {8: (22337, 18241), 16: (30593, 22369), 32: (47073, 30625), 48: (63553, 38881)}
"""LMDeploy's table of memory (docs of 0.0.x, KV cache in int8), MiB by requests at once: in 16 bits, and in int8."""


class TestLmdeploy:
    SPEC = "engine: {kind: lmdeploy, ENGINE}\nhardware: {gpu: a100-80gb}"

    def lmdeploy(self, demand, engine, config=INTERNLM, **asked):
        return measure(demand(config, self.SPEC.replace("ENGINE", engine), **asked))

    @pytest.mark.parametrize("requests", [16, 32, 48])
    @pytest.mark.parametrize(("kind", "column"), [("auto", 0), ("int8", 1)])
    def test_further_requests_take_what_lmdeploy_measured(self, demand, requests, kind, column):
        """Today's int8 has a scale and a zero point for each head, 4 bytes to 128: the table's had one for a layer."""
        few, many = (self.lmdeploy(demand, f"kv_cache: {kind}", requests=one).cache for one in (8, requests))
        scales = 1 if kind == "auto" else (128 + 4) / 128
        assert (many - few) / 2**20 == pytest.approx(
            (MEASURED[requests][column] - MEASURED[8][column]) * scales, rel=0.01
        )

    @pytest.mark.parametrize("requests", MEASURED)
    def test_what_int8_saves_is_what_lmdeploy_measured(self, demand, requests):
        """-4096, -8224, -16448 and -24672 MiB, less the scales that it has today."""
        wide, narrow = (self.lmdeploy(demand, f"kv_cache: {one}", requests=requests).cache for one in ("auto", "int8"))
        less = MEASURED[requests][0] - MEASURED[requests][1]
        assert (wide - narrow) / 2**20 == pytest.approx(less * (128 - 4) / 128, rel=0.005)

    def test_int4_is_half_of_int8_but_for_the_scales(self, demand):
        eight, four = (self.lmdeploy(demand, f"kv_cache: {one}", requests=8).cache for one in ("int8", "int4"))
        assert four / eight == (64 + 4) / (128 + 4)

    def test_a_share_of_what_the_weights_leave(self, demand):
        """cache_max_entry_count: 0.8 of the memory that is free beside the weights, or what the spec says."""
        sizes = self.lmdeploy(demand, "kv_cache: auto")
        free = GPUS["a100-80gb"].bytes - CONTEXT - sizes.weights
        assert sizes.room == int(free * 0.8)
        assert self.lmdeploy(demand, "cache_share: 0.5").room == int(free * 0.5)

    def test_requests_are_rounded_up_to_blocks_of_64(self, demand):
        assert self.lmdeploy(demand, "kv_cache: auto", context=65).cache == 128 * 2 * 32 * 4096 * 2

    def test_two_gpus_share_layers_and_heads(self, demand):
        one = self.lmdeploy(demand, "kv_cache: int8")
        spec = self.SPEC.replace("ENGINE", "tensor_parallel: 2, kv_cache: int8").replace("80gb", "80gb, count: 2")
        two = measure(demand(INTERNLM, spec))
        assert two.weights == pytest.approx(one.weights / 2, rel=0.001)
        assert two.cache == one.cache / 2

    @pytest.mark.parametrize(("group", "gigabytes"), [(128, 4.15), (64, 4.29), (32, 4.55)])
    def test_awq_by_its_group_size(self, demand, group, gigabytes):
        """4 bits, and 20 for each group: smaller groups are more of these. (TurboMind refuses 64: lock/check.py)"""
        said = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True}
        sizes = self.lmdeploy(demand, "backend: pytorch", config_of("mistral-7b-v0.2") | {"quantization_config": said})
        assert sizes.weights == pytest.approx(gigabytes * 1e9, rel=0.01)

    def test_a_format_that_is_not_known_is_refused(self, demand):
        with pytest.raises(SpecError, match="what `kv_cache: turbo_quant` takes is not known"):
            self.lmdeploy(demand, "backend: pytorch, kv_cache: turbo_quant")


class TestTensorrtLlm:
    ENGINE = "engine: {kind: tensorrt_llm_engine}\nhardware: {gpu: a100-40gb}\nserving: {max_concurrency: 16}\nquantization: "
    TORCH = "engine: {kind: tensorrt_llm}\nhardware: {gpu: h100}\nserving: {max_concurrency: 16}\nquantization: "
    LINEAR, REST = 6979321856, 7241732096 - 6979321856

    @pytest.mark.parametrize(
        ("word", "bits"), [("none", 16), ("int8", 8), ("int4", 4), ("awq", 4.125), ("gptq", 4.25), ("fp8", 8)]
    )
    def test_what_is_compiled_in(self, demand, word, bits):
        """Linear layers; embedding, lm_head and norms stay."""
        assert weights_bytes(demand("mistral-7b-v0.2", self.ENGINE + word)) == self.LINEAR * bits / 8 + self.REST * 2

    def test_experts_are_compiled_in_eight_bits_too(self, demand):
        assert weights_bytes(demand("mixtral-8x7b", f"{self.ENGINE}int8")) == pytest.approx(46.7e9, rel=0.01)

    @pytest.mark.parametrize(("word", "bits"), [("none", 16), ("fp8", 8), ("awq", 4.125)])
    def test_checkpoints_of_modelopt(self, demand, word, bits):
        """Whether the spec says it or their config.json."""
        said = {
            "quantization_config": {"quant_method": "modelopt", "quant_algo": {"awq": "W4A16_AWQ"}.get(word, "FP8")}
        }
        expected = self.LINEAR * bits / 8 + self.REST * 2
        assert weights_bytes(demand("mistral-7b-v0.2", self.TORCH + word)) == expected
        if word != "none":
            assert weights_bytes(demand(config_of("mistral-7b-v0.2") | said, f"{self.TORCH}none")) == expected

    @pytest.mark.parametrize("spec", [ENGINE, TORCH])
    def test_a_share_of_what_all_else_leaves(self, demand, spec):
        """free_gpu_memory_fraction, of what is free after weights and activations: 0.9, or what the spec says."""
        asked = demand("mistral-7b-v0.2", f"{spec}none")
        sizes = measure(asked)
        free = GPUS[asked.place.gpu].bytes - sizes.weights - sizes.workspace
        assert sizes.room == int(free * 0.9)
        half = spec.replace("{kind", "{gpu_memory: 0.5, kind")
        assert measure(demand("mistral-7b-v0.2", f"{half}none")).room == int(free * 0.5)

    def test_all_of_what_is_free_is_refused(self, demand):
        """kvCacheManager.cpp calculateFreeMemBytes: the fraction "must be smaller than 1.0f"."""
        with pytest.raises(SpecError, match="gpu_memory"):
            demand("mistral-7b-v0.2", self.ENGINE.replace("engine}", "engine, gpu_memory: 1}") + "none")

    def test_as_tensorrt_llm_sizes_a_cache(self, demand):
        """Blocks of 32 tokens, and no scale beside a head: 131,072 bytes a token of Mistral-7B, half in int8 or fp8."""
        for spec, kind in ((self.ENGINE, "int8"), (self.TORCH, "fp8")):
            narrow = spec.replace("{kind", f"{{kv_cache: {kind}, kind")
            wide, half = (measure(demand("mistral-7b-v0.2", f"{one}none", context=65)) for one in (spec, narrow))
            assert (wide.cache, half.cache) == (96 * 131072, 48 * 131072)

    def test_graphs_are_the_pytorch_engines_alone(self, demand):
        compiled, torch = (measure(demand("mistral-7b-v0.2", f"{one}none")) for one in (self.ENGINE, self.TORCH))
        assert torch.workspace - compiled.workspace == ENGINES["tensorrt_llm"].graphs

    def test_gpus_share_a_compiled_engine(self, demand):
        two = self.ENGINE.replace("engine}", "engine, tensor_parallel: 2}").replace("40gb", "40gb, count: 2")
        one, half = (measure(demand("mistral-7b-v0.2", f"{spec}none")) for spec in (self.ENGINE, two))
        assert half.weights == pytest.approx(one.weights / 2, rel=0.001)
        assert half.token == one.token / 2

    def test_files_say_how_large_a_compiled_engine_is(self, demand):
        assert weights_bytes(demand("mistral-7b-v0.2", f"{self.ENGINE}int8", files=7_500_000_000)) == 7_500_000_000

    def test_limits_that_were_compiled_in(self, demand):
        """From engine.json, else what `conversion` will compile in, else TensorRT-LLM's defaults."""
        made = f"{self.ENGINE}none\nconversion: {{source: 'file://m', MORE}}"
        limits = Limits(4096, 2048, 16)
        asked = demand("mistral-7b-v0.2", f"{self.ENGINE}none", limits=limits)
        assert (asked.context, asked.piece) == (4096, 2048)
        asked = demand("mistral-7b-v0.2", made.replace("MORE", "max_seq_len: 8192, max_num_tokens: 1024"))
        assert (asked.context, asked.piece) == (8192, 1024)
        asked = demand("mistral-7b-v0.2", made.replace("MORE", "max_input_len: 16384"), context=20000)
        assert (asked.context, asked.piece) == (20000, 16384)
        asked = demand("mistral-7b-v0.2", f"{self.ENGINE}none")
        assert (asked.context, asked.piece) == (32768, 8192)
        for spec, more in ((f"{self.ENGINE}none", {"limits": limits}), (made.replace("MORE", "max_seq_len: 4096"), {})):
            with pytest.raises(SpecError, match="longer than what is compiled in, which is 4096"):
                demand("mistral-7b-v0.2", spec, context=4097, **more)
        small = demand("mistral-7b-v0.2", f"{self.ENGINE}none", limits=limits)
        assert measure(small).workspace < measure(asked).workspace

    def test_requests_that_were_compiled_in(self, demand):
        spec = f"{self.ENGINE}none".replace("16", "8")
        limits = Limits(4096, 2048, 16)
        made = f"{spec}\nconversion: {{source: 'file://m', MORE}}"
        assert demand("mistral-7b-v0.2", spec, limits=limits, requests=16).requests == 16
        for lines, more, most in (
            (spec, {"limits": limits}, 16),
            (made.replace("MORE", "max_batch_size: 12"), {}, 12),
            (made.replace(", MORE", ""), {}, 8),
        ):
            with pytest.raises(SpecError) as caught:
                demand("mistral-7b-v0.2", lines, requests=400, **more)
            (problem,) = caught.value.problems
            assert problem.where == "--concurrency"
            assert problem.what == f"400 requests at once are more than what is compiled in, which is {most}"
            assert problem.mend == f"write {most} or less"
        with pytest.raises(SpecError) as caught:
            demand("mistral-7b-v0.2", spec.replace("8}", "17}"), limits=limits)
        (problem,) = caught.value.problems
        assert problem.where.endswith("packager.yaml:5:28")
        assert problem.mend == "write `max_concurrency: 16` or less"

    def test_an_engines_own_configuration(self, demand):
        """TensorRT-LLM's config.json, as it stands beside a compiled engine, says the same as the model's."""
        own = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8}
        config = compiled.config(**{f"pretrained_config__{key}": one for key, one in own.items()})
        config["pretrained_config"] |= {"num_attention_heads": 32, "head_size": 128, "max_position_embeddings": 32768}
        config["pretrained_config"]["quantization"]["quant_algo"] = "W8A16"
        asked, same = demand(config, f"{self.ENGINE}int8"), demand("mistral-7b-v0.2", f"{self.ENGINE}int8")
        assert (asked.shape.layers, asked.shape.family, asked.shape.estimated) == (32, same.shape.family, "")
        assert weights_bytes(asked) == weights_bytes(same)
        assert (asked.context, asked.piece) == (4096, 8192)
        assert weights_bytes(demand(config, f"{self.ENGINE}none")) == weights_bytes(same)  # it is what it says it is

    def test_heads_that_are_not_a_part_of_the_width(self, demand):
        config = compiled.config()
        config["pretrained_config"] |= {**config_of("mistral-7b-v0.2"), "head_size": 256}
        assert demand(config, f"{self.ENGINE}none").shape.head_dim == 256

    @pytest.mark.parametrize("built", [..., None, {"max_seq_len": -1, "max_num_tokens": 8192, "max_batch_size": 16}])
    def test_a_configuration_without_limits(self, demand, built):
        config = compiled.config(build_config=built)
        config["pretrained_config"] |= config_of("mistral-7b-v0.2")
        assert demand(config, f"{self.ENGINE}none").context == 32768

    @pytest.mark.parametrize("word", ["int8", "int4", "awq", "gptq"])
    def test_words_and_algorithms_are_the_same_widths(self, word):
        algorithm = next(
            one.weights[0] for one in RECIPES["tensorrt_llm_engine"].formats["quantization"] if one.name == word
        )
        assert width_at_load("tensorrt_llm_engine", word) == width_of_weights(f"modelopt:{algorithm}", {})


@pytest.mark.parametrize(
    ("name", "moment"), [("mistral-7b-v0.2", 244350976), ("phi-2", 210010112), ("qwen1.5-1.8b", 103841792)]
)
def test_activations_are_what_an_h200_was_seen_to_take(demand, name, moment):
    """2,048 tokens at once in transformers (tests/gpu/test_gpu_sizing.py). In torch's segments of 2 MiB it is a little more."""
    spec = "engine: {kind: transformers, dtype: bfloat16}\nhardware: {gpu: h200}\nserving: {max_concurrency: 1}"
    assert measure(demand(name, spec, context=2048)).workspace - CONTEXT == pytest.approx(moment, rel=0.005)


@pytest.mark.parametrize(
    ("kind", "option"),
    [("lmdeploy", "cache_share"), ("tensorrt_llm_engine", "gpu_memory"), ("tensorrt_llm", "gpu_memory")],
)
def test_the_cache_has_the_share_that_the_spec_gives_it(demand, kind, option):
    asked = demand("mistral-7b-v0.2", f"engine: {{kind: {kind}}}\nhardware: {{gpu: h100}}")
    assert asked.place.cache_share == ENGINES[kind].share
    other = demand("mistral-7b-v0.2", f"engine: {{kind: {kind}, {option}: 0.25}}\nhardware: {{gpu: h100}}")
    assert (other.place.cache_share, other.place.share) == (0.25, 1.0)


def test_no_gpu_has_more_memory_than_is_sold_nor_much_less():
    for name, gpu in GPUS.items():
        assert 0.91 * gpu.memory <= gpu.bytes / GIB < gpu.memory, name


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("t4", 14.56, 14.75),
        ("a10g", 22.03, 22.07),
        ("l4", 22.03, 22.07),
        ("a100-40gb", 39.37, 39.56),
        ("h200", 139.7, 139.81),
    ],
)
def test_what_torch_calls_the_total_capacity(name, least, most):
    """GiB in PyTorch's words when memory ran out, on machines of others; the H200 is one of ours."""
    assert least <= GPUS[name].bytes / GIB <= most
