"""Requests at once against one after another on the transformers engine, and against the library's continuous batching.

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
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from measure import table
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig, LlamaConfig
from transformers.utils import logging

from packager.runtime.engine import Engine, EngineSetup, GenerationRequest, SamplingParams
from packager.runtime.engines import open_engine

TOKENIZER = Path(__file__).resolve().parents[1] / "examples/hello/safetensors"
SHAPES = {
    "tiny": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8},
    "small": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16},
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}


def write_model(folder: Path, shape: str, context: int) -> None:
    config = LlamaConfig(
        **SHAPES[shape], num_key_value_heads=8, vocab_size=32000, max_position_embeddings=context, eos_token_id=None
    )
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
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    most, context = max(given.streams), -(-2 * (given.prompt + given.tokens) // 256) * 256
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        write_model(Path(folder), given.shape, context)
        engine = open_engine("transformers", EngineSetup("m", "1", {"threads": given.threads}, Path(folder), most))
        runner.run(engine.start())
        library = Library(Path(folder), given.threads, most * context)
        ways: dict[str, Callable[[int], object]] = {
            "at once": lambda streams: runner.run(at_once(engine, streams, given.prompt, given.tokens)),
            "in turn": lambda streams: runner.run(in_turn(engine, streams, given.prompt, given.tokens)),
            "the library": lambda streams: library.run(streams, given.prompt, given.tokens),
        }
        for way in ways.values():
            way(1)
        rows = []
        for streams in given.streams:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(given.rounds):
                for name, way in ways.items():
                    found[name].append(timed(lambda way=way, streams=streams: way(streams), streams * given.tokens))
            medians = [tuple(map(statistics.median, zip(*one, strict=True))) for one in found.values()]
            rows.append([str(streams), *(f"{clock:.0f} ({worked:.0f})" for clock, worked in medians)])
        library.manager.stop(block=True)
        runner.run(engine.stop())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {given.threads} threads"
    print(
        f"{given.shape} on {device}; prompts {given.prompt}, answers {given.tokens} tokens; tokens a second (of CPU time)"
    )
    print(table(["streams", *ways], rows))


if __name__ == "__main__":
    main()
