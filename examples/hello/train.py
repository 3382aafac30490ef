"""Trains the hello model from nothing and writes its safetensors folder and its GGUF file.

    pip install -r requirements-train.txt
    python train.py                                     # two processor cores, about half an hour
    python train.py --read-steps 60 --talk-steps 20     # a trial: see the loss fall

It learns in two phases: `read` goes through all the text, mixed with chats made from it; `talk` then sees one short chat at
a time. The seed is fixed; the text is that of the running CPython, so another Python version gives another model.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import corpus
import torch
from export import write_gguf
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
SEED = 20
CONTEXT = 1024
"""Tokens in a training sequence, and the longest context that the model promises."""
BEGIN, START, END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0, 1 and 2: begins a document (also the padding), begins a turn, ends a turn or a document."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# One head is 64 wide and every width is a multiple of 256, so that K-quants, groups of 128, bitsandbytes and attention
# kernels all accept the model. The embedding is also the output layer.
SHAPE: dict[str, int | float | bool | str] = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer with GPT-2's way of splitting words, which llama.cpp knows under the name gpt-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=int(SHAPE["vocab_size"]),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def render(messages: list[dict[str, str]]) -> str:
    """What CHAT_TEMPLATE gives for finished messages."""
    return "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages)


def by_name(entries: list[corpus.Entry]) -> dict[str, corpus.Entry]:
    """The entries worth asking about. Where many functions share a name, only the first answers "What is ...?"."""
    named: dict[str, corpus.Entry] = {}
    for entry in entries:
        if not entry.name.rpartition(".")[2].startswith("_"):
            named.setdefault(entry.name, entry)
    return named


def documents(entries: list[corpus.Entry], rng: random.Random) -> list[str]:
    """One epoch: every entry once as plain text, and every entry with a public name at least once in a chat."""
    plain = ["\n".join(e.paragraphs) + END for e in entries]
    named = by_name(entries).values()
    asked = list(named) + 2 * [e for e in named if e.reference]
    rng.shuffle(asked)
    chats: list[str] = []
    while asked:
        turns = [asked.pop() for _ in range(min(rng.choice((1, 1, 2, 3)), len(asked)))]
        chats.append(render(corpus.conversation(turns, rng)))
    return [BEGIN + text if rng.random() < 0.3 else text for text in plain + chats]


def reading(tokenizer: Tokenizer, entries: list[corpus.Entry], rng: random.Random) -> Iterator[list[int]]:
    """Endless sequences of CONTEXT token ids, each of many documents, the first from its beginning."""
    while True:
        texts = documents(entries, rng)
        rng.shuffle(texts)
        block: list[int] = []
        for encoding in tokenizer.encode_batch(texts):
            block += encoding.ids
            if len(block) >= CONTEXT:
                yield block[:CONTEXT]
                block = []


def talking(tokenizer: Tokenizer, entries: list[corpus.Entry], rng: random.Random) -> Iterator[list[int]]:
    """Endless sequences of one document each, mostly a short chat, as a server sends them; at most 192 token ids."""
    everything = list(by_name(entries).values())
    reference = [e for e in everything if e.reference]
    while True:
        if rng.random() < 0.2:
            text = "\n".join(rng.choice(entries).paragraphs) + END
        else:
            asked = [
                rng.choice(reference if rng.random() < 0.6 else everything) for _ in range(rng.choice((1, 1, 1, 2)))
            ]
            text = render(corpus.conversation(asked, rng))
        yield tokenizer.encode(text).ids[:192]


def rate(step: int, steps: int, peak: float) -> float:
    """The learning rate at a step: a short linear rise, then a cosine down to nearly zero."""
    rise = min(100, steps // 10)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise))))


def loss_of(model: LlamaForCausalLM, batch: list[list[int]]) -> torch.Tensor:
    """Mean cross-entropy in nats per token; the products run in bfloat16.

    Shorter sequences are filled up at their end, where causal attention cannot see, and the filling does not count.
    """
    # A multiple of 64: oneDNN builds its kernels anew for every length it has not met.
    longest = -(-max(map(len, batch)) // 64) * 64
    ids = torch.tensor([ids + [TOKEN_IDS["pad_token_id"]] * (longest - len(ids)) for ids in batch])
    labels = torch.tensor([ids + [-100] * (longest - len(ids)) for ids in batch])
    with torch.autocast("cpu", torch.bfloat16):
        loss: torch.Tensor = model(input_ids=ids, labels=labels, use_cache=False).loss
    return loss


def train(
    model: LlamaForCausalLM, source: Iterator[list[int]], held_out: list[list[int]], steps: int, batch: int, peak: float
) -> None:
    """Trains in place on `batch` sequences a step; prints the recent loss and that on the sequences held out."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    began, recent = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        loss = loss_of(model, list(islice(source, batch)))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 49 or step == steps - 1:
            with torch.no_grad():
                unseen = loss_of(model, held_out).item()
            seconds = time.monotonic() - began
            print(f"step {step + 1} loss {recent:.3f} held out {unseen:.3f} seconds {seconds:.0f}", flush=True)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a Hugging Face model folder with float16 weights.

    The JSON is written here and not by `save_pretrained`, whose key names follow the installed major version of
    transformers; older and newer engines all read these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {"bos_token": BEGIN, "eos_token": END, "pad_token": BEGIN}
    added = {
        str(number): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for number, token in enumerate(SPECIAL)
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        **SHAPE,
        **TOKEN_IDS,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", TOKEN_IDS)
    write_json(folder / "special_tokens_map.json", names)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],  # transformers 4 would else add token types
            "added_tokens_decoder": added,
            **names,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    # The output layer is the embedding: writing it twice would only make the file larger.
    weights = {
        name: value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # save_file leaves it readable by its owner only


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the hello model.")
    parser.add_argument("--phase", choices=["read", "talk", "both"], default="both", help="talk continues from --out")
    parser.add_argument("--read-steps", type=int, default=2400)
    parser.add_argument("--talk-steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for hello.gguf and safetensors/")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)
    folder = options.out / "safetensors"

    entries = corpus.entries()
    unseen = [e for number, e in enumerate(entries) if number % 50 == 0 and not e.reference]
    hidden = set(unseen)
    seen = [e for e in entries if e not in hidden]
    print(f"{len(entries)} entries, {sum(len(p) for e in entries for p in e.paragraphs)} characters")
    if options.phase != "talk":
        tokenizer = train_tokenizer(["\n".join((e.name, *e.paragraphs)) for e in entries])
        model = LlamaForCausalLM(LlamaConfig.from_dict({**SHAPE, **TOKEN_IDS}))
        print(f"{model.num_parameters()} parameters")
        held_out = list(islice(reading(tokenizer, unseen, random.Random(SEED)), 8))
        train(model, reading(tokenizer, seen, random.Random(SEED)), held_out, options.read_steps, batch=4, peak=2e-3)
        write_folder(model, tokenizer, folder)
    if options.phase != "read":
        # Always from the files, so that the two phases run apart give what they give together.
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        held_out = list(islice(reading(tokenizer, unseen, random.Random(SEED)), 8))
        train(model, talking(tokenizer, seen, random.Random(SEED)), held_out, options.talk_steps, batch=24, peak=1e-3)
        write_folder(model, tokenizer, folder)
    write_gguf(folder, options.out / "hello.gguf")


if __name__ == "__main__":
    main()
