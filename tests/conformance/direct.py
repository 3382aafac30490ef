"""What an engine's own library answers, greedy, without our adapter: a program, so that two engines never share a process.

python direct.py KIND WEIGHTS TOKENS CONTEXT PROMPT [QUANTIZATION]    prints {"text": ..., "tokens": COUNT}
"""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any


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


def lmdeploy(weights: Path, count: int, context: int, prompt: str) -> tuple[str, int]:
    import asyncio

    if not find_spec("lmdeploy"):
        _stand_in()
    from lmdeploy.messages import GenerationConfig, TurbomindEngineConfig
    from lmdeploy.serve.core.async_engine import AsyncEngine

    config = TurbomindEngineConfig(dtype="float16", session_len=context, max_batch_size=1, cache_max_entry_count=0.05)
    engine = AsyncEngine(str(weights), backend_config=config)

    async def answer() -> tuple[str, int]:
        engine.start_loop(asyncio.get_running_loop(), use_async_api=True)
        config = GenerationConfig(max_new_tokens=count, do_sample=False)
        ids = engine.tokenizer.encode(prompt)
        request = await engine.preprocess(None, engine.session_mgr.get(), gen_config=config, input_ids=ids)
        steps = [step async for step in engine.generate(request)]
        return "".join(step.response for step in steps), steps[-1].generate_token_len

    return asyncio.run(answer())


def tensorrt_llm_engine(weights: Path, count: int, _context: int, prompt: str) -> tuple[str, int]:
    _stand_in()
    from tensorrt_llm._tensorrt_engine import LLM

    return _tensorrt_llm(LLM, weights, count, prompt)


def tensorrt_llm(weights: Path, count: int, _context: int, prompt: str) -> tuple[str, int]:
    _stand_in()
    from tensorrt_llm import LLM

    return _tensorrt_llm(LLM, weights, count, prompt)


def _tensorrt_llm(engine: Callable[..., Any], weights: Path, count: int, prompt: str) -> tuple[str, int]:
    import asyncio

    from tensorrt_llm import SamplingParams
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    end = tokenizer.token_to_id(json.loads((weights / "tokenizer_config.json").read_text())["eos_token"])

    async def answer() -> list[int]:
        params = SamplingParams(end_id=end, pad_id=end, max_tokens=count)
        ids = tokenizer.encode(prompt).ids
        result = engine(model=str(weights), tokenizer=str(weights)).generate_async(ids, params, streaming=True)
        return [step.outputs[0].token_ids[:] async for step in result][-1]

    ids = asyncio.run(answer())
    return tokenizer.decode(ids), len(ids)


def _stand_in() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes/vendor"))


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
    "lmdeploy": lmdeploy,
    "tensorrt_llm_engine": tensorrt_llm_engine,
    "tensorrt_llm": tensorrt_llm,
}

if __name__ == "__main__":
    kind, weights, count, context, prompt, *quantization = sys.argv[1:]
    text, tokens = ENGINES[kind](Path(weights), int(count), int(context), prompt, *quantization)
    print(json.dumps({"text": text, "tokens": tokens}))
