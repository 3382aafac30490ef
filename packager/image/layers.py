"""Layers whose digests are remembered: the bytes are made again only when something reads them."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from ..manifest import decode
from ..oci.blob import RecipeBlob
from ..oci.layer import LAYER_GZIP, Layer, LayerDigests, digest_layer, layer_chunks
from ..oci.tar import Entry
from ..store import Store

Entries = Callable[[], Iterable[Entry]]


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """How to make a layer. `key` names everything its bytes depend on; None: digest it every time."""

    title: str
    key: str | None
    entries: Entries


def remembered_layer(recipe: LayerRecipe, store: Store) -> Layer:
    """The layer of `recipe`, with its digests from `store` when they are remembered there.

    A wrong memo cannot pass: a blob that is not its digest raises IntegrityError when it is read.
    """
    digests = remembered_digests(recipe.key, store) if recipe.key else None
    if digests is None:
        digests = digest_layer(recipe.entries())
        if recipe.key:
            store.remember("layer", recipe.key, asdict(digests))
    blob = RecipeBlob(digests.digest, digests.size, lambda: layer_chunks(recipe.entries()), recipe.title)
    return Layer(blob, digests.diff_id, LAYER_GZIP, recipe.title)


def remembered_digests(key: str, store: Store) -> LayerDigests | None:
    """What `store` remembers of the layer `key`; None too for a memo that another version wrote."""
    try:
        found: LayerDigests = decode(LayerDigests, store.recall("layer", key))
    except ValueError:
        return None
    return found
