"""A stand-in for TensorRT-LLM 1.2: its LLM API by name and signature, over a model that likes best to repeat the
prompt's tokens in their order.

Signatures are those of tensorrt_llm/llmapi/llm.py, sampling_params.py and executor/result.py of that version; what is
left out of them, packager does not use. Put the folder above on sys.path to import it.
"""

from .llmapi import LLM, SamplingParams

__version__ = "1.2.1"
__all__ = ["LLM", "SamplingParams"]
