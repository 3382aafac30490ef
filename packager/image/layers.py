"""Layers whose digests are remembered: the bytes are made again only when something reads them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

from ..manifest import decode
from ..oci.blob import FileBlob, OnBytes, RecipeBlob, write_blob
from ..oci.layer import LAYER_GZIP, Layer, LayerDigests, LayerPass, layer_chunks
from ..oci.parallel import until
from ..oci.tar import Entry
from ..store import Store

Entries = Callable[[], Iterable[Entry]]


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """How to make a layer. `key` names everything its bytes depend on; None: digest it every time.

    `about` is roughly the size of its blob in bytes, for progress.
    """

    title: str
    key: str | None
    entries: Entries
    about: int = 0


def remembered_layer(
    recipe: LayerRecipe,
    store: Store,
    *,
    blobs: Path | None = None,
    on_bytes: OnBytes | None = None,
    stop: Event | None = None,
) -> Layer:
    """The layer of `recipe`, with its digests from `store` when they are remembered there, else made once for them.

    What is made for its digests is kept in the folder `blobs`, when one is given: then all that is in the layer is
    read once. Making it tells `on_bytes`, and ends in StoppedError once `stop` is set.
    A wrong memo cannot pass: a blob that is not its digest raises IntegrityError when it is read.
    """
    digests = remembered_digests(recipe.key, store) if recipe.key else None
    path = None
    if digests is None:
        once = LayerPass(recipe.entries())
        chunks = _counted(until(stop or Event(), once), recipe, on_bytes)
        if blobs is None:
            _exhaust(chunks)
        else:
            path = write_blob(chunks, blobs, lambda: once.digests.digest)
        digests = once.digests
        if recipe.key:
            store.remember("layer", recipe.key, asdict(digests))
    if path is not None:
        return Layer(FileBlob(path, digests.digest, digests.size), digests.diff_id, LAYER_GZIP, recipe.title)
    blob = RecipeBlob(digests.digest, digests.size, lambda: layer_chunks(recipe.entries()), recipe.title)
    return Layer(blob, digests.diff_id, LAYER_GZIP, recipe.title)


def _counted(chunks: Iterable[bytes], recipe: LayerRecipe, on_bytes: OnBytes | None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if on_bytes is not None:
            on_bytes(recipe.title, min(done, recipe.about or done), recipe.about)


def _exhaust(chunks: Iterable[bytes]) -> None:
    for _ in chunks:
        pass


def remembered_digests(key: str, store: Store) -> LayerDigests | None:
    """What `store` remembers of the layer `key`; None too for a memo that another version wrote."""
    try:
        found: LayerDigests = decode(LayerDigests, store.recall("layer", key))
    except ValueError:
        return None
    return found
