from dataclasses import replace
from pathlib import Path

import pytest
from fakes.engines import make_setup

from packager.errors import LoadError
from packager.runtime.engines import read_options
from packager.runtime.engines.vllm_options import Place, VllmOptions, engine_arguments
from packager.spec.engine import VllmSpec

GPU, CPU = Place(cpu=False, quantized=False), Place(cpu=True, quantized=False)
WEIGHTS = Path("weights")


def arguments(place: Place = GPU, quantization: str = "none", adapters: dict | None = None, **options):
    setup = replace(make_setup(WEIGHTS, slots=7, quantization=quantization, **options), adapters=adapters or {})
    return engine_arguments(setup, read_options(VllmOptions, setup), place)


def test_the_options_are_the_specs():
    """Name by name, with the same defaults."""
    spec = VllmSpec(kind="vllm").model_dump(exclude={"kind", "version"})
    ours = VllmOptions()
    assert spec == {name: getattr(ours, name) for name in ours.__slots__}


def test_code_of_the_weights_runs_only_where_it_was_vouched_for():
    setup = make_setup(WEIGHTS)
    for vouched in (False, True):
        said = engine_arguments(replace(setup, own_code=vouched), VllmOptions(), GPU)
        assert said["trust_remote_code"] is vouched


def test_an_option_that_the_adapter_lacks_is_refused():
    with pytest.raises(LoadError, match="'warp'"):
        arguments(warp=9)


def test_what_the_spec_says_reaches_vllm():
    said = arguments(
        context_length=4096,
        dtype="float16",
        tensor_parallel=4,
        pipeline_parallel=2,
        gpu_memory=0.5,
        kv_cache="fp8",
        kv_cache_gib=2.5,
        prefix_caching=False,
        eager=True,
    )
    assert said["model"] == "weights"
    assert said["served_model_name"] == "tiny"
    assert said["max_num_seqs"] == 7
    assert said["max_model_len"] == 4096
    assert said["dtype"] == "float16"
    assert (said["tensor_parallel_size"], said["pipeline_parallel_size"]) == (4, 2)
    assert said["gpu_memory_utilization"] == 0.5
    assert (said["kv_cache_dtype"], said["kv_cache_memory_bytes"]) == ("fp8", 2_684_354_560)
    assert said["enable_prefix_caching"] is False
    assert said["enforce_eager"] is True


@pytest.mark.parametrize(
    ("asked", "vllms"), [("none", None), ("awq", None), ("gptq", None), ("fp8", "fp8"), ("nf4", "bitsandbytes")]
)
def test_quantization_of_plain_weights(asked, vllms):
    """What vLLM does to them while it loads; awq and gptq are weights that say so themselves."""
    assert arguments(quantization=asked)["quantization"] == vllms


def test_quantized_weights_say_themselves_how():
    assert arguments(Place(cpu=False, quantized=True), quantization="fp8")["quantization"] is None


def test_a_gguf_file_is_the_model_and_its_folder_the_tokenizer_and_the_config():
    said = arguments(Place(cpu=False, quantized=False, gguf=WEIGHTS / "tiny.Q4_K_M.gguf"), quantization="gguf")
    assert said["model"] == "weights/tiny.Q4_K_M.gguf"
    assert (said["tokenizer"], said["hf_config_path"]) == ("weights", "weights")
    assert (said["quantization"], said["load_format"], said["config_format"]) == ("gguf", "gguf", "gguf")
    assert not {"tokenizer", "hf_config_path", "load_format", "config_format"} & arguments().keys()


def test_a_gpu_is_filled_as_the_spec_says():
    said = arguments()
    assert said["kv_cache_memory_bytes"] is None
    assert "distributed_executor_backend" not in said


def test_on_cpu_the_cache_has_a_size_and_the_model_runs_in_the_engines_process():
    said = arguments(CPU)
    assert said["kv_cache_memory_bytes"] == 2**30
    assert said["distributed_executor_backend"].endswith(".UniProcExecutor")
    assert "distributed_executor_backend" not in arguments(CPU, tensor_parallel=2)


def test_adapters_are_switched_on_by_being_there():
    assert "enable_lora" not in arguments()
    said = arguments(adapters={"a": Path("a"), "b": Path("b")}, max_lora_rank=64)
    assert (said["enable_lora"], said["max_loras"], said["max_lora_rank"]) == (True, 2, 64)
