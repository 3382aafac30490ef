"""Rows that come and go give each request the tokens that the library's `generate` gives it alone."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from packager.runtime.engines.transformers_rows import ROOM, Network, Rows

COMMON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": None,
}
JOINING = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "phi": {},
    "gemma2": {"head_dim": 16, "sliding_window": 8},  # soft caps, and every other layer slides
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},  # learned positions
    "bloom": {"n_layer": 2, "n_head": 4},  # no positions, but the mask
    "gpt_oss": {"num_local_experts": 4, "head_dim": 16, "sliding_window": 8},
}
ALONE = {
    "mamba": {"state_size": 8},
    "qwen3_next": {
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention"],
    },
}
TOKENS = 16


def network(kind: str) -> Network:
    config = AutoConfig.for_model(kind, **COMMON | (JOINING | ALONE).get(kind, {}))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(3)
    for tensor in model.parameters():
        if tensor.dim() > 1:  # far from zero, so that no choice hangs on the last bit
            torch.nn.init.normal_(tensor, 0, 0.15, generator=draw)
    return Network.of(model)


def prompt(length: int) -> list[int]:
    return torch.randint(1, 128, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def generated(model: Any, tokens: list[int]) -> list[int]:
    ids = torch.tensor([tokens])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
    return whole[0, len(tokens) :].tolist()


class Walk:
    """One request: its prompt, and the tokens that rows gave it."""

    def __init__(self, network: Network, length: int, piece: int) -> None:
        self.prompt = prompt(length)
        self.rows = Rows(network)
        for at in range(0, length, piece):
            logits = self.rows.forward([self.prompt[at : at + piece]])
        self.tokens = [int(logits.argmax())]


def step(rows: Rows, walks: list[Walk], count: int) -> None:
    for _ in range(count):
        chosen = rows.forward([[walk.tokens[-1]] for walk in walks]).argmax(-1).tolist()
        for walk, token in zip(walks, chosen, strict=True):
            walk.tokens.append(token)


@pytest.mark.parametrize("kind", JOINING)
def test_rows_join_and_leave(kind: str) -> None:
    net = network(kind)
    assert net.joins
    first = Walk(net, 5, piece=5)
    step(first.rows, [first], 3)
    second = Walk(net, 23, piece=10)  # longer than all that is there, and in pieces
    rows = Rows.joined([(first.rows, [0]), (second.rows, [0])])
    step(rows, [first, second], 4)
    third = Walk(net, 12, piece=7)
    rows = Rows.joined([(rows, [0, 1]), (third.rows, [0])])
    step(rows, [first, second, third], 3)
    rows = Rows.joined([(rows, [0, 2])])  # the longest leaves
    step(rows, [first, third], 3)
    for walk in (first, second, third):
        assert walk.tokens == generated(net.model, walk.prompt)[: len(walk.tokens)]


@pytest.mark.parametrize("kind", ALONE)
def test_a_state_that_is_no_list_of_columns_stays_alone(kind: str) -> None:
    net = network(kind)
    assert not net.joins
    walk = Walk(net, 12, piece=12)
    step(walk.rows, [walk], TOKENS - 1)
    assert walk.tokens == generated(net.model, walk.prompt)


def test_layers_grow_past_their_room() -> None:
    net = network("llama")
    walk = Walk(net, ROOM - 5, piece=100)
    step(walk.rows, [walk], TOKENS - 1)
    assert walk.tokens == generated(net.model, walk.prompt)
    assert walk.rows.cache.layers[0].keys.shape[2] == 2 * ROOM


def test_a_columns_bytes() -> None:
    net = network("llama")
    heads, width, layers, keys_and_values, float32 = 2, 16, 2, 2, 4
    assert Walk(net, 5, piece=5).rows.token_bytes() == heads * width * layers * keys_and_values * float32


def test_a_model_without_a_cache_is_refused() -> None:
    """RWKV takes any words, and would forget all tokens but the last."""
    with pytest.raises(ValueError, match="takes no cache"):
        network("rwkv")
