"""Plans: what is asked of TensorRT-LLM for a spec, and what is refused before anything is fetched."""

from dataclasses import asdict
from pathlib import Path

import pytest

from packager.convert.plan import ConvertPlan, make_plan
from packager.convert.source import Found
from packager.errors import SpecError
from packager.lock.check import check
from packager.lock.drift import lock_inputs
from packager.lock.model import ModelFacts
from packager.spec.load import SpecFile, load_spec
from packager.weights.source import SourceFile

BASE = "image: {base: {kind: registry, image: nvcr.io/nvidia/tensorrt-llm/release:1.2.1}}"
MODEL = "hf://ada/model"
FACTS = ModelFacts(("MistralForCausalLM",), dtype="bfloat16", heads=32, context=32768)
FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Asked:
    """Writes a spec, but for what is given, and plans its conversion."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def spec(
        self,
        conversion: str = "",
        *,
        engine: str = "",
        quantization: str = "none",
        gpu: str = "h100",
        count: int = 1,
        serving: str = "",
    ) -> SpecFile:
        lines = [
            "name: hello",
            f"engine: {{kind: tensorrt_llm_engine{', ' if engine else ''}{engine}}}",
            "weights: {source: hf://ada/engine, ship: on_load}",
            f"quantization: {quantization}",
            f"conversion: {{source: {MODEL}{', ' if conversion else ''}{conversion}}}",
            f"hardware: {{gpu: {gpu}, count: {count}}}",
            f"serving: {{max_concurrency: 16{serving}}}",
            BASE,
        ]
        (self.folder / "packager.yaml").write_text("\n".join(lines) + "\n")
        return load_spec(self.folder)

    def plan(self, conversion: str = "", facts: ModelFacts = FACTS, **spec: object) -> ConvertPlan:
        file = self.spec(conversion, **spec)
        check(file)
        files = tuple(SourceFile(path, 1000, "a" * 64) for path in FILES)
        found = Found(MODEL, "a" * 40, files, facts, file.where("conversion", "source"))
        return make_plan(file, found, None, self.folder / "out", upload=False)

    def refused(self, conversion: str = "", facts: ModelFacts = FACTS, **spec: object) -> list[tuple[str, str, str]]:
        with pytest.raises(SpecError) as caught:
            self.plan(conversion, facts, **spec)
        return [(one.where.rpartition("packager.yaml:")[2], one.what, one.mend) for one in caught.value.problems]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def limits(plan: ConvertPlan) -> tuple[int, ...]:
    return tuple(asdict(plan.build.limits).values())


class TestLimits:
    """Requests, tokens in, tokens with the answer, tokens in a step, beams."""

    def test_what_follows_from_the_spec_and_the_model(self, asked):
        assert limits(asked.plan()) == (16, 8192, 32768, 8192, 1)
        assert limits(asked.plan(engine="context_length: 4096")) == (16, 4096, 4096, 8192, 1)
        assert limits(asked.plan(facts=ModelFacts(context=64))) == (16, 64, 64, 1024, 1)

    def test_what_is_said(self, asked):
        said = "max_batch_size: 32, max_input_len: 2048, max_seq_len: 4096, max_num_tokens: 4000, max_beam_width: 2"
        assert limits(asked.plan(said)) == (32, 2048, 4096, 4000, 2)
        assert limits(asked.plan("max_input_len: 16000")) == (16, 16000, 32768, 16000, 1)

    def test_what_contradicts(self, asked):
        assert asked.refused("max_batch_size: 8") == [
            (
                "5:54",
                "`max_batch_size: 8` is less than `serving.max_concurrency: 16`",
                "write 16 or more, or leave it out",
            )
        ]
        assert asked.refused("max_batch_size: 64", serving=", server: triton, triton: ensemble") == [
            (
                "5:54",
                (
                    "`max_batch_size: 64` with `triton: ensemble`, which runs as many requests as are compiled in, and"
                    " `serving.max_concurrency: 16`"
                ),
                "write 16, or leave it out",
            )
        ]
        assert asked.plan(serving=", server: triton, triton: ensemble").build.limits.max_batch_size == 16
        assert asked.refused("max_seq_len: 2048", engine="context_length: 4096") == [
            (
                "5:51",
                "`max_seq_len: 2048` is less than `engine.context_length: 4096`",
                "write 4096 or more, or leave it out",
            )
        ]
        assert asked.refused("max_seq_len: 40000") == [
            (
                "5:51",
                "`max_seq_len: 40000` is more than the 32768 tokens that the model was trained for",
                "write 32768 or less",
            )
        ]
        assert asked.refused("max_seq_len: 2048, max_input_len: 3000") == [
            ("5:72", "`max_input_len: 3000` is more than `max_seq_len`, which is 2048", "write 2048 or less")
        ]
        assert asked.refused("max_input_len: 3000, max_num_tokens: 2048") == [
            (
                "5:75",
                "a prompt is read in one step, and `max_input_len: 3000` is more than `max_num_tokens`",
                "write 3000 or more there, or leave it out",
            )
        ]
        assert asked.refused(facts=ModelFacts()) == [
            ("5:22", "the model does not say how many tokens it was trained for", "write `conversion.max_seq_len`")
        ]


class TestQuantization:
    @pytest.mark.parametrize(
        ("word", "cache", "quantized", "calibrates"),
        [
            ("none", "auto", None, False),
            ("int8", "auto", {"quant_algo": "W8A16"}, False),
            ("int4", "auto", {"quant_algo": "W4A16"}, False),
            ("awq", "auto", {"quant_algo": "W4A16_AWQ"}, True),
            ("fp8", "auto", {"quant_algo": "FP8"}, True),
            ("none", "int8", {"kv_cache_quant_algo": "INT8"}, True),
            ("none", "fp8", {"kv_cache_quant_algo": "FP8"}, True),
            ("int8", "int8", {"quant_algo": "W8A16", "kv_cache_quant_algo": "INT8"}, True),
            ("fp8", "fp8", {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, True),
        ],
    )
    def test_each_in_the_words_of_tensorrt_llm(self, asked, word, cache, quantized, calibrates):
        calls = asked.plan(quantization=word, engine=f"kv_cache: {cache}").build.calls("M", "W")
        assert calls.get("QuantConfig") == quantized
        assert ("CalibConfig" in calls) is calibrates

    def test_a_longer_text_is_tokenized_whole(self, asked):
        plan = asked.plan("calibration: {length: 4096}", quantization="awq")
        calibration = plan.build.calls("M", "W")["CalibConfig"]
        assert (calibration["calib_max_seq_length"], calibration["tokenizer_max_seq_length"]) == (4096, 4096)

    def test_what_tensorrt_llm_does_not_make(self, asked):
        assert asked.refused(quantization="gptq") == [
            ("4:15", "TensorRT-LLM's LLM does not quantize to gptq", "write one of: none, int8, int4, awq, fp8")
        ]
        for word in ("int8", "int4"):
            assert asked.refused(quantization=word, engine="kv_cache: fp8") == [
                (
                    "2:47",
                    f"TensorRT-LLM compiles no fp8 key-value cache with `quantization: {word}`",
                    "write `kv_cache: auto` or `int8`, or `quantization: none`, `awq` or `fp8`",
                )
            ]

    def test_what_calibrates_nothing(self, asked):
        said = ("5:38", "`quantization: int8` with `kv_cache: auto` calibrates nothing", "remove `calibration`")
        assert asked.refused("calibration: {samples: 8}", quantization="int8") == [said]

    @pytest.mark.parametrize(
        ("word", "cache", "dataset", "takes"),
        [
            ("awq", "auto", "pileval", True),
            ("awq", "int8", "/texts", True),
            ("none", "fp8", "/texts", True),
            ("fp8", "auto", "lambada", False),
            ("none", "int8", "lambada", True),
            ("int8", "int8", "/copies/cnn_dailymail", True),
            ("int8", "int8", "/texts", False),
            ("none", "int8", "pileval", False),
        ],
    )
    def test_texts_to_calibrate_on(self, asked, word, cache, dataset, takes):
        spec = {"quantization": word, "engine": f"kv_cache: {cache}"}
        if takes:
            assert asked.plan(f"calibration: {{dataset: {dataset}}}", **spec).build.calibration.dataset == dataset
        else:
            ((_, what, _),) = asked.refused(f"calibration: {{dataset: {dataset}}}", **spec)
            assert what.startswith(f"TensorRT-LLM does not calibrate on {dataset}")

    @pytest.mark.parametrize(
        ("gpu", "word", "said"),
        [
            ("b200", "int8", "`quantization: int8` on tensorrt_llm_engine runs on compute capabilities below 10.0; b200 has 10.0"),
            ("a100-80gb", "fp8", "`quantization: fp8` on tensorrt_llm_engine needs compute capability 8.9 or newer; a100-80gb has 8.0"),
        ],
    )  # fmt: skip
    def test_what_the_gpu_lacks(self, asked, gpu, word, said):
        assert [what for _, what, _ in asked.refused(gpu=gpu, quantization=word)] == [said]

    def test_a_model_that_is_quantized_already(self, asked):
        facts = ModelFacts(quantization="awq", context=4096)
        what = "the model is quantized already (awq), and TensorRT-LLM quantizes models that are not"
        assert asked.refused(facts=facts) == [("5:22", what, "name the model that it was made of")]


def test_gpus_share_it(asked):
    plan = asked.plan(engine="tensor_parallel: 2, pipeline_parallel: 2", count=4)
    llm = plan.build.calls("M", "W")["LLM"]
    assert (llm["tensor_parallel_size"], llm["pipeline_parallel_size"], plan.gpus) == (2, 2, 4)
    (problem,) = asked.refused(engine="tensor_parallel: 3", count=3)
    assert problem[1] == "`tensor_parallel: 3` cannot share the model's 32 attention heads"


def test_what_it_needs_grows_with_what_it_does(asked):
    plain, quantized = asked.plan(), asked.plan(quantization="awq")
    assert (plain.needs.disk, plain.needs.host, plain.needs.gpu) == (6000, 6000, 3000)
    assert (quantized.needs.disk, quantized.needs.gpu) == (3600, 3000)  # a calibrated model stands on the GPU whole


def test_folders_do_not_lie_in_each_other(asked, tmp_path):
    text = (asked.spec().path).read_text()
    for place in (".", "out", "out/model", f"../x/../{tmp_path.name}/out", "model/../out"):
        asked.spec().path.write_text(text.replace(MODEL, f"file://{place}"))
        file = load_spec(tmp_path)
        found = Found(f"file://{tmp_path / place}", "", (SourceFile("tokenizer.json", 1),), FACTS, "")
        with pytest.raises(SpecError, match=f"file://{place} is the output folder, or one of them lies in the other"):
            make_plan(file, found, None, tmp_path / "out", upload=False)


def test_a_model_without_a_tokenizer_wants_one_from_elsewhere(asked):
    file = asked.spec()
    found = Found(MODEL, "", (SourceFile("config.json", 1),), FACTS, "here")
    with pytest.raises(SpecError) as caught:
        make_plan(file, found, None, asked.folder / "out", upload=False)
    (problem,) = caught.value.problems
    assert problem.what == "the model has no tokenizer.json, which the served engine needs"
    assert problem.mend == "name a repository that has it in `weights.tokenizer`"
    file.path.write_text(file.path.read_text().replace("ship: on_load", "tokenizer: hf://ada/words, ship: on_load"))
    assert not make_plan(load_spec(file.path), found, None, asked.folder / "out", upload=False).tokenizer


def test_the_lock_does_not_ask_for_it(asked):
    plain = lock_inputs(asked.spec().spec)
    assert lock_inputs(asked.spec("max_seq_len: 4096, revision: v1, merge: {source: hf://a/b}").spec) == plain
    assert not any("conversion" in name for name in plain)
