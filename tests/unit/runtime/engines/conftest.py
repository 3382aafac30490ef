"""A test of an adapter is collected where its library is: in the engine's own environment (`.ci/engines.py test`)."""

from importlib.util import find_spec

NEEDS = {
    "test_engines_chat_template.py": "transformers",
    "test_engines_ctranslate2.py": "ctranslate2",
    "test_engines_decode.py": "tokenizers",
    "test_engines_json_grammar.py": "xllamacpp",
    "test_engines_llama_cpp.py": "xllamacpp",
    "test_engines_sizing.py": "bitsandbytes",
    "test_engines_tensorrt_llm.py": "tokenizers",
    "test_engines_transformers.py": "bitsandbytes",
    "test_engines_transformers_batching.py": "bitsandbytes",
    "test_engines_transformers_rows.py": "bitsandbytes",
    "test_engines_transformers_sampling.py": "bitsandbytes",
    "test_engines_vllm.py": "vllm",
    "test_engines_vllm_gguf.py": "vllm_gguf_plugin",
    "test_engines_vllm_life.py": "vllm",
    "test_engines_vllm_native.py": "vllm",
}
collect_ignore = [name for name, library in NEEDS.items() if find_spec(library) is None]
