"""What weights say of themselves, read without an engine."""

import math
import struct
from pathlib import Path

import pytest

from packager.lock.model import INNER, WHOLE, ModelFacts, facts_of_config, facts_of_ctranslate2, facts_of_gguf

HELLO = Path(__file__).resolve().parents[3] / "examples" / "hello"

QWEN = {"num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192, "intermediate_size": 29568}
MOE = {"num_attention_heads": 16, "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408}
AWQ = {"quant_method": "awq", "group_size": 128, "version": "gemm"}


class TestConfig:
    def test_a_plain_model(self):
        config = {
            "architectures": ["MistralForCausalLM"],
            "torch_dtype": "bfloat16",
            "num_attention_heads": 32,
            "max_position_embeddings": 32768,
        }
        assert facts_of_config(config) == ModelFacts(("MistralForCausalLM",), "", "bfloat16", 32, 32768)

    def test_a_model_with_eyes_keeps_its_language_model_one_level_deeper(self):
        text = {"dtype": "float16", "num_attention_heads": 16, "max_position_embeddings": 4096}
        for place in INNER:
            found = facts_of_config({"architectures": ["AForConditionalGeneration"], place: text})
            assert (found.dtype, found.heads, found.context) == ("float16", 16, 4096)

    def test_older_names(self):
        found = facts_of_config({"n_head": 12, "n_positions": 1024, "torch_dtype": "torch.float16"})
        assert (found.heads, found.context, found.dtype) == (12, 1024, "float16")

    @pytest.mark.parametrize(
        ("config", "heads"),
        [
            ({"num_attention_heads": 40, "num_key_value_heads": 10}, 10),
            ({"text_config": {"num_attention_heads": 32, "num_key_value_heads": 16}}, 16),
            ({"num_attention_heads": 32}, None),
            ({"num_attention_heads": 32, "num_key_value_heads": None}, None),
            # DeepSeek-V3: what is cached is one latent for all heads
            ({"num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512}, None),
        ],
    )
    def test_heads_of_keys(self, config, heads):
        assert facts_of_config(config).kv_heads == heads

    @pytest.mark.parametrize(
        ("said", "name"),
        [
            ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq"),
            ({"quant_method": "awq", "version": "GEMM"}, "awq"),
            ({"quant_method": "awq", "version": "gemv_fast"}, "awq:gemv_fast"),
            ({"quant_method": "awq", "bits": 4}, "awq:unversioned"),
            ({"quant_method": "awq", "w_bit": 3, "version": "gemm"}, "awq:3-bit"),
            ({"quant_method": "gptq"}, "gptq"),
            ({"quant_method": "gptq", "bits": 4, "desc_act": False, "sym": True}, "gptq"),
            ({"quant_method": "gptq", "bits": 4, "desc_act": True, "group_size": 128}, "gptq:desc_act"),
            ({"quant_method": "gptq", "bits": 4, "sym": False, "desc_act": True}, "gptq:asymmetric"),
            ({"quant_method": "gptq", "bits": 8, "sym": True}, "gptq:8-bit"),
            ({"quant_method": "gptq", "bits": 4, "desc_act": True, "group_size": -1}, "gptq"),  # then it orders nothing
            ({"quant_method": "gptq", "bits": True}, "gptq"),
            ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes:int8"),
            ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes:nf4"),
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes:fp4"),
            ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "compressed-tensors:float-quantized"),
            ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt:fp8"),
            ({"quant_method": "modelopt"}, "modelopt"),
            ({"quant_method": "compressed-tensors", "format": 4}, "compressed-tensors"),
            ({"bits": 4}, ""),
            ("awq", ""),
            (None, ""),
        ],
    )
    @pytest.mark.parametrize("place", ["quantization_config", "compression_config"])
    def test_quantization_by_method_and_kind(self, said, name, place):
        assert facts_of_config({place: said}).quantization == name
        assert facts_of_config({"text_config": {place: said}}).quantization == name
        assert facts_of_config({place: said}).method == name.partition(":")[0]

    @pytest.mark.parametrize(
        ("rope", "context"),
        [
            ({"rope_scaling": None}, 4096),
            ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
            ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 8192),
            ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 4096),
            ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 4096),
            ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 4096),
            ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, None),
            ({"rope_scaling": {"type": "of another kind", "factor": 4.0}}, None),
            ({"rope_scaling": {"type": "linear", "factor": "4"}}, None),
            ({"rope_scaling": {"type": "linear", "factor": math.inf}}, None),
            ({"rope_scaling": {"type": "linear", "factor": -2}}, None),
            ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, 4096),  # Qwen2-VL
            ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 4096),
            ({"model_type": "gemma3", "rope_parameters": {"full_attention": {"rope_type": "default"}}}, 4096),
        ],
    )
    def test_context_with_scaled_positions(self, rope, context):
        assert facts_of_config({"max_position_embeddings": 4096, **rope}).context == context

    @pytest.mark.parametrize(
        ("said", "group"),
        [
            ({"quant_method": "awq", "group_size": 64}, 64),
            ({"quant_method": "awq", "q_group_size": 128}, 128),
            ({"quant_method": "gptq", "group_size": -1}, WHOLE),
            ({"config_groups": {"group_0": {"weights": {"group_size": None, "strategy": "channel"}}}}, WHOLE),
            ({"config_groups": {"group_0": {"weights": {"group_size": 32}}}}, 32),
            ({"config_groups": {"group_0": {"weights": {"group_size": None}}}}, None),
            ({"quant_method": "fp8"}, None),
            (
                {"quant_method": "fp8", "weight_block_size": [64, 128]},
                128,
            ),
            ({"quant_method": "fp8", "weight_block_size": 128}, None),
            ({"quant_method": "fp8", "weight_block_size": [128, 0]}, None),
            ({"quant_method": "fp8", "weight_block_size": ["128", None]}, None),
        ],
    )
    def test_how_many_weights_share_a_scale(self, said, group):
        assert facts_of_config({"quantization_config": said}).group == group
        assert facts_of_config({"text_config": {"quantization_config": said}}).group == group

    @pytest.mark.parametrize(
        ("config", "said", "cuts"),
        [
            (QWEN, AWQ, (8192, 29568)),
            (QWEN | {"head_dim": 64}, AWQ, (4096, 29568)),
            (QWEN, AWQ | {"group_size": 64}, (8192, 29568)),
            (QWEN, {"quant_method": "gptq", "group_size": 128, "desc_act": False}, (8192, 29568)),
            (
                QWEN,
                {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"group_size": 128}}}},
                (8192, 29568),
            ),
            # what is not quantized is not cut within a group, nor is what has one scale for a whole column
            (QWEN, AWQ | {"group_size": -1}, ()),
            (QWEN, {"quant_method": "fp8"}, ()),
            (QWEN, {"quant_method": "fp8", "weight_block_size": [128, 128]}, (8192, 29568)),
            (
                QWEN,
                AWQ | {"modules_to_not_convert": ["lm_head", "model.visual", "re:.*mlp.gate$", "model.norm"]},
                (8192, 29568),
            ),
            (QWEN, AWQ | {"modules_to_not_convert": ["model.layers.0.mlp.down_proj"]}, ()),
            (QWEN, AWQ | {"modules_to_not_convert": ["gate_proj"]}, ()),
            (QWEN, {"quant_method": "gptq", "group_size": 128, "dynamic": {"-:down": {}}}, ()),
            (QWEN, {"quant_method": "gptq", "group_size": 128, "modules_in_block_to_quantize": [["q_proj"]]}, ()),
            (QWEN | {"num_attention_heads": None}, AWQ, (29568,)),
            (QWEN | {"intermediate_size": [29568] * 80}, AWQ, (8192,)),
            # narrower than a group, or no multiple of it: there are no such weights
            (QWEN | {"intermediate_size": 128}, AWQ, (8192,)),
            (QWEN | {"intermediate_size": 10944}, AWQ, (8192,)),
            # experts have kernels that make their groups smaller; shared experts and first layers have none
            (MOE | {"num_experts": 60}, AWQ, (2048,)),
            (MOE | {"num_experts": 60, "shared_expert_intermediate_size": 5632}, AWQ, (2048, 5632)),
            (MOE | {"n_routed_experts": 64, "n_shared_experts": 2}, AWQ, (2048, 2816)),
            (
                MOE | {"n_routed_experts": 64, "n_shared_experts": 2, "first_k_dense_replace": 1},
                AWQ,
                (2048, 2816, 5632),
            ),
            (
                {"num_attention_heads": 128, "hidden_size": 7168, "v_head_dim": 128, "qk_nope_head_dim": 128},
                AWQ,
                (16384,),
            ),
        ],
    )
    def test_inputs_that_are_quantized_in_groups(self, config, said, cuts):
        assert facts_of_config(config | {"quantization_config": said}).cuts == cuts
        assert facts_of_config({"text_config": config, "quantization_config": said}).cuts == cuts

    def test_quantized_for_apple(self):
        said = {"group_size": 64, "bits": 4}
        assert facts_of_config({"quantization": said}).quantization == "mlx"
        assert facts_of_config({"quantization": said, "quantization_config": said}).quantization == "mlx"
        assert facts_of_config({"quantization": said, "quantization_config": {"quant_method": "awq"}}).method == "awq"
        assert facts_of_config({"quantization": "4bit", "quantization_config": said}).quantization == ""

    def test_own_code(self):
        assert facts_of_config({"auto_map": {"AutoModelForCausalLM": "modeling.A"}}).own_code
        assert not facts_of_config({"auto_map": {"AutoTokenizer": "tokenization.A"}}).own_code

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"architectures": "LlamaForCausalLM", "dtype": 16, "num_attention_heads": "32", "auto_map": []},
            {"architectures": [1], "num_attention_heads": True, "max_position_embeddings": 0, "text_config": 7},
            {"quantization_config": {"quant_method": 4}, "rope_scaling": "linear"},
        ],
    )
    def test_what_is_not_said_is_empty(self, config):
        assert facts_of_config(config) == ModelFacts()


class TestGguf:
    def test_a_real_file(self):
        head = (HELLO / "hello.gguf").read_bytes()[: 1 << 20]
        assert facts_of_gguf(head) == ModelFacts(("llama",), context=1024)

    def test_a_name_that_is_longer_than_any(self):
        head = b"GGUF\x14" + bytes(7) + b"general.architecture\x08" + bytes(3) + b"\xff" + bytes(7) + b"a" * 255
        assert facts_of_gguf(head) == ModelFacts(("a" * 255,))

    @pytest.mark.parametrize(
        "head", [b"", b"GGUF stand-in for weights\n", b"\x14" + bytes(7) + b"general.architecture"]
    )
    def test_a_header_that_says_nothing(self, head):
        assert facts_of_gguf(head) == ModelFacts()


class TestCTranslate2:
    @staticmethod
    def head(kind: bytes, size: int | None = None) -> bytes:
        return struct.pack("<IH", 6, len(kind) + 1 if size is None else size) + kind + struct.pack("<BII", 0, 8, 61)

    def test_the_kind_of_model(self):
        assert facts_of_ctranslate2(self.head(b"TransformerDecoderSpec")).architectures == ("TransformerDecoderSpec",)
        assert facts_of_ctranslate2(self.head(b"WhisperSpec")).architectures == ("WhisperSpec",)

    @pytest.mark.parametrize("head", [b"", b"PK\x03\x04", b"\x80\x02}q", head.__func__(b"TransformerSpec", 3)])
    def test_another_file(self, head):
        assert facts_of_ctranslate2(head) == ModelFacts()
