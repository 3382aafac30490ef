from .building import _TrtLLM as LLM

__all__ = ["LLM"]
