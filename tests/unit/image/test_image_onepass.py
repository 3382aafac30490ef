"""What is made for its digests is kept for the layout, and nothing is read twice."""

from pathlib import Path
from threading import Event

import pytest

from packager.errors import ImageError, IntegrityError
from packager.image.layers import LayerRecipe, remembered_layer
from packager.oci.blob import write_blob
from packager.oci.content import FileContent, InlineContent
from packager.oci.image import ImageConfig, make_image
from packager.oci.layer import LayerPass, layer_chunks
from packager.oci.layout import blobs_folder, read_layout, write_layout
from packager.oci.parallel import StoppedError
from packager.oci.tar import Entry
from packager.store import Store


class Recipe:
    """Entries, and how often they were asked for."""

    def __init__(self, name: str, data: bytes = b"data") -> None:
        self.name = name
        self.data = data
        self.made = 0

    def __call__(self) -> list[Entry]:
        self.made += 1
        return [Entry(self.name, content=InlineContent(self.data))]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "image.oci"


def test_a_pass_gives_the_blob_and_its_digests() -> None:
    entries = Recipe("app/file", bytes(range(256)) * 9000)()
    once = LayerPass(entries)
    assert b"".join(once) == b"".join(layer_chunks(entries))


def test_a_cold_layout_reads_everything_once(store: Store, layout: Path) -> None:
    recipes = [Recipe("app/one"), Recipe("app/two", b"")]
    blobs = blobs_folder(layout)
    layers = [remembered_layer(LayerRecipe(one.name, one.name[4:], one), store, blobs=blobs) for one in recipes]
    image = make_image(ImageConfig("amd64"), layers)
    write_layout(image, layout)
    assert [one.made for one in recipes] == [1, 1]
    assert read_layout(layout, verify=True).manifest_digest == image.manifest_digest
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in blobs.iterdir())


def test_it_is_the_image_that_two_passes_make(store: Store, layout: Path, tmp_path: Path) -> None:
    kept = remembered_layer(LayerRecipe("x", "a", Recipe("x")), store, blobs=blobs_folder(layout))
    made = remembered_layer(LayerRecipe("x", "b", Recipe("x")), store)
    known = remembered_layer(LayerRecipe("x", "a", Recipe("x")), store, blobs=blobs_folder(tmp_path / "other"))
    assert kept.digest == made.digest == known.digest
    assert b"".join(kept.blob.open()) == b"".join(made.blob.open()) == b"".join(known.blob.open())
    assert list(blobs_folder(tmp_path / "other").iterdir()) == [], "a remembered layer is not made"


def test_a_base_that_has_the_same_layer_may_share_it(store: Store, layout: Path) -> None:
    blobs = blobs_folder(layout)
    layers = [remembered_layer(LayerRecipe(title, None, Recipe("x")), store, blobs=blobs) for title in "ab"]
    write_layout(make_image(ImageConfig("amd64"), layers), layout)
    assert len(read_layout(layout, verify=True).layers) == 2


def test_blobs_of_another_image_are_no_empty_folder(store: Store, layout: Path) -> None:
    remembered_layer(LayerRecipe("x", None, Recipe("x")), store, blobs=blobs_folder(layout))
    other = remembered_layer(LayerRecipe("y", None, Recipe("y")), store)
    with pytest.raises(ImageError):
        write_layout(make_image(ImageConfig("amd64"), [other]), layout)
    assert not (layout / "index.json").exists()


def test_progress_ends_at_what_was_expected(store: Store, layout: Path) -> None:
    told: list[tuple[str, int, int]] = []
    recipe = LayerRecipe("big", None, Recipe("x", bytes(3 << 20)), about=2 << 20)
    remembered_layer(recipe, store, blobs=blobs_folder(layout), on_bytes=lambda *row: told.append(row))
    assert told[-1] == ("big", 2 << 20, 2 << 20)
    assert len(told) > 1


@pytest.mark.parametrize("kept", [True, False])
def test_stopped_or_broken_nothing_is_left(store: Store, layout: Path, tmp_path: Path, kept: bool) -> None:
    blobs = blobs_folder(layout)
    stop = Event()
    stop.set()
    with pytest.raises(StoppedError):
        remembered_layer(LayerRecipe("x", "key", Recipe("x")), store, blobs=blobs if kept else None, stop=stop)
    (tmp_path / "short").write_bytes(b"abc")
    short = LayerRecipe("x", "key", lambda: [Entry("x", content=FileContent(tmp_path / "short", 4))])
    with pytest.raises(IntegrityError):
        remembered_layer(short, store, blobs=blobs if kept else None)
    assert list(blobs.iterdir()) == []
    assert store.recall("layer", "key") is None


def test_a_blob_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    def chunks():
        yield b"some"
        assert [path.name[:5] for path in tmp_path.iterdir()] == [".new-"]

    assert write_blob(chunks(), tmp_path, lambda: "sha256:name") == tmp_path / "name"
    assert (tmp_path / "name").read_bytes() == b"some"
