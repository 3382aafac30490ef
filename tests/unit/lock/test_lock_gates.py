"""Engine, GPU, spec and weights against each other: what is refused, with which words, and what passes."""

import re
from dataclasses import replace

import pytest

from packager.errors import SpecError
from packager.lock.check import check
from packager.lock.gates import check_dropped, check_files, check_python, check_weights, needs_code
from packager.lock.model import WHOLE, ModelFacts
from packager.recipes.gpus import GPUS
from packager.spec.load import load_spec

MARLIN = "the weights are unpacked to 16 bits for each product (Marlin), which saves memory but no time"
MADE_BY = "llama.cpp's convert_hf_to_gguf.py and llama-quantize"
JOINED = "parts of one model are joined by llama.cpp's llama-gguf-split"
LLAMA = ModelFacts(("LlamaForCausalLM",), dtype="float16", heads=32, context=4096)


@pytest.fixture
def spec(tmp_path):
    """A spec file with these lines after its name; `engine` is one line of YAML."""

    def write(engine: str, *more: str):
        lines = ["name: hello", f"engine: {{{engine}}}", "weights: {source: 'file://model'}", *more]
        (tmp_path / "packager.yaml").write_text("\n".join(lines) + "\n")
        return load_spec(tmp_path)

    return write


def gpu(name: str, count: int = 1) -> str:
    return f"hardware: {{gpu: {name}, count: {count}}}"


def refused(file, act) -> list[tuple[str, str, str]]:
    """The word of the file that each problem points at, what it says, and how to mend it; empty when it passes."""
    lines = file.path.read_text().splitlines()
    try:
        act()
    except SpecError as error:
        return [(_word_at(lines, one.where), one.what, one.mend) for one in error.problems]
    return []


def _word_at(lines: list[str], where: str) -> str:
    _, line, column = where.rsplit(":", 2)
    return re.split(r"[\s,}:]", lines[int(line) - 1][int(column) - 1 :])[0]


class TestCheck:
    """What the spec alone says."""

    @pytest.mark.parametrize(
        ("engine", "more", "at", "what", "mend"),
        [
            (
                "kind: vllm",
                [gpu("a100")],
                "a100",
                "unknown GPU 'a100'",
                "did you mean `a100-40gb` or `a100-80gb`?",
            ),
            (
                "kind: vllm",
                [gpu("rtx4090")],
                "rtx4090",
                "unknown GPU 'rtx4090'",
                "did you mean `rtx-4090`, `rtx-5090` or `rtx-4080`?",
            ),
            (
                "kind: vllm",
                [gpu("h100-80gb")],
                "h100-80gb",
                "unknown GPU 'h100-80gb'",
                "did you mean `h100`?",
            ),
            *(
                ("kind: vllm", [gpu(name)], name, f"unknown GPU '{name}'", f"did you mean {near}?")
                for name, near in {
                    "nvidia-h100-80gb-hbm3": "`h100`",
                    "a100-sxm4-80gb": "`a100-80gb`",
                    "nvidia-a100-pcie-40gb": "`a100-40gb`",
                    "tesla-t4": "`t4`",
                    "nvidia-geforce-rtx-4090": "`rtx-4090`",
                    "h100-nvl-94gb": "`h100` or `h100-nvl`",
                }.items()
            ),
            (
                "kind: vllm",
                [gpu("mi300x")],
                "mi300x",
                "unknown GPU 'mi300x'",
                f"it can be: {', '.join(GPUS)}",
            ),
            (
                "kind: vllm",
                [gpu("v100")],
                "v100",
                "the engine vllm needs compute capability 7.5 or newer; v100 has 7.0",
                "use the engine ctranslate2 or llama_cpp, or use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: vllm, dtype: bfloat16",
                [gpu("t4")],
                "bfloat16",
                "`dtype: bfloat16` on vllm needs compute capability 8.0 or newer; t4 has 7.5",
                "write `dtype: float16`, or use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: vllm, kv_cache: fp8",
                [gpu("t4")],
                "fp8",
                "`kv_cache: fp8` on vllm needs compute capability 8.0 or newer; t4 has 7.5",
                "write `kv_cache: int8_per_token_head`, or use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: vllm, kv_cache: int8_per_token_head",
                [],
                "int8_per_token_head",
                "`kv_cache: int8_per_token_head` on vllm needs a GPU",
                "name one in `hardware.gpu`, or write one of: auto, fp8, fp8_e4m3, fp8_e5m2",
            ),
            (
                "kind: ctranslate2, compute_type: int8_float16",
                [],
                "int8_float16",
                "`compute_type: int8_float16` on ctranslate2 needs a GPU",
                "name one in `hardware.gpu`, or write one of: auto, int8, int8_float32, float32",
            ),
            (
                "kind: ctranslate2, compute_type: bfloat16",
                [gpu("t4")],
                "bfloat16",
                "`compute_type: bfloat16` on ctranslate2 needs compute capability 8.0 or newer; t4 has 7.5",
                "write `compute_type: int8`, or use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: vllm",
                ["quantization: int8"],
                "int8",
                "the engine vllm cannot quantize to int8",
                "use one of: none, awq, gptq, fp8, nf4, gguf; tensorrt_llm_engine or transformers can",
            ),
            (
                "kind: vllm",
                ["quantization: gguf"],
                "gguf",
                "`quantization: gguf` on vllm needs a GPU",
                "name one in `hardware.gpu`, or use the engine llama_cpp",
            ),
            (
                "kind: llama_cpp",
                ["quantization: gguf"],
                "gguf",
                "the engine llama_cpp cannot quantize to gguf",
                "leave it out: this engine takes the weights as they are; vllm can",
            ),
            (
                "kind: llama_cpp",
                ["quantization: awq"],
                "awq",
                "the engine llama_cpp cannot quantize to awq",
                "leave it out: this engine takes the weights as they are; lmdeploy, tensorrt_llm, tensorrt_llm_engine or vllm can",
            ),
            (
                "kind: vllm, tensor_parallel: 2",
                [],
                "2",
                "`tensor_parallel: 2` needs 2 GPUs, and no GPU is named",
                "add `hardware: {gpu: NAME, count: 2}`, or leave it out",
            ),
            (
                "kind: vllm, pipeline_parallel: 2",
                [],
                "2",
                "`tensor_parallel: 1` times `pipeline_parallel: 2` needs 2 GPUs, and no GPU is named",
                "add `hardware: {gpu: NAME, count: 2}`, or leave it out",
            ),
            (
                "kind: vllm, tensor_parallel: 4",
                [gpu("l4", 2)],
                "2",
                "`tensor_parallel: 4` takes 4 GPUs, and `hardware` has 2",
                "write `hardware.count: 4`, or `engine.tensor_parallel: 2`",
            ),
            (
                "kind: vllm",
                [gpu("l4", 4)],
                "4",
                "`tensor_parallel: 1` takes 1 GPU, and `hardware` has 4",
                "write `hardware.count: 1`, or `engine.tensor_parallel: 4`",
            ),
            (
                "kind: vllm, tensor_parallel: 2, pipeline_parallel: 3",
                [gpu("l4", 4)],
                "4",
                "`tensor_parallel: 2` times `pipeline_parallel: 3` takes 6 GPUs, and `hardware` has 4",
                "write `hardware.count: 6`",
            ),
            (
                "kind: llama_cpp, gpu_layers: -1",
                [],
                "-1",
                "`gpu_layers: -1` puts layers on a GPU, and no GPU is named",
                "add `hardware: {gpu: NAME}`, or write 0",
            ),
            (
                "kind: llama_cpp",
                [gpu("l4")],
                "l4",
                "a GPU is named, and no layer of the model is put on it",
                "write `engine.gpu_layers: -1`, or remove `gpu`",
            ),
            (
                "kind: llama_cpp, kv_cache: q8_0, flash_attention: 'off'",
                [],
                "'off'",
                "`kv_cache: q8_0` needs flash attention (llama.cpp: quantized V cache)",
                "write `auto`, or `kv_cache: f16`",
            ),
            (
                "kind: lmdeploy",
                [],
                "lmdeploy",
                "the engine lmdeploy needs a GPU",
                "name one in `hardware.gpu`, such as l4, h100 or b200, or use the engine transformers or vllm",
            ),
            (
                "kind: lmdeploy, version: 0.14.0",
                [gpu("l4")],
                "0.14.0",
                "packager drives lmdeploy from 0.16.0 on, not 0.14.0",
                "write a later one, or leave it out for 0.18.0",
            ),
            (
                "kind: lmdeploy, kv_cache: fp8",
                [gpu("l4")],
                "fp8",
                "`kv_cache: fp8` is for LMDeploy's PyTorch engine",
                "write `auto`, `int8` or `int4`, or `backend: pytorch`",
            ),
            (
                "kind: lmdeploy, kv_cache: turbo_quant",
                [gpu("l4")],
                "turbo_quant",
                "`kv_cache: turbo_quant` is for LMDeploy's PyTorch engine",
                "write `auto`, `int8` or `int4`, or `backend: pytorch`",
            ),
            (
                "kind: lmdeploy, kv_cache: fp8, backend: pytorch",
                [gpu("a100-40gb")],
                "fp8",
                "`kv_cache: fp8` on lmdeploy needs compute capability 8.9 or newer; a100-40gb has 8.0",
                "write `kv_cache: int8`, or use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: lmdeploy, dtype: bfloat16",
                [gpu("t4")],
                "bfloat16",
                "`dtype: bfloat16` on lmdeploy needs compute capability 8.0 or newer; t4 has 7.5",
                "write `dtype: float16`, or use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: transformers, double_quantization: true",
                ["quantization: int8"],
                "true",
                "`double_quantization` is for int4 and nf4, not for `quantization: int8`",
                "write `quantization: nf4`, or remove it",
            ),
        ],
    )
    def test_refused(self, spec, engine, more, *, at, what, mend):
        file = spec(engine, *more)
        assert refused(file, lambda: check(file)) == [(at, what, mend)]

    @pytest.mark.parametrize(
        ("engine", "more"),
        [
            ("kind: vllm", []),
            ("kind: vllm, dtype: float16", [gpu("t4")]),
            ("kind: vllm, dtype: bfloat16, kv_cache: fp8", [gpu("a100-40gb")]),
            ("kind: vllm, tensor_parallel: 2, pipeline_parallel: 2", [gpu("l4", 4)]),
            ("kind: vllm, kv_cache: fp8", []),
            ("kind: vllm", [gpu("l4"), "quantization: fp8"]),
            ("kind: vllm", [gpu("a100-40gb"), "quantization: fp8"]),
            ("kind: transformers, dtype: bfloat16", []),
            ("kind: transformers, dtype: bfloat16", [gpu("l4", 2)]),
            ("kind: transformers, double_quantization: true", ["quantization: nf4"]),
            ("kind: ctranslate2, compute_type: int8_float16", [gpu("v100")]),
            ("kind: lmdeploy, kv_cache: int4", [gpu("t4")]),
            ("kind: lmdeploy, kv_cache: turbo_quant, backend: pytorch", [gpu("a100-40gb")]),
            ("kind: lmdeploy, version: 0.17.0, tensor_parallel: 2", [gpu("l4", 2), "quantization: awq"]),
            ("kind: llama_cpp, gpu_layers: 20, kv_cache: q8_0", [gpu("p40")]),
            ("kind: llama_cpp, kv_cache: f16, flash_attention: 'off'", []),
            ("kind: llama_cpp", ["serving: {max_concurrency: 256}"]),
        ],
    )
    def test_passed(self, spec, engine, more):
        file = spec(engine, *more)
        assert refused(file, lambda: check(file)) == []

    def test_an_old_gpu_is_one_problem_not_two(self, spec):
        """bfloat16 needs a newer GPU than the V100 too, but no dtype helps where the engine does not run."""
        file = spec("kind: vllm, dtype: bfloat16", gpu("v100"))
        assert len(refused(file, lambda: check(file))) == 1


def facts(quantization: str = "", architecture: str = "LlamaForCausalLM", **more) -> ModelFacts:
    return ModelFacts((architecture,), quantization, **more)


class TestWeights:
    """What the weights say too."""

    @pytest.mark.parametrize(
        ("engine", "more", "model", "at", "what", "mend"),
        [
            (
                "kind: vllm",
                [],
                facts(architecture="BaichuanForCausalLM"),
                "engine",
                "vllm 0.32.0 no longer runs BaichuanForCausalLM: 0.23.0 was the last that did",
                "write `engine.version: 0.23.0`, or convert them to GGUF for llama_cpp",
            ),
            (
                "kind: vllm",
                [],
                facts(architecture="InternLMForCausalLM"),
                "engine",
                "vllm 0.32.0 no longer runs InternLMForCausalLM: 0.23.0 was the last that did",
                "write `engine.version: 0.23.0`, or take other weights",
            ),
            (
                "kind: tensorrt_llm",
                [gpu("b200"), "image: {base: {kind: layout, path: base.oci}}"],
                facts("modelopt:w4a16_awq"),
                "b200",
                (
                    "tensorrt_llm with weights that are modelopt:w4a16_awq runs on compute capabilities below 10.0; "
                    "b200 has 10.0"
                ),
                "take weights that are not quantized, or use an older GPU, such as l4, l40 or l40s",
            ),
            (
                "kind: vllm, version: 0.24.0",
                [],
                facts(architecture="BaiChuanForCausalLM", own_code=True),
                "0.24.0",
                "vllm 0.24.0 no longer runs BaiChuanForCausalLM: 0.23.0 was the last that did",
                "write `engine.version: 0.23.0`, or convert them to GGUF for llama_cpp",
            ),
            (
                "kind: vllm",
                [],
                facts(architecture="MptForCausalLM"),
                "engine",
                "vllm 0.32.0 no longer runs MptForCausalLM: 0.28.0 was the last that did",
                "write `engine.version: 0.28.0`, or use the engine transformers",
            ),
            (
                "kind: vllm",
                [],
                facts(architecture="XGLMForCausalLM"),
                "'file",
                "vllm 0.32.0 does not run XGLMForCausalLM",
                "use the engine transformers",
            ),
            (
                "kind: transformers",
                [],
                facts(architecture="NoSuchForCausalLM"),
                "'file",
                "transformers 5.23.0 does not run NoSuchForCausalLM",
                "take weights of a model that it runs (docs/reference/engines.md)",
            ),
            (
                "kind: ctranslate2",
                [],
                facts(architecture="WhisperSpec"),
                "'file",
                "ctranslate2 4.8.5 does not run WhisperSpec",
                "take weights of a model that it runs (docs/reference/engines.md)",
            ),
            (
                "kind: llama_cpp",
                [],
                facts(architecture="nosuch"),
                "'file",
                "llama_cpp 2026.10.11549 does not run nosuch",
                "take weights of a model that it runs (docs/reference/engines.md)",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts(architecture="BaichuanForCausalLM"),
                "engine",
                (
                    "lmdeploy 0.18.0 no longer runs BaichuanForCausalLM: 0.14.0 was the last that did, "
                    "and packager drives none before 0.16.0"
                ),
                "use the engine vllm with `engine.version: 0.23.0` or convert them to GGUF for llama_cpp, or take other weights",
            ),
            (
                "kind: lmdeploy, version: 0.17.0",
                [gpu("l4")],
                facts(architecture="InternLMForCausalLM", own_code=True),
                "0.17.0",
                (
                    "lmdeploy 0.17.0 no longer runs InternLMForCausalLM: 0.14.0 was the last that did, "
                    "and packager drives none before 0.16.0"
                ),
                "use the engine vllm with `engine.version: 0.23.0`, or take other weights",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts(architecture="MistralForCausalLM"),
                "engine",
                "lmdeploy 0.18.0 does not run MistralForCausalLM with `backend: turbomind`",
                "write `backend: pytorch`",
            ),
            (
                "kind: lmdeploy, backend: pytorch",
                [gpu("l4"), "quantization: gptq"],
                facts("gptq", group=128),
                "pytorch",
                "lmdeploy 0.18.0 does not load weights that are gptq with `backend: pytorch`",
                "write `backend: turbomind`",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4"), "quantization: awq"],
                facts("awq", group=64),
                "'file",
                "lmdeploy's turbomind takes awq in groups of 128; these weights are in groups of 64",
                "write `backend: pytorch`, use the engine transformers, use the engine vllm or quantize them in groups of 128",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts("gptq", group=32),
                "'file",
                "lmdeploy's turbomind takes gptq in groups of 128; these weights are in groups of 32",
                "use the engine transformers, use the engine vllm or quantize them in groups of 128",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4"), "quantization: gptq"],
                facts("gptq", group=WHOLE),
                "'file",
                "lmdeploy's turbomind takes gptq in groups of 128; these weights have a scale for each column",
                "use the engine transformers, use the engine vllm or quantize them in groups of 128",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts("compressed-tensors:pack-quantized", group=64),
                "'file",
                "lmdeploy's turbomind takes compressed-tensors in groups of 32 or 128; these weights are in groups of 64",
                "use the engine transformers, use the engine vllm or quantize them in groups of 32 or 128",
            ),
            (
                "kind: lmdeploy, backend: pytorch",
                [gpu("l4")],
                facts("compressed-tensors:pack-quantized", group=128),
                "'file",
                "lmdeploy's pytorch takes compressed-tensors in groups of 32; these weights are in groups of 128",
                "write `backend: turbomind`, use the engine transformers, use the engine vllm or quantize them in groups of 32",
            ),
            (
                "kind: vllm",
                ["quantization: awq"],
                facts(),
                "awq",
                "`quantization: awq` is for weights that are awq, and these are not quantized",
                "take weights that are (GPTQModel makes them), or write `quantization: none`",
            ),
            (
                "kind: vllm",
                ["quantization: awq"],
                facts("gptq"),
                "awq",
                "`quantization: awq`, but the weights' config.json says they are gptq",
                "write `quantization: gptq`",
            ),
            (
                "kind: vllm",
                ["quantization: gptq"],
                facts("compressed-tensors:pack-quantized"),
                "gptq",
                "`quantization: gptq`, but the weights' config.json says they are compressed-tensors:pack-quantized",
                "write `quantization: none`",
            ),
            (
                "kind: vllm",
                ["quantization: nf4"],
                facts("fp8"),
                "nf4",
                "`quantization: nf4`, but the weights' config.json says they are fp8",
                "write `quantization: fp8`, or take weights that are not quantized",
            ),
            (
                "kind: transformers",
                ["quantization: int8"],
                facts("bitsandbytes:nf4"),
                "int8",
                "`quantization: int8`, but the weights' config.json says they are bitsandbytes:nf4",
                "write `quantization: nf4`, or take weights that are not quantized",
            ),
            (
                "kind: transformers, double_quantization: true",
                ["quantization: nf4"],
                facts("bitsandbytes:nf4"),
                "true",
                "`double_quantization` is for weights that are quantized when they are loaded; these are already",
                "remove it",
            ),
            (
                "kind: transformers",
                [],
                facts("bitsandbytes:nf4"),
                "'file",
                "weights that are bitsandbytes:nf4 need bitsandbytes beside transformers",
                "write `quantization: nf4`, which brings it",
            ),
            (
                "kind: transformers",
                ["image: {python_packages: [gptqmodel]}"],
                facts("gptq"),
                "'file",
                "weights that are gptq need optimum beside transformers",
                "add optimum to `image.python_packages`",
            ),
            (
                "kind: vllm",
                [],
                facts("bitsandbytes:int8"),
                "'file",
                "weights that are bitsandbytes:int8 need vllm-bnb-plugin beside vllm",
                "add vllm-bnb-plugin to `image.python_packages`",
            ),
            (
                "kind: vllm",
                [],
                facts("eetq"),
                "'file",
                "vllm 0.32.0 cannot load weights that are eetq",
                "use the engine transformers, or take weights that are not quantized",
            ),
            (
                "kind: transformers",
                [],
                facts("nobody-knows"),
                "'file",
                "transformers 5.23.0 cannot load weights that are nobody-knows",
                "take weights that are not quantized",
            ),
            (
                "kind: vllm",
                [gpu("t4")],
                facts("mxfp4"),
                "t4",
                "vllm with weights that are mxfp4 needs compute capability 8.0 or newer; t4 has 7.5",
                "use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: transformers",
                [gpu("l4"), "image: {python_packages: [fbgemm-gpu]}"],
                facts("fbgemm_fp8"),
                "l4",
                "transformers with weights that are fbgemm_fp8 needs compute capability 9.0 or newer; l4 has 8.9",
                "use a newer GPU, such as h100, b200 or b300",
            ),
            (
                "kind: transformers",
                ["image: {python_packages: [fbgemm_gpu]}"],
                facts("fbgemm_fp8"),
                "'file",
                "transformers with weights that are fbgemm_fp8 needs a GPU",
                "name one in `hardware.gpu`, such as h100, b200 or b300",
            ),
            (
                "kind: vllm, tensor_parallel: 2",
                [gpu("l4", 2), "quantization: nf4"],
                facts("bitsandbytes:nf4"),
                "2",
                "weights that are bitsandbytes:nf4 cannot be split over 2 GPUs by vllm",
                (
                    "write `tensor_parallel: 1`, or take weights that are not quantized: `quantization: nf4` quantizes those "
                    "when they are loaded"
                ),
            ),
            (
                "kind: transformers",
                [gpu("t4")],
                facts(dtype="bfloat16"),
                "engine",
                "transformers with weights that are bfloat16 needs compute capability 8.0 or newer; t4 has 7.5",
                "write `dtype: float16`, or use a newer GPU, such as l4, h100 or b200",
            ),
            (
                "kind: vllm, tensor_parallel: 3",
                [gpu("l4", 3)],
                facts(heads=8),
                "3",
                "`tensor_parallel: 3` cannot share the model's 8 attention heads",
                "write one of: 1, 2, 4, 8",
            ),
            (
                "kind: vllm, tensor_parallel: 3",
                [gpu("l4", 3)],
                facts(heads=1 << 60),
                "3",
                f"`tensor_parallel: 3` cannot share the model's {1 << 60} attention heads",
                "write one of: 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024",
            ),
            *(
                (
                    f"kind: {engine}, tensor_parallel: 4",
                    [gpu("h100", 4), "image: {base: {kind: layout, path: base.oci}}"],
                    facts(heads=40, kv_heads=10),
                    "4",
                    "`tensor_parallel: 4` cannot share the model's 10 heads of keys",
                    "write one of: 1, 2, 5, 10, 20, 40",
                )
                for engine in ("vllm", "lmdeploy", "lmdeploy, backend: pytorch", "tensorrt_llm")
            ),
            (
                "kind: vllm, tensor_parallel: 16",
                [gpu("h100", 16)],
                facts(heads=40, kv_heads=10),
                "16",
                "`tensor_parallel: 16` cannot share the model's 40 attention heads",
                "write one of: 1, 2, 5, 10, 20, 40",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts("gptq:desc_act", group=128),
                "'file",
                "lmdeploy's turbomind cannot load weights that are gptq:desc_act",
                "use the engine transformers or quantize them with `desc_act: false`",
            ),
            (
                "kind: lmdeploy, backend: pytorch",
                [gpu("l4")],
                facts("gptq:desc_act", group=128),
                "pytorch",
                "lmdeploy 0.18.0 does not load weights that are gptq with `backend: pytorch`",
                "use the engine transformers",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts("gptq:asymmetric", group=128),
                "'file",
                "lmdeploy's turbomind cannot load weights that are gptq:asymmetric",
                "use the engine transformers or quantize them with `sym: true`",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts("gptq:8-bit", group=128),
                "'file",
                "lmdeploy's turbomind cannot load weights that are gptq:8-bit",
                "use the engine transformers, use the engine vllm or quantize them with `bits: 4`",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts("awq:unversioned", group=128),
                "'file",
                "lmdeploy's turbomind cannot load weights that are awq:unversioned",
                "write `backend: pytorch`, use the engine transformers, use the engine vllm or quantize them with `version: gemm`",
            ),
            (
                "kind: lmdeploy, backend: pytorch",
                [gpu("l4")],
                facts("awq:gemv", group=128),
                "'file",
                "lmdeploy's pytorch cannot load weights that are awq:gemv",
                "use the engine transformers or quantize them with `version: gemm`",
            ),
            (
                "kind: lmdeploy",
                [gpu("l4")],
                facts("compressed-tensors:float-quantized", group=WHOLE),
                "'file",
                "lmdeploy's turbomind cannot load weights that are compressed-tensors:float-quantized",
                "use the engine transformers, use the engine vllm or take weights that are compressed-tensors:pack-quantized",
            ),
            *(
                (
                    "kind: vllm",
                    [],
                    facts(quantization),
                    "'file",
                    f"vllm 0.32.0 cannot load weights that are {quantization}",
                    f"use the engine transformers or quantize them with `{mend}`",
                )
                for quantization, mend in (
                    ("gptq:desc_act", "desc_act: false"),
                    ("gptq:asymmetric", "sym: true"),
                    ("gptq:3-bit", "bits: 4"),
                    ("awq:gemv", "version: gemm"),
                )
            ),
            # Qwen/Qwen2-72B-Instruct-AWQ as it was first: 231 groups in each row of down_proj
            (
                "kind: vllm, tensor_parallel: 2",
                [gpu("h100", 2)],
                facts("awq", heads=64, kv_heads=8, group=128, cuts=(8192, 29568)),
                "2",
                "`tensor_parallel: 2` cannot share the model's 29568 inputs, which are quantized in groups of 128",
                "write `tensor_parallel: 1`, and `pipeline_parallel: 2` for as many GPUs",
            ),
            # Qwen/Qwen3-4B-FP8
            (
                "kind: vllm, tensor_parallel: 8",
                [gpu("h100", 8)],
                facts("fp8", heads=32, kv_heads=8, group=128, cuts=(4096, 9728)),
                "8",
                "`tensor_parallel: 8` cannot share the model's 9728 inputs, which are quantized in groups of 128",
                "write one of: 1, 2, 4",
            ),
            # Qwen/Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4: its shared expert
            (
                "kind: vllm, tensor_parallel: 8",
                [gpu("h100", 8)],
                facts("gptq", heads=16, kv_heads=16, group=128, cuts=(2048, 5632)),
                "8",
                "`tensor_parallel: 8` cannot share the model's 5632 inputs, which are quantized in groups of 128",
                "write one of: 1, 2, 4",
            ),
            (
                "kind: vllm, context_length: 8192",
                [],
                facts(context=4096),
                "8192",
                "`context_length: 8192` is more than the 4096 tokens that the model was trained for",
                "write 4096 or less, or leave it out",
            ),
        ],
    )
    def test_refused(self, spec, engine, more, model, *, at, what, mend):
        file = spec(engine, *more)
        check(file)
        assert refused(file, lambda: check_weights(file, model, pytest.fail)) == [(at, what, mend)]

    @pytest.mark.parametrize(
        ("engine", "more", "model"),
        [
            ("kind: vllm", [], LLAMA),
            ("kind: vllm, version: 0.23.0", [], facts(architecture="BaichuanForCausalLM")),
            ("kind: vllm, version: 0.23.0", [], facts("gptq:desc_act")),
            ("kind: vllm", [], facts("gptq:8-bit")),
            ("kind: vllm", ["quantization: awq"], facts("awq:unversioned")),
            ("kind: transformers", ["image: {python_packages: [GPTQModel, optimum]}"], facts("gptq:desc_act")),
            ("kind: lmdeploy, backend: pytorch", [gpu("l4")], facts("awq:unversioned", group=128)),
            ("kind: lmdeploy", [gpu("l4")], facts("compressed-tensors", group=128)),
            ("kind: lmdeploy, version: 0.17.0", [gpu("l4")], facts("gptq:desc_act", group=128)),
            ("kind: vllm, version: 0.31.0", [], facts(architecture="NoSuchForCausalLM")),
            ("kind: vllm, version: 0.32.0+cpu", [], LLAMA),
            ("kind: vllm", [], facts(architecture="PhiForCausalLM")),
            ("kind: vllm", [], ModelFacts()),
            ("kind: vllm", [], facts("awq")),
            ("kind: vllm", [gpu("l4")], facts("fp8", dtype="bfloat16")),
            ("kind: vllm", [gpu("a100-40gb")], facts("mxfp4", dtype="bfloat16")),
            ("kind: vllm", ["quantization: awq"], facts("awq")),
            ("kind: vllm", ["quantization: gptq"], facts("gptq_marlin")),
            ("kind: vllm", ["quantization: fp8"], facts()),
            ("kind: vllm", ["quantization: fp8"], facts("compressed-tensors:float-quantized")),
            ("kind: vllm, version: 0.31.0", [], facts("of-a-method-it-dropped")),
            ("kind: vllm", [], facts("compressed-tensors:pack-quantized")),
            ("kind: vllm, tensor_parallel: 2", [gpu("l4", 2), "quantization: nf4"], facts()),
            ("kind: vllm", [gpu("l4"), "quantization: nf4"], facts("bitsandbytes:nf4")),
            ("kind: vllm, context_length: 4096", [], LLAMA),
            *(
                # TurboMind fills the last group up (turbomind/builders/ffn.py), transformers has no tensor parallel
                (f"kind: {engine}", [gpu("h100", 2)], facts(method, heads=64, kv_heads=8, group=128, cuts=(29568,)))
                for engine, method in (
                    ("lmdeploy, tensor_parallel: 2", "awq"),
                    ("lmdeploy, tensor_parallel: 2", "gptq"),
                    ("vllm, pipeline_parallel: 2", "awq"),
                )
            ),
            (
                "kind: vllm, tensor_parallel: 2",
                [gpu("h100", 2)],
                facts("compressed-tensors:pack-quantized", heads=64, group=128, cuts=(8192, 29696)),
            ),
            *(
                (f"kind: vllm, tensor_parallel: {number}", [gpu("h100", number)], facts(heads=40, kv_heads=10))
                for number in (1, 2, 5, 10, 20, 40)
            ),
            ("kind: vllm, context_length: 9999", [], facts()),
            ("kind: transformers", [], facts("fp8")),
            ("kind: transformers", ["quantization: nf4"], facts("bitsandbytes:nf4")),
            ("kind: transformers", ["quantization: int8"], facts()),
            ("kind: transformers, dtype: float16", [gpu("t4")], facts(dtype="bfloat16")),
            ("kind: transformers", [], facts(dtype="bfloat16")),
            ("kind: transformers", ["image: {python_packages: [GPTQModel, optimum]}"], facts("gptq")),
            ("kind: ctranslate2", [], facts(architecture="TransformerDecoderSpec")),
            ("kind: llama_cpp", [], facts(architecture="qwen2")),
            ("kind: lmdeploy", [gpu("l4"), "quantization: awq"], facts("awq", group=128)),
            ("kind: lmdeploy", [gpu("l4")], facts("compressed-tensors:pack-quantized", group=32)),
            ("kind: lmdeploy", [gpu("t4")], facts("awq")),
            ("kind: lmdeploy, backend: pytorch", [gpu("l4"), "quantization: awq"], facts("awq", group=64)),
            ("kind: lmdeploy, backend: pytorch", [gpu("l4")], facts(architecture="MistralForCausalLM")),
            ("kind: lmdeploy, version: 0.17.0", [gpu("l4")], facts(architecture="MistralForCausalLM")),
        ],
    )
    def test_passed(self, spec, engine, more, model):
        file = spec(engine, *more)
        check(file)
        assert refused(file, lambda: check_weights(file, model, pytest.fail)) == []

    @pytest.mark.parametrize(
        ("engine", "architecture", "what"),
        [
            ("transformers", "NoSuchForCausalLM", None),
            ("vllm", "NoSuchForCausalLM", None),
            (
                "vllm",
                "BaichuanForCausalLM",
                "vllm 0.32.0 no longer runs BaichuanForCausalLM: 0.23.0 was the last that did",
            ),
        ],
    )
    def test_vouched_for_code_may_bring_what_no_registry_has(self, spec, engine, architecture, what):
        model = facts(architecture=architecture, own_code=True)
        file = spec(f"kind: {engine}")
        assert len(refused(file, lambda: check_weights(file, model, pytest.fail))) == 1
        trusted = f"{{source: 'file://model', trusted_code: {{modeling.py: {'a' * 64}}}}}"
        file.path.write_text(f"name: hello\nengine: {{kind: {engine}}}\nweights: {trusted}\n")
        trusting = load_spec(file.path)
        found = refused(trusting, lambda: check_weights(trusting, model, pytest.fail))
        assert [one[1] for one in found] == ([what] if what else [])

    def test_all_problems_at_once(self, spec):
        file = spec("kind: vllm, tensor_parallel: 3, context_length: 9999", gpu("l4", 3))
        model = ModelFacts(("NoSuchForCausalLM",), "nobody-knows", "", 8, 4096)
        assert len(refused(file, lambda: check_weights(file, model, pytest.fail))) == 4

    @pytest.mark.parametrize(
        ("engine", "more", "model", "said"),
        [
            ("kind: vllm", [gpu("a100-40gb")], facts("fp8"), f"a100-40gb does not compute in fp8: {MARLIN}"),
            ("kind: vllm", [gpu("t4"), "quantization: fp8"], facts(), f"t4 does not compute in fp8: {MARLIN}"),
            (
                "kind: vllm",
                [gpu("h100")],
                facts("modelopt:nvfp4"),
                f"h100 does not compute in modelopt:nvfp4: {MARLIN}",
            ),
            (
                "kind: transformers",
                [gpu("a100-40gb")],
                facts("fp8"),
                "a100-40gb does not compute in fp8: the weights become bfloat16 when they are loaded, and take twice the memory",
            ),
            (
                "kind: llama_cpp, gpu_layers: -1",
                [gpu("l4")],
                ModelFacts(("llama",)),
                "xllamacpp on the Python package index computes on CPU: let pip find the project's own CUDA wheels",
            ),
            ("kind: vllm", [gpu("t4")], facts(dtype="bfloat16"), "t4 does not compute in bfloat16: vllm takes float16"),
        ],
    )
    def test_what_runs_otherwise_than_its_name_is_said(self, spec, engine, more, model, said):
        heard: list[str] = []
        check_weights(spec(engine, *more), model, heard.append)
        assert heard == [said]


class TestFiles:
    """GGUF is not said in config.json: the files show it."""

    FOLDER = ("config.json", "tokenizer.json")
    GGUF = ("quantization: gguf", gpu("l4"))

    @pytest.mark.parametrize(
        ("more", "files", "at", "what", "mend"),
        [
            (
                GGUF,
                ["model.safetensors", "within/model.gguf"],
                "gguf",
                "`quantization: gguf` on vllm opens a folder with a .gguf file, and these weights have none",
                f"take weights that are ({MADE_BY} make them), or write `quantization: none`",
            ),
            (
                GGUF,
                ["q4.gguf", "q8.gguf"],
                "'file",
                "`quantization: gguf` on vllm opens one .gguf file, and these weights have 2: q4.gguf, q8.gguf",
                f"leave the others out with `weights.include`; {JOINED}",
            ),
            (
                [gpu("l4")],
                ["model.gguf"],
                "'file",
                "these weights are gguf",
                "write `quantization: gguf`, or take weights that have .safetensors files",
            ),
        ],
    )
    def test_refused(self, spec, more, files, *, at, what, mend):
        file = spec("kind: vllm", *more)
        assert refused(file, lambda: check_files(file, [*self.FOLDER, *files])) == [(at, what, mend)]

    @pytest.mark.parametrize(
        ("engine", "more", "files"),
        [
            ("kind: vllm", GGUF, ["model.gguf"]),
            ("kind: vllm", GGUF, ["model.gguf", "model.safetensors"]),
            ("kind: vllm", [], ["model.gguf", "model.safetensors"]),
            ("kind: llama_cpp", [], ["model.gguf"]),
        ],
    )
    def test_passed(self, spec, engine, more, files):
        file = spec(engine, *more)
        assert refused(file, lambda: check_files(file, [*self.FOLDER, *files])) == []

    def test_the_weights_own_word_goes_before(self, spec):
        file = spec("kind: vllm", *self.GGUF)
        assert refused(file, lambda: check_weights(file, LLAMA, str)) == []
        (problem,) = refused(file, lambda: check_weights(file, replace(LLAMA, quantization="awq"), str))
        assert problem[1:] == (
            "`quantization: gguf`, but the weights' config.json says they are awq",
            "write `quantization: awq`",
        )


class TestPython:
    def test_a_base_that_is_too_new_for_the_engine(self, spec):
        file = spec("kind: vllm", "image: {base: {kind: layout, path: base.oci}}")
        what = "the base has Python 3.15.0; vllm 0.32.0 is for Python <3.15,>=3.11"
        assert refused(file, lambda: check_python(file, "3.15.0")) == [
            ("base", what, "choose a base with such a Python")
        ]
        check_python(file, "3.14.2")

    def test_another_version_may_be_for_others(self, spec):
        check_python(spec("kind: vllm, version: 0.40.0"), "3.15.0")


class TestRefusedCode:
    """What is said of weights whose code is refused, before what is said of the code."""

    def test_that_the_engine_has_nothing_else_for_them(self, spec):
        file = spec("kind: transformers")
        (problem,) = needs_code(file, facts(architecture="BaichuanForCausalLM", own_code=True))
        assert problem.what == "transformers 5.23.0 runs BaichuanForCausalLM by the weights' own code alone"
        assert problem.mend == (
            "vouch for that code in `weights.trusted_code`, or use the engine vllm with `engine.version: 0.23.0` or convert "
            "them to GGUF for llama_cpp"
        )

    @pytest.mark.parametrize(
        ("engine", "model"),
        [
            ("kind: vllm", {"architecture": "InternLM2ForCausalLM", "own_code": True}),  # vLLM has the model itself
            ("kind: transformers", {"architecture": "BaichuanForCausalLM"}),  # the code is not the model's
            ("kind: transformers, version: 5.0.0", {"architecture": "BaichuanForCausalLM", "own_code": True}),
            ("kind: ctranslate2", {"architecture": "BaichuanForCausalLM", "own_code": True}),  # runs nobody's code
        ],
    )
    def test_nothing(self, spec, engine, model):
        assert needs_code(spec(engine), facts(**model)) == ()

    def test_that_the_engine_no_longer_has_the_model(self, spec):
        file = spec("kind: lmdeploy", gpu("l4"))
        model = facts(architecture="InternLMForCausalLM", own_code=True)
        ((at, what, _),) = refused(file, lambda: check_dropped(file, model))
        assert at == "engine"
        assert what.startswith("lmdeploy 0.18.0 no longer runs InternLMForCausalLM: 0.14.0 was the last that did")
        check_dropped(file, facts(architecture="InternLM2ForCausalLM", own_code=True))
