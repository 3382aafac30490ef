import json
from pathlib import Path

SUPPORTED_ARCHS = {"InternLM2ForCausalLM": "internlm2", "LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}


def is_supported(model_path, trust_remote_code=False):
    config = json.loads((Path(model_path) / "config.json").read_text())
    return config["architectures"][0] in SUPPORTED_ARCHS
