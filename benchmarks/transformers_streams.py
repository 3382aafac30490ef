"""Requests at once against one after another on the transformers engine, and against the library alone: its generate(), one
request at a time, which is what the walk-throughs measured, and its continuous batching.

A model with random weights, greedy answers, prompts of as many tokens. Rounds are interleaved; a table shows the
median of each, in tokens a second of the clock and, on a CPU, of processor time, which a busy machine disturbs less.
Run it in the engine's environment: .venv-transformers/bin/python benchmarks/transformers_streams.py
"""

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from measure import table
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    Qwen2Config,
)
from transformers.utils import logging

from packager.runtime.engine import Engine, EngineSetup, GenerationRequest, SamplingParams
from packager.runtime.engines import open_engine

TOKENIZER = Path(__file__).resolve().parents[1] / "examples/hello/safetensors"


def _sizes(width: int, hidden: int, layers: int, heads: int, groups: int = 8, words: int = 32000) -> dict[str, int]:
    sizes = {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers}
    return sizes | {"num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": words}


SHAPES: dict[str, tuple[Any, dict[str, int]]] = {
    "tiny": (LlamaConfig, _sizes(256, 768, 4, 8)),
    "small": (LlamaConfig, _sizes(1024, 2816, 12, 16)),
    "7b": (LlamaConfig, _sizes(4096, 14336, 32, 32)),
    "qwen1.5-1.8b": (Qwen2Config, _sizes(2048, 5504, 24, 16, 16, 151936)),
}


def write_model(folder: Path, shape: str, context: int) -> None:
    kind, sizes = SHAPES[shape]
    config = kind(**sizes, max_position_embeddings=context, eos_token_id=None)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)


async def ask(engine: Engine, number: int, words: int, tokens: int) -> None:
    sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    request = GenerationRequest(str(number), prompt=f"{number % 10}" * words, sampling=sampling)
    async for _ in engine.stream(request):
        pass


async def at_once(engine: Engine, streams: int, words: int, tokens: int) -> None:
    await asyncio.gather(*(ask(engine, number, words, tokens) for number in range(streams)))


async def in_turn(engine: Engine, streams: int, words: int, tokens: int) -> None:
    for number in range(streams):
        await ask(engine, number, words, tokens)


class Naive:
    """The library's generate(), request after request."""

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map=device).eval()

    def run(self, streams: int, words: int, tokens: int) -> None:
        for number in range(streams):
            inputs = self.tokenizer(f"{number % 10}" * words, return_tensors="pt").to(self.model.device)
            self.model.generate(**inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False)


class Library:
    """Continuous batching as the library does it, with room for the same requests."""

    def __init__(self, folder: Path, threads: int, columns: int) -> None:
        torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map=device).eval()
        settings = ContinuousBatchingConfig(
            num_blocks=columns // 256 + 1,
            max_batch_tokens=2048 if device == "cuda" else 256,
            auto_switch_to_flash=False,
            allow_block_sharing=False,  # the prompts are the same in every round
        )
        self.manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1), continuous_batching_config=settings
        )
        self.manager.start()

    def run(self, streams: int, words: int, tokens: int) -> None:
        for number in range(streams):
            ids = self.tokenizer(f"{number % 10}" * words)["input_ids"]
            self.manager.add_request(ids, f"{number}-{time.monotonic()}", max_new_tokens=tokens)
        done = 0
        while done < streams:
            result = self.manager.get_result(timeout=600)
            if result is None or result.error:
                raise SystemExit(f"the library failed: {result and result.error}")
            done += result.is_finished()

    def stop(self) -> None:
        self.manager.stop(block=True)


_WARM = 4
"""Tokens of the requests before the first round: a batch of another size is other kernels."""
WAYS = AT_ONCE, IN_TURN, GENERATE, LIBRARY = "at once", "in turn", "generate()", "the library"


def timed(work: Callable[[], object], tokens: int) -> tuple[float, float]:
    """Tokens a second of the clock, and of processor time."""
    begun, worked = time.perf_counter(), time.process_time()
    work()
    return tokens / (time.perf_counter() - begun), tokens / (time.process_time() - worked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt, about")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    most, context = max(given.streams), -(-2 * (given.prompt + given.tokens) // 256) * 256
    with tempfile.TemporaryDirectory() as temporary, asyncio.Runner() as runner, ExitStack() as stack:
        folder = Path(temporary)
        write_model(folder, given.shape, context)
        engine = open_engine("transformers", EngineSetup("m", "1", {"threads": given.threads}, folder, most))
        runner.run(engine.start())
        stack.callback(lambda: runner.run(engine.stop()))
        ways: dict[str, Callable[[int, int], object]] = {}
        if AT_ONCE in given.ways:
            ways[AT_ONCE] = lambda streams, tokens: runner.run(at_once(engine, streams, given.prompt, tokens))
        if IN_TURN in given.ways:
            ways[IN_TURN] = lambda streams, tokens: runner.run(in_turn(engine, streams, given.prompt, tokens))
        if GENERATE in given.ways:
            naive = Naive(folder, given.threads)
            ways[GENERATE] = lambda streams, tokens: naive.run(streams, given.prompt, tokens)
        if LIBRARY in given.ways:
            library = Library(folder, given.threads, most * context)
            stack.callback(library.stop)
            ways[LIBRARY] = lambda streams, tokens: library.run(streams, given.prompt, tokens)
        rows = []
        for streams in given.streams:
            for way in ways.values():
                way(streams, _WARM)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(given.rounds):
                for name, way in ways.items():
                    work = partial(way, streams, given.tokens)
                    found[name].append(timed(work, streams * given.tokens))
            medians = [tuple(map(statistics.median, zip(*one, strict=True))) for one in found.values()]
            rows.append([str(streams), *(f"{clock:.0f} ({worked:.0f})" for clock, worked in medians)])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {given.threads} threads"
    print(
        f"{given.shape} on {device}; prompts {given.prompt}, answers {given.tokens} tokens; tokens a second (of CPU time)"
    )
    print(table(["streams", *ways], rows))


if __name__ == "__main__":
    main()
