"""Digests are remembered, and a wrong memory cannot pass."""

import pytest

from packager.errors import IntegrityError
from packager.image.layers import LayerRecipe, remembered_layer
from packager.image.verify import Verdict, compare, read_through
from packager.oci.content import InlineContent
from packager.oci.image import ImageConfig, make_image
from packager.oci.layer import digest_layer, make_layer
from packager.oci.tar import Entry
from packager.store import Store


class Recipe:
    """Entries, and how often they were asked for."""

    def __init__(self, data=b"data"):
        self.data = data
        self.made = 0

    def __call__(self):
        self.made += 1
        return [Entry("app/file", content=InlineContent(self.data))]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_bytes_are_made_once_for_the_digest_and_when_they_are_read(store):
    recipe = Recipe()
    first = remembered_layer(LayerRecipe("title", "key", recipe), store)
    assert recipe.made == 1
    again = remembered_layer(LayerRecipe("title", "key", recipe), store)
    assert recipe.made == 1
    assert (again.digest, again.size, again.diff_id, again.title) == (
        first.digest,
        first.size,
        first.diff_id,
        "title",
    )
    made = digest_layer(recipe())
    assert (made.digest, made.size, made.diff_id) == (again.digest, again.size, again.diff_id)
    read_through(again)
    assert recipe.made == 3


def test_without_a_key_nothing_is_remembered(store):
    recipe = Recipe()
    for _ in range(2):
        remembered_layer(LayerRecipe("title", None, recipe), store)
    assert recipe.made == 2
    assert not (store.root / "memo").exists()


@pytest.mark.parametrize("memo", [None, [], {}, {"digest": 1}, "x", {"digest": "a", "size": "1", "diff_id": "b"}])
def test_a_memo_of_another_version_is_none(store, memo):
    recipe = Recipe()
    first = remembered_layer(LayerRecipe("title", "key", recipe), store)
    store.remember("layer", "key", memo)
    assert remembered_layer(LayerRecipe("title", "key", recipe), store).digest == first.digest
    assert recipe.made == 2


def test_another_recipe_under_the_key_is_found_when_it_is_read(store):
    remembered_layer(LayerRecipe("title", "key", Recipe()), store)
    wrong = remembered_layer(LayerRecipe("title", "key", Recipe(b"dada")), store)
    with pytest.raises(IntegrityError) as caught:
        read_through(wrong)
    assert caught.value.problems[0].where == "title"


def image(*contents, env=None):
    layers = [
        make_layer([Entry("app/file", content=InlineContent(data))], title=f"layer {number}")
        for number, data in enumerate(contents, 1)
    ]
    return make_image(ImageConfig("amd64", env=env or {}), layers)


class TestCompare:
    def test_the_same_bytes(self):
        assert compare(image(b"a"), image(b"a")) == Verdict("manifest")

    def test_layers_compressed_again(self):
        ours, theirs = image(b"a"), image(b"a")
        other = type(theirs)(theirs.manifest + b"\n", theirs.config, theirs.layers)
        assert compare(ours, other) == Verdict("config")

    def test_another_layer_is_named(self):
        verdict = compare(image(b"a", b"b"), image(b"a", b"c"))
        assert verdict.identity == "different"
        (difference,) = verdict.differences
        assert difference.startswith("layer 2 (layer 2) has diff id sha256:")

    def test_another_number_of_layers(self):
        assert compare(image(b"a"), image(b"a", b"b")).differences == ("2 layers, expected 1",)

    def test_of_many_differences_the_first_are_named(self):
        many = compare(image(*[b"%d" % n for n in range(9)]), image(*[b"x%d" % n for n in range(9)])).differences
        assert [one.partition(" (")[0] for one in many] == ["layer 1", "layer 2", "layer 3", "6 more"]

    def test_another_configuration(self):
        assert compare(image(b"a"), image(b"a", env={"A": "1"})).differences == ("configuration differs in Env",)
