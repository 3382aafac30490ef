"""What an engine is compiled with: fields and defaults of builder.py, models/modeling_utils.py, quantization/mode.py and llm_args.py."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class QuantAlgo(str, Enum):
    """As far as the spec has words for it; the library's values are the names too (strenum)."""

    W8A16 = "W8A16"
    W4A16 = "W4A16"
    W4A16_AWQ = "W4A16_AWQ"
    W4A16_GPTQ = "W4A16_GPTQ"
    FP8 = "FP8"
    INT8 = "INT8"


@dataclass
class QuantConfig:
    quant_algo: QuantAlgo | None = None
    kv_cache_quant_algo: QuantAlgo | None = None
    group_size: int = 128
    smoothquant_val: float = 0.5
    clamp_val: list[float] | None = None
    use_meta_recipe: bool = False
    has_zero_point: bool = False
    pre_quant_scale: bool = False
    exclude_modules: list[str] | None = None

    @property
    def _requires_calibration(self) -> bool:
        return self.quant_algo not in (None, QuantAlgo.W8A16, QuantAlgo.W4A16) or self.kv_cache_quant_algo is not None

    @property
    def _requires_modelopt_quantization(self) -> bool:
        if self.quant_algo is None:
            return self.kv_cache_quant_algo == QuantAlgo.FP8
        return self.quant_algo in (QuantAlgo.FP8, QuantAlgo.W4A16_AWQ)


@dataclass
class CalibConfig:
    device: Literal["cuda", "cpu"] = "cuda"
    calib_dataset: str = "cnn_dailymail"
    calib_batches: int = 512
    calib_batch_size: int = 1
    calib_max_seq_length: int = 512
    random_seed: int = 1234
    tokenizer_max_seq_length: int = 2048


@dataclass
class BuildConfig:
    """Without those of its plugins, of speculative decoding and of timing caches."""

    max_input_len: int = 1024
    max_seq_len: int | None = None
    opt_batch_size: int = 8
    max_batch_size: int = 2048
    max_beam_width: int = 1
    max_num_tokens: int = 8192
    opt_num_tokens: int | None = None
    max_prompt_embedding_table_size: int = 0
    kv_cache_type: str | None = None
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    strongly_typed: bool = True
