"""What keys and values take: two vectors a layer and token, in as many heads as share them."""

from .engines import Memory
from .formats import BYTES, CACHES, CacheFormat
from .shape import Shape


def cache_format(name: str, *, engine: str, dtype: str) -> CacheFormat:
    """The format behind an engine's word; `auto` is 16 bits in llama.cpp, and `dtype` elsewhere."""
    if name == "auto":
        return CacheFormat(2 if engine == "llama_cpp" else BYTES[dtype])
    return CACHES[engine][name]


def token_bytes(shape: Shape, form: CacheFormat, tensor: int) -> float:
    """Bytes of one token in one layer, on each of `tensor` GPUs that share the layer.

    A head is whole on a GPU: with more GPUs than heads of keys, some hold the same. A latent is on every GPU.
    """
    if shape.latent is not None:
        return (shape.latent.rank + shape.latent.rope) * form.number + 2 * form.head
    heads = -(-shape.kv_heads // tensor)
    return heads * ((shape.head_dim + shape.value_dim) * form.number + 2 * form.head)


def held_tokens(shape: Shape, memory: Memory, context: int) -> int:
    """Tokens that a request of `context` tokens holds, over all layers: those with a window hold no more than it."""
    whole = -(-context // memory.block) * memory.block
    held = 0
    for window in shape.windows:
        if window is None or memory.beyond is None:
            held += whole
        else:
            seen = min(window - 1 + memory.beyond, context)
            held += min(whole, (-(-seen // memory.block) + 1) * memory.block)
    return held
