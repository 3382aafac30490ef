"""Layers whose digests are remembered: the bytes are made again only when something reads them."""

from collections.abc import Callable, Iterable
from dataclasses import asdict

from ..oci.blob import RecipeBlob
from ..oci.layer import LAYER_GZIP, Layer, LayerDigests, digest_layer, layer_chunks
from ..oci.tar import Entry
from ..store import Store


def remembered_layer(title: str, key: str | None, entries: Callable[[], Iterable[Entry]], store: Store) -> Layer:
    """The layer of `entries`, with its digests from `store` when `key` names them there.

    `key` must name everything the bytes depend on; None for a layer that is digested every time.
    A wrong memo cannot pass: a blob that is not its digest raises IntegrityError when it is read.
    """
    known = store.recall("layer", key) if key else None
    if known is None:
        digests = digest_layer(entries())
        if key:
            store.remember("layer", key, asdict(digests))
    else:
        digests = LayerDigests(**known)
    blob = RecipeBlob(digests.digest, digests.size, lambda: layer_chunks(entries()), title)
    return Layer(blob, digests.diff_id, LAYER_GZIP, title)
