"""What an engine's own library answers, greedy, without our adapter: a program, so that two engines never share a process.

python direct.py KIND WEIGHTS TOKENS CONTEXT PROMPT [QUANTIZATION]    prints {"text": ..., "tokens": COUNT}
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path


def echo(_weights: Path, count: int, _context: int, prompt: str) -> tuple[str, int]:
    words = prompt.split(" ")
    return " ".join(words[:count]), min(count, len(words))


def llama_cpp(weights: Path, count: int, context: int, prompt: str) -> tuple[str, int]:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = context, 1, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    answers: list[str] = []
    body = {"prompt": prompt, "n_predict": count, "temperature": 0, "timings_per_token": True}
    server.handle_completions(json.dumps(body), lambda chunk: answers.append(chunk) and False)
    answer = json.loads(answers[-1])
    return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]


def ctranslate2(weights: Path, count: int, _context: int, prompt: str) -> tuple[str, int]:
    import ctranslate2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    generator = ctranslate2.Generator(str(weights), intra_threads=1)
    (answer,) = generator.generate_batch(
        [tokenizer.encode(prompt).tokens], max_length=count, include_prompt_in_result=False, return_end_token=True
    )
    return tokenizer.decode(answer.sequences_ids[0]), len(answer.sequences_ids[0])


def vllm(weights: Path, count: int, context: int, prompt: str) -> tuple[str, int]:
    import os

    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(weights), max_model_len=context, dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**26, seed=0
    )
    (answer,) = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=count), use_tqdm=False)
    return answer.outputs[0].text, len(answer.outputs[0].token_ids)


def transformers(weights: Path, count: int, _context: int, prompt: str, quantization: str = "") -> tuple[str, int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    torch.set_num_threads(1)
    kinds = {
        "int8": {"load_in_8bit": True},
        "int4": {"load_in_4bit": True},
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    }
    words = {"quantization_config": BitsAndBytesConfig(**kinds[quantization])} if quantization else {}
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForCausalLM.from_pretrained(weights, **words)
    inputs = tokenizer(prompt, return_tensors="pt")
    (answer,) = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    written = answer[inputs["input_ids"].shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True), len(written)


ENGINES: dict[str, Callable[..., tuple[str, int]]] = {
    "echo": echo,
    "llama_cpp": llama_cpp,
    "ctranslate2": ctranslate2,
    "transformers": transformers,
    "vllm": vllm,
}

if __name__ == "__main__":
    kind, weights, count, context, prompt, *quantization = sys.argv[1:]
    text, tokens = ENGINES[kind](Path(weights), int(count), int(context), prompt, *quantization)
    print(json.dumps({"text": text, "tokens": tokens}))
