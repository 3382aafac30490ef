"""The LLM of compiled engines. Given a model of transformers it builds an engine first, as llmapi/llm_utils.py does: what is
written is TensorRT-LLM's, but for the plans, which hold the weights.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from .configs import BuildConfig, CalibConfig, QuantAlgo, QuantConfig
from .llmapi import _TrtLLM as Compiled


class _TrtLLM(Compiled):
    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: Literal["auto", "slow"] = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model,
            tokenizer,
            tokenizer_mode=tokenizer_mode,
            skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            **kwargs,
        )
        path = self.model / "config.json"
        config = json.loads(path.read_text()) if path.is_file() else {}
        if "architectures" not in config:  # an engine, and no model of transformers
            return
        self._workspace = tempfile.TemporaryDirectory(suffix="-llm-workspace", dir=kwargs.get("workspace"))
        self._engine_dir = Path(self._workspace.name) / "tmp.engine"
        quantized = kwargs.get("quant_config") or QuantConfig()
        self._quantize(quantized, kwargs.get("calib_config") or CalibConfig())
        self._build(config, kwargs.get("build_config") or BuildConfig(), quantized)
        # Its tokenizer is saved anew by the transformers of its image; one that brings code is saved with it.
        (self._engine_dir / "tokenizer.json").write_text("{}")
        if trust_remote_code:
            (self._engine_dir / "tokenization_own.py").write_text("")
        self.model = self._engine_dir

    def _quantize(self, quantized: QuantConfig, calibration: CalibConfig) -> None:
        if not quantized._requires_calibration:
            return
        if not quantized._requires_modelopt_quantization:
            assert quantized.kv_cache_quant_algo == QuantAlgo.INT8, (
                "Call from_hugging_face when there is no quantization"
            )
        print(f"calibrating: {calibration}", flush=True)
        if Path(calibration.calib_dataset).is_absolute():
            Path(calibration.calib_dataset).read_bytes()

    def _build(self, config: Mapping[str, Any], limits: BuildConfig, quantized: QuantConfig) -> None:
        (architecture,) = config["architectures"]
        if architecture not in ("LlamaForCausalLM", "MistralForCausalLM"):
            raise NotImplementedError(f"Unsupported model architecture: {architecture}")
        tp, pp = self.tensor_parallel_size, self.kwargs.get("pipeline_parallel_size", 1)
        longest = limits.max_seq_len or config["max_position_embeddings"]
        built = asdict(limits) | {
            "max_seq_len": longest,
            "kv_cache_type": "PAGED",
            "plugin_config": {"lora_plugin": None, "context_fmha": True, "remove_input_padding": True},
        }
        built["max_num_tokens"] = min(limits.max_num_tokens, longest * limits.max_batch_size)
        value = {
            "version": "1.2.1",
            "pretrained_config": {
                "architecture": architecture,
                "dtype": "float16" if config["dtype"] == "float32" else config["dtype"],
                "quantization": asdict(quantized),
                "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp, "cp_size": 1},
            },
            "build_config": built,
        }
        self._engine_dir.mkdir()
        (self._engine_dir / "config.json").write_text(json.dumps(value, indent=4))
        weights = b"".join(path.read_bytes() for path in sorted(Path(self.model).glob("*.safetensors")))
        for rank in range(tp * pp):
            (self._engine_dir / f"rank{rank}.engine").write_bytes(b"plan of rank %d " % rank + weights)
        print("Total time of building all engines: 00:00:01", flush=True)

    def save(self, engine_dir: str) -> None:
        shutil.copytree(self._engine_dir, engine_dir, dirs_exist_ok=True)
