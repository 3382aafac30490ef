"""How many parameters a decoder has, by what becomes of them: quantized or kept, split over GPUs or on each of them."""

from dataclasses import dataclass

from .shape import Shape


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters of all layers together.

    `split` are matrices of attention and MLP, `whole` matrices that tensor parallelism leaves whole on every GPU (the
    projections into a latent space), `experts` the matrices of the experts that a token may take, of which `idle` are
    not taken. `kept` are norms, biases and routers: vectors and small matrices, which no method quantizes and every
    GPU holds. `head` is 0 where it is the embedding.
    """

    split: int
    whole: int
    experts: int
    idle: int
    kept: int
    embedding: int
    head: int

    @property
    def total(self) -> int:
        return self.split + self.whole + self.experts + self.kept + self.embedding + self.head

    @property
    def active(self) -> int:
        """Parameters that one token meets."""
        return self.total - self.idle


def count_parameters(shape: Shape) -> Parameters:
    """The parameters of a decoder of this shape, as transformers builds it."""
    family, experts = shape.family, shape.experts
    attention, whole, kept = _attention(shape)
    matrices = 3 if family.gated else 2
    routed = experts.layers if experts else 0
    dense = (shape.layers - routed) * matrices * shape.hidden * shape.inner
    split, of_experts, idle = shape.layers * attention + dense, 0, 0
    kept = shape.layers * (kept + family.norms * _norm(shape)) + _norm(shape)
    if family.mlp_bias:
        kept += (shape.layers - routed) * (shape.hidden + (matrices - 1) * shape.inner)
    if experts is not None:
        split += routed * matrices * shape.hidden * experts.shared
        one = matrices * shape.hidden * experts.width
        of_experts = routed * experts.count * one
        idle = routed * (experts.count - experts.used) * one
        router = shape.hidden * experts.count + (shape.hidden if family.shared_gate else 0)
        biases = experts.count * (1 + shape.hidden + (matrices - 1) * experts.width) if family.expert_bias else 0
        kept += routed * (router + biases)
    embedding = shape.vocabulary * shape.hidden
    kept += shape.vocabulary if family.head_bias else 0
    return Parameters(split, shape.layers * whole, of_experts, idle, kept, embedding, 0 if shape.tied else embedding)


def _attention(shape: Shape) -> tuple[int, int, int]:
    """One layer's matrices that are split, those that are not, and its biases and norms of heads."""
    out = shape.heads * shape.value_dim * shape.hidden
    if (latent := shape.latent) is not None:
        queries = shape.heads * shape.head_dim
        expand = latent.rank * shape.heads * (latent.nope + shape.value_dim)
        into = shape.hidden * (latent.rank + latent.rope)
        kept = latent.rank
        if not latent.query_rank:
            return shape.hidden * queries + expand + out, into, kept
        into += shape.hidden * latent.query_rank
        return latent.query_rank * queries + expand + out, into, kept + latent.query_rank
    wide = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    family, kept = shape.family, 0
    kept += wide if family.qkv_bias or shape.biased else 0
    kept += shape.hidden if family.out_bias or shape.biased else 0
    kept += 2 * shape.head_dim if family.head_norms else 0
    kept += shape.heads if family.sinks else 0
    return shape.hidden * wide + out, 0, kept


def _norm(shape: Shape) -> int:
    return shape.hidden * (2 if shape.family.norm_bias else 1)
