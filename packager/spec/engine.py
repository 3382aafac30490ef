"""Engines: a tagged union on `kind`. A new engine is one class here, one line in `EngineSpec`, one recipe, one adapter."""

from typing import Annotated, Literal

from packaging.version import InvalidVersion, Version
from pydantic import Field

from .grammar import Grammar, Strict, problem, quoted


def _version(text: str) -> None:
    try:
        Version(text)
    except InvalidVersion as error:
        raise problem(f"must be an exact version such as 1.2.1, not {quoted(text)}") from error


EngineVersion = Annotated[str, Grammar(r"[0-9A-Za-z.+!-]+", "an exact version such as 1.2.1", 64, check=_version)]


Context = Annotated[int, Field(ge=1, le=16_777_216)]
Parallel = Annotated[int, Field(ge=1, le=1024)]


class TransformersSpec(Strict):
    """Hugging Face transformers on torch: safetensors, also quantized with bitsandbytes when loaded."""

    kind: Literal["transformers"]
    """Hugging Face transformers."""
    version: EngineVersion | None = None
    """Exact version of the engine's wheel; without it the recipe's tested version."""
    context_length: Context | None = None
    """Tokens of prompt and answer together that one request may use; without it what the model was trained for."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights in memory; `auto` takes the weights' own."""
    double_quantization: bool = False
    """With `quantization: nf4` or `int4`: quantize the quantization constants too (0.4 bits a parameter less)."""
    threads: Parallel | None = None
    """CPU threads that compute; without it the physical cores that the container may use."""


class VllmSpec(Strict):
    """vLLM: safetensors, as they are or quantized the way their config says; tensor and pipeline parallel; LoRA."""

    kind: Literal["vllm"]
    """vLLM."""
    version: EngineVersion | None = None
    """Exact version of the engine's wheel; without it the recipe's tested version."""
    context_length: Context | None = None
    """Tokens of prompt and answer together that one request may use; without it what the model was trained for."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights in memory; `auto` takes the weights' own, but bfloat16 for float32 (vLLM's rule)."""
    tensor_parallel: Parallel = 1
    """GPUs that share each layer."""
    pipeline_parallel: Parallel = 1
    """Groups of GPUs that share the layers between them."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.92
    """Share of the GPU's memory that the engine may take."""
    kv_cache: Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "int8_per_token_head"] = "auto"
    """Number format of the key-value cache, in vLLM's words; `auto` takes the model's."""
    kv_cache_gib: Annotated[float, Field(gt=0, le=4096)] | None = None
    """GiB of key-value cache, instead of what fits into `gpu_memory`; on CPU 1 without it."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their cache."""
    eager: bool = False
    """Run without CUDA graphs and compilation: starts sooner, generates slower."""
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 16
    """The largest rank among `weights.adapters`."""
    tool_parser: Annotated[str, Grammar(r"[a-z0-9_.-]+", "a name of vLLM's, such as hermes", 64)] | None = None
    """With `serving.api: native`: vLLM's name for how the model writes tool calls; without it tools are refused."""


class LmdeploySpec(Strict):
    """LMDeploy: safetensors on GPUs, by its TurboMind engine, or by its PyTorch engine where that is asked for."""

    kind: Literal["lmdeploy"]
    """LMDeploy."""
    version: EngineVersion | None = None
    """Exact version of the engine's wheel; without it the recipe's tested version."""
    backend: Literal["turbomind", "pytorch"] = "turbomind"
    """Which of LMDeploy's two engines computes; one never stands in for the other."""
    context_length: Context | None = None
    """Tokens of prompt and answer together that one request may use; without it what the model was trained for."""
    dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    """Number format of the weights in memory; `auto` takes the weights' own, but float16 for float32 (LMDeploy's rule)."""
    tensor_parallel: Parallel = 1
    """GPUs that share each layer."""
    kv_cache: Literal["auto", "int8", "int4", "fp8", "fp8_e5m2", "turbo_quant"] = "auto"
    """Number format of the key-value cache (LMDeploy's `quant_policy`); `auto` takes the model's. The last three are the
    PyTorch engine's alone."""
    cache_share: Annotated[float, Field(gt=0, le=0.99)] = 0.8
    """Share for the key-value cache of the GPU's memory that the weights leave free (`cache_max_entry_count`)."""
    prefix_caching: bool = False
    """Whether prompts that begin alike share their cache."""


class BuiltForSpec(Strict):
    """What compiled an engine that has no engine.json, and for what. The rest is read from TensorRT-LLM's own config.json.

    Nothing can check it but the machine that serves: a wrong word here is an engine that TensorRT refuses when it loads.
    """

    gpu: Annotated[str, Grammar(r"[^\x00-\x1f]+", "the GPU's name, as nvidia-smi prints it", 96)]
    """The GPU that it was compiled on, by the name that `nvidia-smi` prints, such as `NVIDIA A10G`."""
    sm: Annotated[str, Grammar(r"[1-9]\d{0,2}\.\d", "a compute capability such as 8.6", 5)]
    """Its compute capability, such as `8.6`, as text: every GPU that serves must have the same."""
    memory_mib: Annotated[int, Field(ge=1, le=1 << 24)]
    """MiB of memory that each GPU that serves must have."""
    tensorrt: Annotated[str, Grammar(r"\d+(\.\d+){3}", "a version of four parts such as 10.11.0.33", 32)]
    """The TensorRT that compiled it, all four parts."""
    cuda: Annotated[str, Grammar(r"\d{1,3}\.\d{1,3}", "a version of two parts such as 12.9", 7)]
    """The CUDA that compiled it, as text such as `12.9`: the driver that serves must run this major version or a newer one."""
    driver: Annotated[str, Grammar(r"\d+(\.\d+)*", "a version such as 575.57.08", 32)]
    """The driver where it was compiled. It is recorded, not compared: drivers are backward compatible."""


class TensorrtLlmEngineSpec(Strict):
    """An engine that TensorRT-LLM compiled (1.2.1 is the last version that has them), on the kind of GPU that compiled it."""

    kind: Literal["tensorrt_llm_engine"]
    """TensorRT-LLM with a compiled engine."""
    version: EngineVersion | None = None
    """Exact version of TensorRT-LLM, which compiled the engine and is in the base; without it the recipe's tested version."""
    context_length: Context | None = None
    """Tokens of prompt and answer together that one request may use; without it what the engine was compiled for."""
    tensor_parallel: Parallel = 1
    """GPUs that share each layer, as compiled in."""
    pipeline_parallel: Parallel = 1
    """Groups of GPUs that share the layers between them, as compiled in."""
    gpu_memory: Annotated[float, Field(gt=0, le=0.99)] = 0.9
    """Share for the key-value cache of the GPU's memory that the engine leaves free (TensorRT-LLM refuses all of it)."""
    kv_cache: Literal["auto", "int8", "fp8"] = "auto"
    """Number format of the key-value cache, as compiled in; `auto` takes it as it is."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their cache."""
    built_for: BuiltForSpec | None = None
    """What compiled an engine from elsewhere, that has no engine.json; without either an engine is refused."""


class TensorrtLlmSpec(Strict):
    """TensorRT-LLM's PyTorch engine: safetensors of Hugging Face or ModelOpt, with nothing compiled before."""

    kind: Literal["tensorrt_llm"]
    """TensorRT-LLM's PyTorch engine."""
    version: EngineVersion | None = None
    """Exact version of TensorRT-LLM, which is in the base; without it the recipe's tested version."""
    context_length: Context | None = None
    """Tokens of prompt and answer together that one request may use; without it what the model was trained for."""
    tensor_parallel: Parallel = 1
    """GPUs that share each layer."""
    pipeline_parallel: Parallel = 1
    """Groups of GPUs that share the layers between them."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share for the key-value cache of the GPU's memory that the weights leave free."""
    kv_cache: Literal["auto", "fp8", "nvfp4"] = "auto"
    """Number format of the key-value cache; `auto` takes the weights' own."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their cache."""


class CTranslate2Spec(Strict):
    """CTranslate2: a converted model folder (model.bin, config.json, tokenizer.json), on CPU or GPU."""

    kind: Literal["ctranslate2"]
    """CTranslate2."""
    version: EngineVersion | None = None
    """Exact version of the engine's wheel; without it the recipe's tested version."""
    context_length: Context | None = None
    """Tokens of prompt and answer together that one request may use; without it 2048, because the folder does not say."""
    compute_type: Literal[
        "auto", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "float32", "float16", "bfloat16"
    ] = "auto"
    """Number format to compute in, in CTranslate2's words; `auto` takes what the folder was converted to."""
    threads: Parallel | None = None
    """CPU threads for each request that runs; without it the physical cores shared among `serving.max_concurrency`."""


class LlamaCppSpec(Strict):
    """llama.cpp, through the prebuilt `xllamacpp` wheel: GGUF weights on CPU or GPU."""

    kind: Literal["llama_cpp"]
    """llama.cpp with GGUF weights."""
    version: EngineVersion | None = None
    """Exact version of the engine's wheel; without it the recipe's tested version."""
    context_length: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """Tokens of prompt and answer together that one request may use; without it what the model was trained for."""
    gpu_layers: Annotated[int, Field(ge=-1, le=10_000)] = 0
    """Model layers to put on the GPU; -1 puts all."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads that compute; without it the physical cores that the container may use, less one for the server."""
    kv_cache: Literal["auto", "f16", "q8_0", "q4_0"] = "auto"
    """Number format of the key-value cache; `auto` is the engine's own default."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    """Whether to use flash attention; `auto` lets the engine decide."""


class EchoSpec(Strict):
    """An engine without weights that streams the prompt back: for trials and tests of the whole line."""

    kind: Literal["echo"]
    """Streams the prompt back; needs no weights."""
    delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    """Milliseconds to wait before each token."""
    fail_after: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Fail each stream after this many tokens, to see what clients make of it."""


EngineSpec = Annotated[
    TransformersSpec
    | VllmSpec
    | LmdeploySpec
    | TensorrtLlmEngineSpec
    | TensorrtLlmSpec
    | LlamaCppSpec
    | CTranslate2Spec
    | EchoSpec,
    Field(discriminator="kind"),
]
