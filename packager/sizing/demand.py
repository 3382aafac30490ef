"""Does it fit: what one GPU has to hold of weights, cache and workspace, against what it has."""

from dataclasses import dataclass, field, replace

from ..lock.model import ModelFacts
from ..recipes.gpus import GPUS
from .cache import cache_format, held_tokens, token_bytes
from .engines import CONTEXT, ENGINES, Memory
from .formats import BYTES, Width
from .parameters import Parameters, count_parameters
from .shape import Shape


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights as they are stored, and as the engine holds them.

    `stored` is how they are quantized, None when they are not; `files` their bytes, where these are known.
    `loaded` is how they are quantized in memory; `dtype` is the number format of the rest there, `stored_dtype` in the
    files.
    """

    stored: Width | None
    stored_dtype: str
    files: int | None
    loaded: Width | None
    dtype: str

    @property
    def as_stored(self) -> bool:
        """Whether memory holds what the files do."""
        return self.loaded == self.stored and BYTES[self.dtype] == BYTES[self.stored_dtype]


@dataclass(frozen=True, slots=True)
class Place:
    """The GPUs, by their name in the spec, and how the model is shared among them.

    `share` is the part of a GPU's memory that the engine may take, `cache_share` the cache's part of what the weights
    leave, where the spec says one. `cache_gib` is a cache of a fixed size; `eager` goes
    without CUDA graphs. `on_gpu` is the part of the layers that are on a GPU at all.
    """

    gpu: str | None
    tensor: int = 1
    pipeline: int = 1
    share: float = 1.0
    cache_share: float | None = None
    cache_gib: float | None = None
    eager: bool = False
    on_gpu: float = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked: a model, an engine, and how many tokens of how many requests have to be in memory at once.

    `slots` are requests that are computed together, `piece` the tokens of prompts that are. `quantization` is the spec's
    word, `model` what the weights say themselves.
    """

    engine: str
    shape: Shape
    weights: Weights
    place: Place
    context: int
    requests: int
    slots: int
    piece: int
    kv_cache: str = "auto"
    quantization: str = "none"
    model: ModelFacts = field(default_factory=ModelFacts)

    @property
    def memory(self) -> Memory:
        return ENGINES[self.engine]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes, on the GPU that has to hold most. `gpu` and `room` are None where no GPU is named.

    `token` is a token's keys and values in all layers, `cache` what is asked for, `room` what is left for it, and
    `tokens` how many of requests of the asked length fit there. `workspace` is for CUDA's context, activations, logits
    and graphs: an allowance.
    """

    weights: int
    token: float
    cache: int
    workspace: int
    gpu: int | None
    room: int | None
    tokens: int | None

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.workspace

    @property
    def fits(self) -> bool:
        return self.room is None or self.cache <= self.room


def measure(demand: Demand) -> Sizes:
    """What `demand` takes of each GPU (of the machine, where none is named)."""
    shape, place, memory = demand.shape, demand.place, demand.memory
    layers = -(-shape.layers // place.pipeline) / shape.layers * place.on_gpu
    form = cache_format(demand.kv_cache, engine=demand.engine, dtype=demand.weights.dtype)
    each = token_bytes(shape, form, place.tensor)
    request = held_tokens(shape, memory, demand.context) * each * layers
    cache = int(demand.requests * request)
    weights, workspace = _weights(demand), _workspace(demand) + CONTEXT
    token = each * shape.layers * layers
    if place.gpu is None:
        return Sizes(weights, token, cache, workspace - CONTEXT, None, None, None)
    gpu = GPUS[place.gpu].bytes
    free = min(place.share * gpu, gpu - CONTEXT) - weights
    # Where the workspace does not come first, it has to do with what the cache's share leaves.
    first = workspace - CONTEXT if memory.workspace_first else 0
    room = (free - first) * (place.cache_share or memory.share)
    if place.cache_gib is not None:
        given = int(place.cache_gib * 2**30)
        whole = gpu - weights - workspace
        cache, room = (max(cache, given), whole) if given > whole else (cache, given)
    tokens = int(max(0.0, room) / request * demand.context) if request else None
    return Sizes(weights, token, cache, workspace, gpu, int(room), tokens)


def weights_bytes(demand: Demand) -> int:
    """Bytes of all the weights as they are in memory, on whichever GPUs."""
    return _weights(replace(demand, place=replace(demand.place, tensor=1, pipeline=1, on_gpu=1.0)))


def _weights(demand: Demand) -> int:
    weights, shape, place = demand.weights, demand.shape, demand.place
    counted = count_parameters(shape)
    part = -(-shape.layers // place.pipeline) / shape.layers
    here = _bytes(counted, weights.loaded, BYTES[weights.dtype], place.tensor, part)
    if weights.files is None:
        return int(here * place.on_gpu)
    if weights.as_stored:
        # The files are what there is, and say it better than any count: only the division is taken from that.
        whole = _bytes(counted, weights.loaded, BYTES[weights.dtype], 1, 1.0)
        return int(weights.files * here / whole * place.on_gpu)
    # What the files have beyond the language model (eyes, ears, heads) is not converted.
    beyond = weights.files - _bytes(counted, weights.stored, BYTES[weights.stored_dtype], 1, 1.0)
    return int((here + max(0.0, beyond)) * place.on_gpu)


def _bytes(counted: Parameters, width: Width | None, number: int, tensor: int, part: float) -> float:
    """Bytes on one of `tensor` GPUs that share `part` of the layers, with an end of the model where there are two."""
    narrow = width.bits / 8 if width else number
    linear = narrow if width is None or width.linear else number
    experts = narrow if width is None or width.experts else number
    ends = narrow if width is None or width.ends else number
    layers = counted.split * linear / tensor + counted.whole * linear + counted.experts * experts / tensor
    layers += counted.kept * number
    both = counted.embedding + counted.head
    return layers * part + (both if part == 1 else counted.embedding) * ends / tensor


def _workspace(demand: Demand) -> int:
    """Activations of one piece of prompts, the logits of each request, CUDA graphs: an allowance.

    For each token four vectors as wide as the model, three as its MLP (four where a MLP without a gate has GELU in steps),
    sine and cosine of its position, and two numbers of 64 bits: what transformers 5.17 was seen to take. Logits in
    float32, and once more for sampling.
    """
    shape, memory = demand.shape, demand.memory
    tokens = min(demand.piece, demand.context * demand.slots)
    inner = shape.experts.width * shape.experts.used if shape.experts else shape.inner
    number = BYTES[demand.weights.dtype]
    matrices = 3 if shape.family.gated else 4
    activations = tokens * ((4 * shape.hidden + matrices * inner + 2 * shape.head_dim) * number + 16)
    logits = 2 * demand.slots * shape.vocabulary * 4
    return activations + logits + (0 if demand.place.eager or demand.place.gpu is None else memory.graphs)
